"""The OCI configuration, and the users in it: what follows from a container, without starting one."""

from __future__ import annotations

import json
import os
import stat
import timeit
from pathlib import Path
from typing import Any

import builders
import pytest
from hypothesis import given
from hypothesis import strategies as st

from portlayer.model.errors import InvalidArgument
from portlayer.model.execution import Capabilities, ContainerSpec, Resources, replace
from portlayer.substrates.linux import capabilities, kernel, probe, users
from portlayer.substrates.linux.host import checks
from portlayer.substrates.linux.runtime import Crun, Runc, Runtime
from portlayer.substrates.linux.spec import INIT, Filter, Host, Volume, build, environment
from portlayer.substrates.linux.users import User

HOST = Host(open_files=20_000, processes=-1, oom_score=0, counts_swap=True)
ROOT = User(uid=0, gid=0, home="/root")
IN_OPEN = 0x20  # of inotify(7)
FILES = {f"/etc/{name}": f"/kept/{name}" for name in ("hosts", "resolv.conf", "hostname")}


def config(container: ContainerSpec, user: User = ROOT, host: Host = HOST, **more: Any) -> Any:
    fields = {"rootfs": "/rootfs", "files": FILES, "cgroup": "/group", "seccomp": Filter(bpf="AAAA"), **more}
    return json.loads(build(container, user, capabilities.DEFAULT, host=host, **fields))


def mounts(of: Any) -> dict[str, Any]:
    return {mount["destination"]: mount for mount in of["mounts"]}


def test_what_a_container_is_given() -> None:
    container = builders.container("sh", "-c", "true", hostname="gibson", user="cookie", cwd="/tmp")
    made = config(container, User(uid=1000, gid=1000, groups=(2000,), home="/home"))
    assert made["process"]["args"] == ["sh", "-c", "true"]
    assert made["process"]["user"] == {"uid": 1000, "gid": 1000, "additionalGids": [2000]}
    assert made["process"]["cwd"] == "/tmp"
    assert made["process"]["noNewPrivileges"] is True
    assert len(made["process"]["capabilities"]["effective"]) == 14
    assert "ambient" not in made["process"]["capabilities"]
    assert "inheritable" not in made["process"]["capabilities"]
    assert made["hostname"] == "gibson"
    assert made["root"] == {"path": "/rootfs", "readonly": False}
    assert made["linux"]["cgroupsPath"] == "/group"
    assert {one["type"] for one in made["linux"]["namespaces"]} == {"pid", "network", "ipc", "uts", "mount", "cgroup"}
    assert mounts(made)["/etc/hosts"]["source"] == "/kept/hosts"
    assert made["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}


def test_limits() -> None:
    limited = builders.container(resources=Resources(cpus=0.5, memory_bytes=1 << 20, pids=7))
    resources = config(limited)["linux"]["resources"]
    assert resources["cpu"] == {"quota": 50_000, "period": 100_000}
    assert resources["memory"] == {"limit": 1 << 20, "swap": 1 << 20}
    assert resources["pids"] == {"limit": 7}
    without_swap = config(limited, host=replace(HOST, counts_swap=False))
    assert without_swap["linux"]["resources"]["memory"] == {"limit": 1 << 20}
    assert set(config(builders.container())["linux"]["resources"]) == {"devices"}


def test_never_more_than_the_host_allows() -> None:
    made = config(builders.container(), host=replace(HOST, processes=512, oom_score=300))["process"]
    assert made["rlimits"] == [
        {"type": "RLIMIT_NOFILE", "soft": 20_000, "hard": 20_000},
        {"type": "RLIMIT_NPROC", "soft": 512, "hard": 512},
    ]
    assert made["oomScoreAdj"] == 300
    assert config(builders.container(), host=replace(HOST, oom_score=-999))["process"]["oomScoreAdj"] == 0


def test_the_filter_in_both_shapes() -> None:
    compiled = config(builders.container(), seccomp=Crun("/crun").filter(capabilities.DEFAULT))
    assert compiled["annotations"]["run.oci.seccomp_bpf_data"]
    assert "seccomp" not in compiled["linux"]
    listed = config(builders.container(), seccomp=Runc("/runc").filter(capabilities.DEFAULT))
    assert listed["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "run.oci.seccomp_bpf_data" not in listed["annotations"]


def test_volumes_from_the_outermost_in_and_before_our_files() -> None:
    volumes = [
        Volume(source="/c", destination="/data/deep/er", read_only=False),
        Volume(source="/a", destination="/data", read_only=True),
        Volume(source="/b", destination="/etc/hosts", read_only=False),
    ]
    made = config(builders.container(), volumes=volumes)
    order = [mount["destination"] for mount in made["mounts"] if mount["type"] == "bind"]
    assert order == ["/data", "/etc/hosts", "/data/deep/er", "/etc/resolv.conf", "/etc/hostname"]
    assert "ro" in mounts(made)["/data"]["options"]
    assert mounts(made)["/etc/hosts"]["source"] == "/b"


def test_an_init_comes_first() -> None:
    made = config(builders.container("sh", init=True), init="/usr/bin/catatonit")
    assert made["process"]["args"] == [INIT, "--", "sh"]
    assert mounts(made)[INIT]["source"] == "/usr/bin/catatonit"


def test_the_environment() -> None:
    container = builders.container(hostname="gibson", env=["A=1", "HOME=/elsewhere", "A=2", "B=a=b", "PATH=/mine"])
    assert environment(container, ROOT) == ["PATH=/mine", "HOSTNAME=gibson", "A=2", "HOME=/elsewhere", "B=a=b"]
    plain = replace(builders.container(terminal=True), hostname="h", process=replace(container.process, env=()))
    assert environment(plain, ROOT)[1:] == ["HOSTNAME=h", "TERM=xterm", "HOME=/root"]
    assert environment(plain, ROOT)[0].startswith("PATH=/usr/local/sbin:")


def test_it_takes_no_time() -> None:
    container = builders.container("true")
    filter_ = Crun("/crun").filter(capabilities.DEFAULT)
    places = {"rootfs": "/rootfs", "files": FILES, "cgroup": "/group"}

    def once() -> None:
        build(container, ROOT, capabilities.DEFAULT, host=HOST, seccomp=filter_, **places)

    assert min(timeit.repeat(once, number=10, repeat=20)) / 10 < 0.0002


def test_capabilities() -> None:
    host = frozenset(capabilities.NAMES)
    assert capabilities.resolve(Capabilities(), host) == capabilities.DEFAULT
    assert capabilities.resolve(Capabilities(add=("net_admin",)), host) == capabilities.DEFAULT | {"CAP_NET_ADMIN"}
    assert capabilities.resolve(Capabilities(add=("ALL",)), host) == host
    assert capabilities.resolve(Capabilities(drop=("all",), add=("CAP_KILL",)), host) == {"CAP_KILL"}
    assert capabilities.resolve(Capabilities(), frozenset({"CAP_KILL", "CAP_SYSLOG"})) == {"CAP_KILL"}


PASSWD = (
    "root:x:0:0::/root:/bin/sh\ncookie:x:1000:1001::/home/cookie:/bin/sh\nbroken:x:1\nodd:x:x:y::/:\nempty:x:7:8:::\n"
)
GROUP = "root:x:0:\nbakers:x:2000:cookie,baker\neaters:x:2001:cookie\nodd:x:z:cookie\n"


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(PASSWD)
    (tmp_path / "etc" / "group").write_text(GROUP)
    return tmp_path


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", User(uid=0, gid=0, home="/root")),
        ("cookie", User(uid=1000, gid=1001, groups=(2000, 2001), home="/home/cookie")),
        ("1000", User(uid=1000, gid=1001, groups=(2000, 2001), home="/home/cookie")),
        ("cookie:bakers", User(uid=1000, gid=2000, home="/home/cookie")),
        ("cookie:5", User(uid=1000, gid=5, home="/home/cookie")),
        ("4321", User(uid=4321, gid=0)),
        ("4321:bakers", User(uid=4321, gid=2000)),
        ("empty", User(uid=7, gid=8)),
        (":bakers", User(uid=0, gid=2000, home="/root")),
    ],
)
def test_users(rootfs: Path, user: str, expected: User) -> None:
    assert users.resolve(str(rootfs), user) == expected


@pytest.mark.parametrize(
    "user", ["nobody", "broken", "odd", "cookie:nobody", "-1", "99999999999", "1000:99999999999", "१"]
)
def test_users_that_are_none(rootfs: Path, user: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        users.resolve(str(rootfs), user)
    assert caught.value.facts["pointer"] == "/process/user"


@given(st.text(max_size=40).filter(lambda text: "\0" not in text))
def test_any_user_is_found_or_refused(user: str) -> None:
    try:
        found = users.resolve(str(Path(__file__).parent), user)
    except InvalidArgument:
        return
    assert 0 <= found.uid < 1 << 31


def test_an_image_cannot_make_us_read_the_host(rootfs: Path, tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.write_text("evil:x:0:0::/:/bin/sh\n")
    inner = tmp_path / "inner"
    (inner / "etc").mkdir(parents=True)
    for link in (str(host), "../../host", "/../../host"):
        (inner / "etc" / "passwd").unlink(missing_ok=True)
        (inner / "etc" / "passwd").symlink_to(link)
        with pytest.raises(InvalidArgument):
            users.resolve(str(inner), "evil")


def test_an_image_cannot_make_us_wait(rootfs: Path) -> None:
    (rootfs / "etc" / "passwd").unlink()
    os.mkfifo(rootfs / "etc" / "passwd")
    assert users.resolve(str(rootfs), "5").uid == 5
    (rootfs / "etc" / "passwd").unlink()
    (rootfs / "etc" / "passwd").mkdir()
    assert users.resolve(str(rootfs), "5").uid == 5


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFIFO])
def test_what_an_image_has_for_a_file_is_not_opened_where_it_is_none(rootfs: Path, kind: int) -> None:
    """To open a device does something: a watchdog begins to count, and the host restarts; a tape is wound."""
    passwd = rootfs / "etc" / "passwd"
    passwd.unlink()
    os.mknod(passwd, kind | 0o666, os.makedev(1, 3))
    watch = kernel.inotify_init()
    kernel.inotify_add_watch(watch, str(passwd), IN_OPEN)
    try:
        assert users.resolve(str(rootfs), "5").uid == 5
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
    finally:
        os.close(watch)


def test_working_directories(rootfs: Path, tmp_path: Path) -> None:
    owner = User(uid=1000, gid=1001)
    users.make_directory(str(rootfs), "/a/b/c", owner)
    assert (rootfs / "a" / "b" / "c").stat().st_uid == 1000
    users.make_directory(str(rootfs), "/a/b/c", ROOT)
    assert (rootfs / "a" / "b" / "c").stat().st_uid == 1000
    (rootfs / "out").symlink_to("/a/b")
    users.make_directory(str(rootfs), "/out/d", owner)
    assert (rootfs / "a" / "b" / "d").is_dir()
    (rootfs / "escape").symlink_to("../../../../../../../..")
    users.make_directory(str(rootfs), "/escape/made", owner)
    assert (rootfs / "made").is_dir()
    for wrong in ("/etc/passwd", "/etc/passwd/x"):
        with pytest.raises(InvalidArgument):
            users.make_directory(str(rootfs), wrong, owner)


@pytest.mark.parametrize(
    ("runtime", "message", "code"),
    [
        (Crun(""), "executable file `nosuch` not found in $PATH: No such file or directory", 127),
        (Crun(""), "open executable: Permission denied", 126),
        (Crun(""), "open executable: Not a directory", 127),
        (Runc(""), 'level=error msg="runc create failed: exec: \\"nosuch\\": executable file not found in $PATH"', 127),
        (Runc(""), 'level=error msg="runc create failed: exec: \\"/x\\": stat /x: no such file or directory"', 127),
        (Runc(""), 'level=error msg="runc create failed: exec: \\"/etc\\": permission denied"', 126),
    ],
)
def test_what_runtimes_say_of_programs(runtime: Runtime, message: str, code: int) -> None:
    failure = runtime.refusal(message)
    assert failure is not None
    assert failure.exit_code == code
    assert not failure.reason.endswith('"')


@pytest.mark.parametrize(
    "message", ["", "mount `proc` to `proc`: Operation not permitted", "cgroups: cannot found cgroup mount"]
)
def test_other_words_are_failures_of_the_host(message: str) -> None:
    assert Crun("").refusal(message) is None
    assert Runc("").refusal(message) is None


def test_the_probe_s_program_runs(tmp_path: Path) -> None:
    program = tmp_path / "probe"
    probe._write_program(program)
    assert os.waitstatus_to_exitcode(os.spawnv(os.P_WAIT, program, ["probe"]) << 8) == 42


def test_this_host_has_what_is_needed() -> None:
    lacking = [check for check in checks() if check.needed and not check.ok]
    assert lacking == []
    assert all(check.ok or check.remedy for check in checks())
