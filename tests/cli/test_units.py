"""The units for systemd, as systemd itself judges them; and a process within the bounds of the confined one."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.conftest import COMMAND, Cli, serving, stop

from portlayer.client import connect_sync

UNITS = Path(__file__).parents[2] / "systemd"
CONFINING = Path(__file__).with_name("confining.py")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this host has no systemd")
TOPOLOGY = """
[processes.confined]
components = ["storage"]

[processes.free]
components = ["execution", "network", "interaction"]
"""


def parsed(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return parser


def service(name: str) -> configparser.SectionProxy:
    return parsed(name)["Service"]


@needs_systemd
def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/bin/portlayer", "/bin/true")  # where it is installed is the host's matter
        (tmp_path / unit.name.replace("@.", "@rest.")).write_text(text)
    units = [str(unit) for unit in tmp_path.iterdir()]
    said = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


@needs_systemd
def test_the_confined_one_is_exposed_little(tmp_path: Path) -> None:
    unit = tmp_path / "portlayer-confined@rest.service"
    unit.write_text((UNITS / "portlayer-confined@.service").read_text().replace("/usr/bin/portlayer", "/bin/true"))
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    assert found is not None, said.stdout
    assert float(found[1]) < 5


def test_containers_outlive_the_service() -> None:
    for name in ("portlayer.service", "portlayer@.service"):
        section = service(name)
        assert section["KillMode"] == "process"
        assert section["NoNewPrivileges"] == "yes"  # as containers have, whatever the service has
        inherited = ("Protect", "Private", "Restrict", "SystemCall", "Capability", "Lock", "MemoryDeny")
        assert not [key for key in section if key.startswith(inherited)]


def test_every_service_is_watched_and_has_time_to_end() -> None:
    for unit in UNITS.glob("*.service"):
        section = service(unit.name)
        assert (section["Type"], section["Restart"]) == ("notify", "always")
        assert int(section["WatchdogSec"]) >= 10
        assert int(section["TimeoutStopSec"]) > 30 + 10, "longer than a drain"


def test_what_a_service_may_write_to_is_there_when_its_sandbox_is_made() -> None:
    section = service("portlayer-confined@.service")
    made = {
        f"/var/lib/{section['StateDirectory']}",
        str(Path(parsed("portlayer-confined@.socket")["Socket"]["ListenStream"]).parent),
    }
    assert set(section["ReadWritePaths"].split()) == made


def test_processes_of_a_topology_take_the_sockets_of_the_one_for_all() -> None:
    for unit in UNITS.glob("*@.*"):
        assert {"portlayer.service", "portlayer.socket"} <= set(parsed(unit.name)["Unit"]["Conflicts"].split())


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[Cli]:
    """A port layer whose storage is in a process with the capabilities, the writable directories, the system calls,
    namespaces and address families that the unit gives; systemd need not run for that."""
    cli = Cli(tmp_path)
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    options = ("--config", str(tmp_path / "topology.toml"), "--process")
    for name in ("state", "run"):
        (tmp_path / name).mkdir()
    capabilities = service("portlayer-confined@.service")["CapabilityBoundingSet"].lower().split()
    bounding = ",".join(["-all", *(f"+{name.removeprefix('cap_')}" for name in capabilities)])
    script = f"""
        for each in {tmp_path}/state {tmp_path}/run; do mount --bind $each $each; done
        mount --bind {tmp_path} {tmp_path}
        for each in state run; do mount --rbind {tmp_path}/$each {tmp_path}/$each; done
        mount -o remount,bind,ro {tmp_path}
        ! touch {tmp_path}/written 2>/dev/null || exit 9
        exec setpriv --no-new-privs --bounding-set={bounding} --inh-caps=-all \\
            {sys.executable} {CONFINING} {UNITS}/portlayer-confined@.service "$@"
    """
    inside = ["unshare", "--mount", "--propagation", "slave", "sh", "-euc", script, "sh", COMMAND]
    assert service("portlayer@.service")["NoNewPrivileges"] == "yes"
    free = serving(Cli(tmp_path, ("setpriv", "--no-new-privs")), options=(*options, "free"))
    with (tmp_path / "confined.log").open("wb") as log:
        process = subprocess.Popen(
            [*inside, "serve", *options, "confined"], env=cli.environment, stdout=subprocess.PIPE, stderr=log
        )
    try:
        assert process.stdout is not None
        assert b"serves unix://" in process.stdout.readline(), (tmp_path / "confined.log").read_text()
        yield cli
    finally:
        codes = stop(process), stop(free)
        cli.ok("cleanup", "--apply")
    assert codes == (0, 0)


@needs_systemd
def test_storage_works_within_the_bounds_of_the_confined_unit(confined: Cli, archive: bytes) -> None:
    with connect_sync(host=f"unix://{confined.directory}/run/confined.sock") as pl:
        pl.storage.import_image(archive)
        pl.storage.create_volume("jar")
        pl.storage.create_volume("cask", capacity_bytes=16 << 20)
    command = ("sh", "-c", "echo kept >/jar/it; cat /jar/it")
    mounts = ("-v", "jar:/jar", "-v", "cask:/cask")
    assert confined.ok("run", "--rm", *mounts, "busybox", *command) == "kept\n"
    with connect_sync(host=f"unix://{confined.directory}/run/confined.sock") as pl:
        pl.storage.remove_volume("cask")
        pl.storage.remove_image("busybox")


@needs_systemd
def test_what_the_confined_unit_forbids_is_forbidden(tmp_path: Path) -> None:
    """The proof that the bounds of the test above are any."""
    attempts = """
import ctypes, errno, os, socket
def refused(attempt, *why):
    try:
        attempt()
    except OSError as error:
        assert error.errno in why, error
    else:
        raise AssertionError(attempt)
refused(lambda: socket.socket(socket.AF_PACKET), errno.EAFNOSUPPORT)
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    if libc.syscall(*words) < 0:
        raise OSError(ctypes.get_errno(), "")
refused(lambda: call(272, 0x40000000), errno.EPERM)  # unshare, network
refused(lambda: call(101, 16, 1, 0, 0), errno.EPERM)  # ptrace
refused(lambda: call(175, 0, 0, 0), errno.EPERM)  # init_module
socket.socket(socket.AF_INET)
print("as it should be")
"""
    unit = UNITS / "portlayer-confined@.service"
    words = [sys.executable, str(CONFINING), str(unit), sys.executable, "-c", attempts]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("as it should be\n", "")


@needs_systemd
def test_a_server_that_systemd_starts_for_the_first_caller(tmp_path: Path) -> None:
    """systemd's own tool opens the socket, as the socket unit does; the call that starts the server is answered."""
    cli = Cli(tmp_path)
    (tmp_path / "run").mkdir()
    words = ["systemd-socket-activate", "--listen", str(tmp_path / "run" / "portlayer.sock")]
    words += [word for name in cli.environment for word in ("--setenv", name)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*words, COMMAND, "serve"], env=cli.environment, stdout=log, stderr=log)
        try:
            while not (tmp_path / "run" / "portlayer.sock").exists():
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.01)
            assert cli.json("info")["store"] == "sqlite"
            assert cli.json("ps") == []
        finally:
            code = stop(server)
            cli.ok("cleanup", "--apply")
    assert code == 0
    assert (tmp_path / "run" / "portlayer.sock").exists(), "it is left to who opened it"
