"""The Linux substrate's processes beside what the conformance suite asks: the sandbox as it is seen from within, what
runtimes do wrong, and what is left when something dies at the wrong moment. As root, with real runtimes."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import builders
import pytest
from conformance.substrate_bench import Started
from linux import netlab
from linux.runlab import CGROUPS, RunLab

from portlayer.interfaces.substrate import Link, Observation, StartFailure
from portlayer.model.errors import InvalidArgument, ResourceExhausted, SubstrateFailed, Unavailable, Unsupported
from portlayer.model.execution import Capabilities, Process, Resources, replace
from portlayer.model.names import new_id
from portlayer.substrates.linux import process
from portlayer.substrates.linux.execution import LinuxExecution
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.runtime import Crun
from portlayer.substrates.linux.substrate import LinuxSubstrate

ABSENT = Observation(state="absent")
DEFAULT_CAPABILITIES = "00000000a80425fb"


@pytest.fixture(params=["crun", "runc"])
async def lab(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RunLab]:
    lab = RunLab(tmp_path, request.param)
    await lab.set_up()
    yield lab
    await lab.tear_down()


@pytest.fixture
async def crun(tmp_path: Path) -> AsyncIterator[RunLab]:
    lab = RunLab(tmp_path, "crun")
    await lab.set_up()
    yield lab
    await lab.tear_down()


SANDBOX = """
grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|SigBlk):' /proc/self/status
echo "cgroup: $(sed -n 's/^[0-9]*:memory:\\|^0:://p' /proc/self/cgroup | head -1)"
echo "timers: $(wc -c < /proc/timer_list)"
echo "keys: $(wc -c < /proc/keys)"
echo "firmware: $(ls /sys/firmware | wc -l)"
echo "sysctl: $( (echo 1 > /proc/sys/kernel/panic) 2>/dev/null && echo open || echo closed)"
echo "sysfs: $(touch /sys/x 2>/dev/null && echo open || echo closed)"
echo "mount: $(busybox mount -t tmpfs none /tmp 2>/dev/null && echo open || echo closed)"
echo "unshare: $(busybox unshare -m true 2>/dev/null && echo open || echo closed)"
echo "disk: $(busybox mknod /tmp/disk b 254 0 && cat /tmp/disk > /dev/null 2>&1 && echo open || echo closed)"
echo "files: $(ulimit -n)"
echo "score: $(cat /proc/self/oom_score_adj)"
echo "processes: $(ls -d /proc/[0-9]* | head -1)"
echo "null: $(ls -l /dev/null | cut -c1)"
echo "hosts: $(cat /etc/hosts | head -1 | tr -d ':')"
echo "name: $(cat /etc/hostname)"
"""


async def test_the_sandbox(lab: RunLab) -> None:
    script = "".join(f'{name}() {{ busybox {name} "$@"; }}\n' for name in ("grep", "sed", "head", "tr", "cut", "wc"))
    seen = await lab.facts(script + SANDBOX, hostname="gibson")
    assert seen == {
        "CapEff": DEFAULT_CAPABILITIES,
        "CapBnd": DEFAULT_CAPABILITIES,
        "CapAmb": "0000000000000000",
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "SigBlk": "0000000000000000",
        "cgroup": "/",
        "timers": "0",
        "keys": "0",
        "firmware": "0",
        "sysctl": "closed",
        "sysfs": "closed",
        "mount": "closed",
        "unshare": "closed",
        "disk": "closed",
        "files": str(min(1 << 20, resource.getrlimit(resource.RLIMIT_NOFILE)[1])),
        "score": "0",
        "processes": "/proc/1",
        "null": "c",
        "hosts": "127.0.0.1\tlocalhost",
        "name": "gibson",
    }


def with_process(*args: str, **fields: object) -> dict[str, object]:
    """Arguments of `builders.container` cannot say all of a process; this replaces it."""
    return {"process": Process(args=args, env=("PATH=/bin",), **fields)}


async def died(lab: RunLab, one: process.Process) -> None:
    async def dead() -> bool:
        return not process.is_alive(one)

    await lab.until(dead)


async def ran(lab: RunLab, *args: str, **fields: object) -> str:
    spec = replace(builders.container(), **with_process(*args, **fields))
    started = await lab.prepare(spec)
    assert isinstance(started, Started), started
    assert await started.release() is None
    ended = await lab.ended(started)
    return (ended.stdout + ended.stderr).decode().strip()


async def test_descriptors_of_the_process(lab: RunLab) -> None:
    assert (await ran(lab, "ls", "/proc/self/fd")).split() == ["0", "1", "2", "3"]  # the last is of the directory


async def test_capabilities_open_their_calls(lab: RunLab) -> None:
    mount = ("busybox", "mount", "-t", "tmpfs", "none", "/tmp")
    assert "denied" in await ran(lab, *mount) or "not permitted" in await ran(lab, *mount)
    assert await ran(lab, *mount, capabilities=Capabilities(add=("sys_admin",))) == ""
    none = await ran(lab, "busybox", "grep", "CapEff", "/proc/self/status", capabilities=Capabilities(drop=("ALL",)))
    assert none.split() == ["CapEff:", "0" * 16]
    one = Capabilities(drop=("ALL",), add=("CAP_KILL",))
    assert (await ran(lab, "busybox", "grep", "CapBnd", "/proc/self/status", capabilities=one)).endswith("20")


async def test_a_capability_that_the_host_has_not(crun: RunLab) -> None:
    with pytest.raises(Unsupported) as caught:
        newer = Capabilities(add=("CAP_OF_A_LATER_KERNEL",))
        await crun.prepare(replace(builders.container(), **with_process("true", capabilities=newer)))
    assert caught.value.facts["pointer"].startswith("/process/capabilities")
    assert await crun.traces() == []


async def test_what_a_container_writes_to_its_own_files_takes_no_room_that_others_need(crun: RunLab) -> None:
    def taken() -> int:
        live = os.statvfs(crun.paths.live)
        return (live.f_blocks - live.f_bfree) * live.f_bsize

    before = taken()
    files = "/etc/hosts /etc/resolv.conf /etc/hostname"
    flood = f"for file in {files}; do head -c 3000000 /dev/zero >> $file || exit 1; done; echo full; read line"
    started = await crun.started("sh", "-c", flood, stdin=True)
    await started.printed(b"full")
    assert taken() - before < 1_000_000
    assert (await crun.ran("true")).exit_code == 0
    await started.remove()
    again = await crun.prepare(started.spec)
    assert isinstance(again, Started)
    ours = [path for path in crun.paths.container(started.spec.id).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in ours) < 10_000


async def test_its_own_files_are_read_only_with_its_root(lab: RunLab) -> None:
    script = "for file in hosts resolv.conf hostname; do echo x >> /etc/$file; done 2> /dev/null; cat /etc/hostname"
    assert (await lab.ran("sh", "-c", script, hostname="h", read_only_rootfs=True)).stdout == b"h\n"
    assert (await lab.ran("sh", "-c", script, hostname="h")).stdout == b"h\nx\n"


async def test_a_read_only_root(lab: RunLab) -> None:
    script = "touch /x 2>/dev/null || echo closed; touch /dev/shm/x && echo shm"
    assert (await lab.ran("sh", "-c", script, read_only_rootfs=True)).stdout == b"closed\nshm\n"


@pytest.mark.parametrize(
    ("content", "exit_code"),
    [(b"\0\1garbage", 126), (b"", 126), (b"#!/no/such/interpreter\n", 127)],
    ids=["garbage", "empty", "interpreter"],
)
async def test_a_program_that_fails_only_when_it_is_executed(lab: RunLab, content: bytes, exit_code: int) -> None:
    spec = builders.container("/program")
    await lab.substrate.storage.make_rootfs(spec)
    program = lab.paths.rootfs(spec.id) / "program"
    program.write_bytes(content)
    program.chmod(0o755)
    started = await lab.prepare(spec)
    assert isinstance(started, Started), started
    failure = await started.release()
    assert failure is not None
    assert failure.exit_code == exit_code
    assert "/program" in failure.reason
    assert (await started.observe()).exit_code == exit_code
    assert await started.log() == []


async def test_a_program_that_only_pretends_to_have_failed(lab: RunLab) -> None:
    started = await lab.started("sh", "-c", "read go; echo 'exec container process x: no' >&2; exit 1", stdin=True)
    await started.write(b"\n")
    ended = await lab.ended(started)
    assert (ended.exit_code, ended.stderr) == (1, b"exec container process x: no\n")


async def test_links_are_made_with_the_process(lab: RunLab) -> None:
    network = builders.network()
    await lab.substrate.network.make_network(network)
    networks = {network.id: network}
    started = await lab.prepared("busybox", "ip", "addr", endpoints=[builders.endpoint(network, 2)], networks=networks)
    before = netlab.links()
    assert len(before - {"lo"}) == 2  # a bridge and a veth
    await lab.substrate.network.plug(*started.ids, started.spec.endpoints[network.id], network)
    assert netlab.links() == before
    assert await started.release() is None
    printed = (await lab.ended(started)).stdout.decode()
    assert "inet 127.0.0.1/8" in printed
    assert started.spec.endpoints[network.id].address in printed


async def test_a_link_that_cannot_be_made_with_the_process_is_made_by_plug(lab: RunLab) -> None:
    network = builders.network()
    endpoint = builders.endpoint(network, 2)
    started = await lab.prepared("sleep", "100", endpoints=[endpoint], networks={network.id: network})
    assert netlab.links() == {"lo"}
    await lab.substrate.network.make_network(network)
    await lab.substrate.network.plug(*started.ids, endpoint, network)
    link = Link(container=started.spec.id, incarnation=started.incarnation, endpoint=endpoint)
    assert not (await lab.substrate.network.missing([network], [link])).links


async def test_a_process_that_cannot_be_made_leaves_no_link(lab: RunLab) -> None:
    network = builders.network()
    await lab.substrate.network.make_network(network)
    before = netlab.links()
    spec = builders.container("no-such-program", endpoints=[builders.endpoint(network, 2)])
    assert isinstance(await lab.prepare(spec, {network.id: network}), StartFailure)
    assert netlab.links() == before


async def test_a_cancelled_prepare_leaves_no_link(lab: RunLab) -> None:
    network = builders.network()
    await lab.substrate.network.make_network(network)
    before = netlab.links()
    spec = builders.container("true", endpoints=[builders.endpoint(network, 2)])
    await lab.substrate.storage.make_rootfs(spec)
    preparing = asyncio.create_task(lab.substrate.execution.prepare(spec, new_id(), {network.id: network}))
    while netlab.links() == before:
        await asyncio.sleep(0)
    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing
    assert netlab.links() == before


async def test_deaths_by_signal(lab: RunLab) -> None:
    for number, code in ((signal.SIGKILL, 137), (signal.SIGTERM, 143)):
        started = await lab.started("sh", "-c", "echo ready; exec busybox sleep 100", init=True)
        await started.printed(b"ready")
        await started.signal(number)
        assert (await started.wait()).exit_code == code


async def test_out_of_memory(lab: RunLab) -> None:
    script = "x=0123456789abcdef; while true; do x=$x$x; done"
    started = await lab.started("sh", "-c", script, resources=Resources(memory_bytes=16 << 20))
    ended = await started.wait()
    assert (ended.exit_code, ended.oom_killed) == (137, True)
    assert not (await (await lab.started("true")).wait()).oom_killed


async def test_a_limit_below_what_is_used_is_refused(crun: RunLab) -> None:
    script = "x=$(busybox head -c 20000000 /dev/zero | busybox tr '\\0' x); echo ready; read y"
    started = await crun.started("sh", "-c", script, stdin=True)
    await started.printed(b"ready")
    with pytest.raises(ResourceExhausted):
        await crun.substrate.execution.update(*started.ids, Resources(memory_bytes=1 << 20))
    assert (await started.observe()).state == "running"


async def test_groups_carry_our_name_and_go(lab: RunLab) -> None:
    started = await lab.started("sleep", "100", resources=Resources(pids=7))
    group = f"portlayer-{lab.paths.instance}/{started.incarnation}"
    (limit,) = (file for above in ("", "*/") for file in CGROUPS.glob(f"{above}{group}/pids.max"))
    assert limit.read_text() == "7\n"
    await started.remove()
    assert await lab.traces() == []


async def test_a_restart_finds_everything(lab: RunLab) -> None:
    prepared = await lab.prepared("sh", "-c", "exit 5")
    running = await lab.started("sh", "-c", "echo one; read x; echo two; exit 6", stdin=True)
    await running.printed(b"one")
    ending = await lab.started("sh", "-c", "read x; exit 7", stdin=True)
    holder = lab.record(ending).shim
    await lab.substrate.interaction.write_stdin(*ending.ids, b"\n")
    await lab.substrate.close()
    await died(lab, holder)
    await lab.restart()
    assert (await ending.observe()).exit_code == 7
    assert (await running.observe()).state == "running"
    assert (await prepared.observe()).state == "prepared"
    assert await prepared.release() is None
    assert (await prepared.wait()).exit_code == 5
    await running.write(b"\n")
    assert (await running.wait()).exit_code == 6


async def test_a_restart_with_another_runtime_releases_what_the_first_prepared(lab: RunLab) -> None:
    prepared = await lab.prepared("sh", "-c", "exit 5")
    lab.runtime = "runc" if lab.runtime == "crun" else "crun"
    await lab.restart()
    assert await prepared.release() is None
    assert (await prepared.wait()).exit_code == 5


async def test_the_process_is_killed_from_outside(lab: RunLab) -> None:
    started = await lab.started("sleep", "100")
    process.send_signal(lab.record(started).init, signal.SIGKILL)
    assert (await started.wait()).exit_code == 137


async def test_a_prepared_process_that_died_is_absent(lab: RunLab) -> None:
    started = await lab.prepared("true")
    process.send_signal(lab.record(started).init, signal.SIGKILL)
    assert await started.wait() == ABSENT
    with pytest.raises(SubstrateFailed) as caught:
        await started.release()
    assert caught.value.facts["step"] == "release"
    assert await started.observe() == ABSENT
    assert await lab.substrate.execution.prepare(started.spec, started.incarnation, {}) is None
    assert await started.release() is None
    assert (await started.wait()).exit_code == 0


async def test_the_shim_is_killed(lab: RunLab) -> None:
    started = await lab.started("sleep", "100")
    record = lab.record(started)
    process.send_signal(record.shim, signal.SIGKILL)
    await died(lab, record.shim)
    assert (await started.observe()).state == "running"
    waiting = asyncio.create_task(started.wait())
    await started.signal(signal.SIGKILL)
    assert await waiting == ABSENT
    await started.remove()
    assert await lab.traces() == []


async def test_release_again_after_a_death_between_its_steps(lab: RunLab) -> None:
    """Our process dies when the gate has been moved and not yet opened."""
    started = await lab.prepared("sh", "-c", "exit 3")
    directory = lab.paths.incarnation(started.incarnation)
    gate = directory / "runtime" / started.incarnation / "exec.fifo"
    gate.rename(directory / "released")
    await lab.restart()
    assert (await started.observe()).state == "prepared"
    assert await started.release() is None
    assert (await started.wait()).exit_code == 3


async def test_what_was_only_begun_is_listed_and_goes(crun: RunLab) -> None:
    """Our process dies before the record is written: the shim and the runtime's process are there all the same."""
    started = await crun.prepared("true")
    record = crun.record(started)
    (crun.paths.incarnation(started.incarnation) / "record").unlink()
    await crun.restart()
    assert [one.incarnation for one in await crun.substrate.execution.present()] == [started.incarnation]
    assert await started.observe() == ABSENT
    await started.remove()
    assert not process.is_alive(record.init)
    assert not process.is_alive(record.shim)
    assert await crun.traces() == []


async def test_a_lost_run_directory_leaves_no_processes(crun: RunLab) -> None:
    started = await crun.started("sleep", "100")
    record = crun.record(started)
    for path in sorted(crun.paths.incarnation(started.incarnation).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    crun.paths.incarnation(started.incarnation).rmdir()
    await crun.restart()
    assert await started.observe() == ABSENT
    assert not process.is_alive(record.init)


HANGS = "#!/bin/sh\nsleep 1000\n"
DIES = "#!/bin/sh\necho 'the flux capacitor is empty' >&2\nexit 3\n"
SILENT = "#!/bin/sh\nexit 3\n"
KILLED = "#!/bin/sh\nkill -9 $$\n"
LIES = "#!/bin/sh\nfor last; do :; done\nwhile [ $1 != --pid-file ]; do shift; done\necho 1 > $2\n"
FORGETS = "#!/bin/sh\nexit 0\n"
BABBLES = "#!/bin/sh\nhead -c 100000 /dev/urandom >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (HANGS, "did not create the process within"),
        (DIES, "flux capacitor"),
        (SILENT, ""),
        (KILLED, ""),
        (LIES, "not the container's"),
        (FORGETS, ""),
        (BABBLES, ""),
    ],
    ids=["hangs", "dies", "silent", "killed", "lies", "forgets", "babbles"],
)
async def test_a_runtime_that_misbehaves(crun: RunLab, script: str, reason: str) -> None:
    misuse(crun.substrate._execution, crun.home, script, seconds=0.3 if script in {HANGS, BABBLES} else 60)
    with pytest.raises(SubstrateFailed) as caught:
        await crun.prepare(builders.container("true"))
    assert caught.value.facts["step"] == "prepare"
    assert reason in caught.value.detail
    assert await crun.traces() == []


def misuse(execution: LinuxExecution, home: Path, script: str, *, seconds: float) -> None:
    """From now on *script* is the runtime, and taken to hang after so many *seconds*."""
    program = home / "crun-that-misbehaves"
    program.write_text(script)
    program.chmod(0o755)
    execution._creator.runtime = Crun(str(program))
    execution._creator._runtime_seconds = seconds


async def test_a_runtime_that_is_gone(crun: RunLab) -> None:
    crun.substrate._execution._creator.runtime = Crun("/no/such/crun")
    with pytest.raises(SubstrateFailed):
        await crun.prepare(builders.container("true"))
    assert await crun.traces() == []


async def test_a_start_that_is_cancelled_leaves_nothing(crun: RunLab) -> None:
    misuse(crun.substrate._execution, crun.home, HANGS, seconds=60)
    starting = asyncio.create_task(crun.prepare(builders.container("true")))

    async def hangs() -> bool:
        return any("misbehaves" in process for process in crun.processes())

    await crun.until(hangs)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await crun.traces() == []


async def test_no_runtime_works(tmp_path: Path) -> None:
    broken = tmp_path / "crun-broken"
    broken.write_text(DIES)
    broken.chmod(0o755)
    for runtime, reason in ((str(broken), "flux capacitor"), ("crun-nowhere", "none is installed")):
        paths = Paths(state=tmp_path / "state", run=tmp_path / "run", instance=os.urandom(4).hex())
        substrate = LinuxSubstrate(paths, runtime)
        with pytest.raises(Unavailable, match=reason) as caught:
            await substrate.start()
        assert "apt install" in caught.value.detail
        await substrate._storage.purge()
        substrate._execution._cgroups.close()


async def test_what_the_probe_found_is_remembered(crun: RunLab) -> None:
    memory = crun.paths.run / "runtime.json"
    before = memory.stat()
    await crun.restart()
    assert memory.stat().st_mtime_ns == before.st_mtime_ns
    assert (await crun.ran("sh", "-c", "exit 3")).exit_code == 3


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_descriptors_are_given_back(lab: RunLab) -> None:
    async def life() -> None:
        started = await lab.started("cat", stdin=True)
        await started.write(b"x")
        await started.close_stdin()
        await started.wait()
        await started.remove()
        assert (await lab.start_failure(builders.container("nosuch"))).exit_code == 127

    await life()
    before = descriptors()
    for _ in range(3):
        await life()

    async def given_back() -> bool:
        return descriptors() <= before

    await lab.until(given_back)


async def test_a_subpath_is_mounted_for_the_container_alone(lab: RunLab) -> None:
    volume = new_id()
    await lab.substrate.storage.make_volume(volume)
    content = lab.paths.volume(volume)
    (content / "inside").mkdir()
    (content / "inside" / "kept").write_text("kept")
    (content / "file").write_text("a file")
    (content / "out").symlink_to("/etc")
    mounts = [
        builders.mount(volume, "/data", subpath="inside"),
        builders.mount(volume, "/one", subpath="file", read_only=True),
    ]
    script = "cat /data/kept /one; echo more > /data/kept; { echo > /one; } 2> /dev/null; echo done; read x"
    started = await lab.started("sh", "-c", script, mounts=mounts, stdin=True)
    await started.printed(b"kepta filedone")
    assert lab.mounted() == []
    await started.remove()
    assert (content / "inside" / "kept").read_text() == "more\n"
    assert (content / "file").read_text() == "a file"
    with pytest.raises(InvalidArgument):
        await lab.prepare(builders.container(mounts=[builders.mount(volume, "/data", subpath="out")]))


async def test_a_pid_that_was_given_away_is_not_ours() -> None:
    """The record names a pid that another process has by now: it is neither believed nor killed."""
    innocent = await asyncio.create_subprocess_exec("sleep", "100")
    now = process.identify(innocent.pid)
    assert now is not None
    earlier = now._replace(start=now.start - 1)
    assert not process.is_alive(earlier)
    process.send_signal(earlier, signal.SIGKILL)
    assert process.identify(innocent.pid) == now
    innocent.kill()
    await innocent.wait()


async def test_a_pid_that_a_thread_has_by_now_is_no_process() -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, daemon=True)
    thread.start()
    found = process.identify(thread.native_id or 0)
    assert found is not None
    assert process.open_pidfd(found) is None
    go_on.set()
    thread.join()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc", "/etc: Is a directory"),
        ("/etc/passwd", "/etc/passwd: Permission denied"),
        ("./nosuch", "./nosuch: No such file or directory"),
        ("nosuch", "nosuch: not found in $PATH"),
    ],
)
async def test_why_a_program_cannot_be_executed_is_said_in_the_same_words_by_all_runtimes(
    lab: RunLab, name: str, reason: str
) -> None:
    failure = await lab.prepare(builders.container(name))
    assert isinstance(failure, StartFailure)
    assert failure.reason == reason


async def test_a_program_that_only_the_runtime_sees_is_named(lab: RunLab) -> None:
    await lab.substrate.storage.make_volume("cask")
    (lab.paths.volume("cask") / "dir").mkdir()
    failure = await lab.prepare(builders.container("/cask/dir", mounts=[builders.mount("cask", "/cask")]))
    assert isinstance(failure, StartFailure)
    assert (failure.exit_code, "/cask/dir: " in failure.reason) == (126, True)


async def test_a_program_under_an_init_is_looked_for_in_its_own_root(lab: RunLab) -> None:
    spec = builders.container("nosuch", init=True)
    failure = await lab.prepare(spec)
    assert isinstance(failure, StartFailure)
    assert (failure.exit_code, failure.reason) == (127, "nosuch: not found in $PATH")
    assert await lab.traces() == []


async def test_a_disk_is_a_file_system_of_its_own(lab: RunLab) -> None:
    volume = new_id()
    await lab.substrate.storage.make_volume(volume, 16 << 20)
    mounts = [builders.mount(volume, "/cask", capacity_bytes=16 << 20)]
    found = await lab.facts("echo kind: $(stat -f -c %T /cask); echo files: $(ls -A /cask)", mounts=mounts)
    assert found == {"kind": "ext2/ext3", "files": ""}


async def test_the_empty_parent_of_the_groups_is_told_of(crun: RunLab) -> None:
    assert f"cgroup /portlayer-{crun.paths.instance}" in await crun.substrate.leftovers()
    await crun.substrate.purge()
    assert await crun.substrate.leftovers() == []
