"""The other commands, on a real server."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.conftest import Cli

from portlayer import __version__
from portlayer.client import Steps, SyncPortLayer


@pytest.fixture(autouse=True)
def _no_containers_left(pl: SyncPortLayer) -> Iterator[None]:
    yield
    for container in pl.execution.list():
        pl.execution.remove(container.id, force=True)


def run(pl: SyncPortLayer, name: str, *command: str) -> str:
    steps = Steps().create("busybox", *command, name=name).set_state("running")
    return pl.execution.commit(steps).id


def test_a_containers_life(cli: Cli, pl: SyncPortLayer) -> None:
    ref = run(pl, "lives", "sh", "-c", "echo one; echo two >&2; exec sleep 1000")
    assert cli.ok("ps", "-q", "--filter", "name=lives").split() == [ref]
    cli.ok("pause", ref[:5])
    assert pl.execution.inspect_container(ref).state == "paused"
    cli.ok("unpause", "lives")
    cli.ok("rename", "lives", "lived")
    logs = cli("logs", "lived")
    assert (logs.out, logs.err) == ("one\n", "two\n")
    assert cli("rm", "lived").code == 1
    assert cli.ok("stop", "-t", "0", "lived") == "lived\n"
    assert cli.ok("wait", "lived") == "137\n"
    assert "lived" not in cli.ok("ps")
    assert "stopped (137)" in cli.ok("ps", "-a")
    cli.ok("start", "lived")
    assert pl.execution.inspect_container(ref).state == "running"
    cli.ok("kill", "lived")
    assert pl.execution.wait(ref).exit_code == 137
    cli.ok("rm", "lived")
    assert pl.execution.list() == ()


def test_several_at_once_and_those_that_fail_are_told(cli: Cli, pl: SyncPortLayer) -> None:
    for name in ("a-one", "a-two"):
        run(pl, name, "sleep", "1000")
    done = cli("rm", "-f", "a-one", "absent", "a-two")
    assert (done.code, done.out) == (1, "a-one\na-two\n")
    assert done.err == "portlayer: There is no container called 'absent'.\n"


def test_programs_are_told_what_came_of_each(cli: Cli, pl: SyncPortLayer) -> None:
    ids = {name: run(pl, name, "sleep", "1000") for name in ("j-one", "j-two")}
    stopped = cli.json("stop", "-t", "0", "j-one", "j-two")
    assert [(one["ref"], one["id"], one["state"]) for one in stopped] == [
        (name, ident, "stopped") for name, ident in ids.items()
    ]
    assert cli.json("wait", "j-one") == [{"ref": "j-one", "exitCode": 137, "state": "stopped"}]
    done = cli("kill", "--json", "j-two", "absent")
    (refused, missing), code = json.loads(done.out), done.code
    assert (code, refused["ref"], refused["problem"]["code"]) == (1, "j-two", "InvalidState")
    assert (missing["ref"], missing["problem"]["code"]) == ("absent", "NotFound")
    assert done.err.splitlines()[1] == "portlayer: There is no container called 'absent'."
    assert cli.json("rm", "j-one", "j-two") == [{"ref": "j-one"}, {"ref": "j-two"}]


def test_logs_for_programs(cli: Cli, pl: SyncPortLayer) -> None:
    long = "x" + 100_000 * "ä"  # so that it is cut in the middle of a letter
    script = (
        "echo out; echo err >&2; "
        'awk \'BEGIN {printf "x"; while (i++ < 100000) printf "ä"; print ""}\'; printf \'\\377 open\''
    )
    pl.execution.wait(run(pl, "tells", "sh", "-c", script))
    lines = [json.loads(line) for line in cli.ok("logs", "--json", "tells").splitlines()]
    first, *long_line, last = [line for line in lines if line["stream"] == "stdout"]
    (error,) = [line for line in lines if line["stream"] == "stderr"]
    assert [(line["text"], "partial" in line) for line in (first, error)] == [("out", False), ("err", False)]
    assert len(long_line) > 1
    assert [line.get("partial", False) for line in long_line] == [True] * (len(long_line) - 1) + [False]
    assert "".join(line["text"] for line in long_line) == long
    assert (last["text"], last["partial"]) == ("\ufffd open", True)
    assert all(set(line) - {"partial"} == {"time", "stream", "text"} for line in lines)
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    assert all(len(time) == 30 for time in times)
    assert last["text"] in [
        json.loads(line)["text"] for line in cli.ok("logs", "--json", "-n", "1", "tells").splitlines()
    ]


def test_the_command_tells_its_version_without_a_server(tmp_path: Path) -> None:
    assert Cli(tmp_path).ok("--version") == f"portlayer {__version__}\n"


def test_logs_as_asked(cli: Cli, pl: SyncPortLayer) -> None:
    pl.execution.wait(run(pl, "talks", "sh", "-c", "for i in 1 2 3; do echo line $i; done"))
    assert cli.ok("logs", "--tail", "2", "talks") == "line 2\nline 3\n"
    assert cli.ok("logs", "-f", "--since", "1h", "talks") == "line 1\nline 2\nline 3\n"
    assert cli.ok("logs", "--until", "1h", "talks") == ""
    stamped = [line.split(" ", 1) for line in cli.ok("logs", "-t", "talks").splitlines()]
    assert [line for _, line in stamped] == ["line 1", "line 2", "line 3"]
    assert all(time.endswith("Z") and len(time) == 30 for time, _ in stamped)


def test_networks(cli: Cli, pl: SyncPortLayer) -> None:
    cli.ok("network", "create", "lan", "--subnet", "10.199.7.0/24", "--gateway", "10.199.7.9", "-l", "a=b")
    (network,) = cli.json("network", "inspect", "lan")
    assert network["subnets"] == [{"subnet": "10.199.7.0/24", "gateway": "10.199.7.9"}]
    assert network["labels"] == {"a": "b"}
    cli.ok(
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "lan",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "httpd",
        "-f",
        "-p",
        "80",
        "-h",
        "/etc",
    )
    (endpoint,) = pl.execution.inspect_container("web").endpoints
    address = endpoint.address
    assert [(port.container_port, port.host_address) for port in endpoint.ports] == [(80, "127.0.0.1")]
    assert re.search(rf"{address} +127\.0\.0\.1:{endpoint.ports[0].host_port}->80/tcp\n", cli.ok("ps"))
    fetch = f"until wget -qO- {address}/group; do :; done"
    assert "nogroup" in cli.ok("run", "--rm", "--network", "lan", "busybox", "sh", "-c", fetch)
    assert cli("network", "rm", "lan").code == 1
    cli.ok("network", "disconnect", "lan", "web")
    assert pl.execution.inspect_container("web").endpoints == ()
    assert cli.ok("network", "connect", "--ip", "10.199.7.77", "lan", "web") == "10.199.7.77\n"
    pl.execution.remove("web", force=True)
    cli.ok("network", "rm", "lan")
    assert pl.network.list() == ()


def test_networks_with_ipv6(cli: Cli, pl: SyncPortLayer) -> None:
    asked = ("--ipv6", "--subnet", "fd00:99:7::/64", "--gateway", "fd00:99:7::9")
    cli.ok("network", "create", "lan", "--subnet", "10.199.7.0/24", *asked)
    (network,) = cli.json("network", "inspect", "lan")
    assert network["subnets"][1] == {"subnet": "fd00:99:7::/64", "gateway": "fd00:99:7::9"}
    assert "10.199.7.0/24, fd00:99:7::/64" in cli.ok("network", "ls")
    served = ("busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    cli.ok("run", "-d", "--name", "web", "--network", "lan", "-p", "[::]::80", *served)
    (endpoint,) = pl.execution.inspect_container("web").endpoints
    assert re.search(rf"{endpoint.address6} +\[::\]:{endpoint.ports[0].host_port}->80/tcp\n", cli.ok("ps"))
    fetch = f"until wget -qO- http://[{endpoint.address6}]/group; do :; done"
    assert "nogroup" in cli.ok("run", "--rm", "--network", "lan", "busybox", "sh", "-c", fetch)
    socket.create_connection((endpoint.gateway6, endpoint.ports[0].host_port), timeout=10).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((endpoint.gateway, endpoint.ports[0].host_port), timeout=10)
    cli.ok("network", "disconnect", "lan", "web")
    assert cli.ok("network", "connect", "--ip6", "fd00:99:7::77", "lan", "web").split()[1] == "fd00:99:7::77"
    pl.execution.remove("web", force=True)
    cli.ok("network", "rm", "lan")


def test_images_from_a_pipe_and_their_removal(cli: Cli, archive: bytes) -> None:
    (imported,) = json.loads(cli.ok("image", "import", "-", "--name", "again", "--json", stdin=archive))
    assert "again:latest" in imported["names"]
    assert imported["id"][:12] in cli.ok("image", "ls")
    assert cli.json("image", "inspect", imported["id"][:10])[0]["id"] == imported["id"]
    cli.ok("image", "rm", "again")
    missing = cli("image", "import", "/no/such/file")
    assert (missing.code, missing.err) == (1, "portlayer: /no/such/file cannot be read: No such file or directory.\n")


def test_volumes_with_a_capacity(cli: Cli) -> None:
    cli.ok("volume", "create", "cask", "--capacity", "20m")
    assert cli.json("volume", "inspect", "cask")[0]["capacityBytes"] == 20 << 20
    assert "21 MB" in cli.ok("volume", "ls")
    script = "tr '\\0' x </dev/zero >/cask/x"
    done = cli("run", "--rm", "-v", "cask:/cask", "busybox", "sh", "-c", script)
    assert (done.code, "No space left on device" in done.err) == (1, True)
    assert "between 16777216" in cli("volume", "create", "--capacity", "1m").err
    cli.ok("volume", "rm", "cask")


def test_json_is_one_document(cli: Cli) -> None:
    done = cli.several(*([*args, "--json"] for args in (["ps", "-a"], ["network", "ls"], ["volume", "ls"], ["info"])))
    assert all(isinstance(json.loads(each.out), list | dict) for each in done)


def test_events_are_followed_and_names_completed(cli: Cli) -> None:
    with cli.start("events", "--since", "0", "--json", stdout=subprocess.PIPE) as events:
        assert events.stdout is not None
        cli.ok("volume", "create", "eventful")
        seen = [json.loads(events.stdout.readline())]
        while seen[-1]["event"]["name"] != "eventful":
            seen.append(json.loads(events.stdout.readline()))
        events.terminate()
    assert seen[-1]["event"]["type"].startswith("volume.")
    words = {"_PORTLAYER_COMPLETE": "complete_bash", "COMP_WORDS": "portlayer volume rm ev", "COMP_CWORD": "3"}
    assert cli.ok(environment=words).split() == ["eventful"]
    assert cli.ok("volume", "rm", "eventful") == "eventful\n"


def test_without_a_server_it_is_said_how_to_start_one(tmp_path: Path) -> None:
    done = Cli(tmp_path)("ps")
    assert done.code == 1
    assert "portlayer serve" in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_doctor_finds_nothing_that_is_needed(cli: Cli) -> None:
    found = cli.json("doctor")
    assert {"OCI runtime", "shim"} <= {check["name"] for check in found}
    assert all(check["ok"] for check in found if check.get("needed", True))


def test_waiting_for_what_is_removed_before_it_exits_fails(cli: Cli, pl: SyncPortLayer) -> None:
    pl.execution.commit(Steps().create("busybox", "true", name="never"))
    waits = 'requests_under_way{call="execution/wait"} '
    before = pl.service.metrics().count(f"{waits}1")
    with cli.start("wait", "never", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        while pl.service.metrics().count(f"{waits}1") == before:
            assert waiting.poll() is None
        pl.execution.remove("never")
        out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, out, err) == (1, b"", b"portlayer: never was removed before it had exited.\n")
