"""The other commands, on a real server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from cli.conftest import SECONDS, Cli


@pytest.fixture(scope="module")
def lan(cli: Cli) -> str:
    cli.ok("network", "create", "lan", "--subnet", "10.199.7.0/24", "-l", "a=b")
    return "lan"


def test_a_containers_life(cli: Cli) -> None:
    ref = cli.ok("run", "-d", "--name", "lives", "busybox", "sh", "-c", "echo one; echo two >&2; exec sleep 1000").strip()
    assert len(ref) == 32
    assert "lives" in cli.ok("ps")
    assert cli.ok("ps", "-q", "--filter", "name=lives").split() == [ref]
    logs = cli("logs", ref[:6])
    assert (logs.stdout, logs.stderr) == ("one\n", "two\n")
    cli.ok("pause", "lives")
    assert cli.json("inspect", "lives")[0]["state"] == "paused"
    cli.ok("unpause", "lives")
    cli.ok("rename", "lives", "lived")
    assert "cannot be removed" in (refused := cli("rm", "lived")).stderr or "running" in refused.stderr
    assert refused.returncode == 1
    assert cli.ok("stop", "-t", "0", "lived") == "lived\n"
    assert cli.ok("wait", "lived") == "137\n"
    assert "lived" not in cli.ok("ps")
    assert "stopped (137)" in cli.ok("ps", "-a")
    cli.ok("start", "lived")
    cli.ok("kill", "-s", "KILL", "lived")
    assert cli.ok("wait", "lived") == "137\n"
    cli.ok("rm", "lived")
    assert ref not in cli.ok("ps", "-aq")


def test_several_at_once_and_those_that_fail_are_told(cli: Cli) -> None:
    for name in ("a-one", "a-two"):
        cli.ok("run", "-d", "--name", name, "busybox", "sleep", "1000")
    done = cli("rm", "-f", "a-one", "absent", "a-two")
    assert done.returncode == 1
    assert done.stdout.split() == ["a-one", "a-two"]
    assert done.stderr == "portlayer: There is no container called 'absent'.\n"


def test_logs_as_asked(cli: Cli) -> None:
    cli.ok("run", "--name", "talks", "busybox", "sh", "-c", "for i in 1 2 3; do echo line $i; done")
    assert cli.ok("logs", "--tail", "2", "talks") == "line 2\nline 3\n"
    assert cli.ok("logs", "-f", "talks") == "line 1\nline 2\nline 3\n"
    assert cli.ok("logs", "--since", "1h", "talks") == "line 1\nline 2\nline 3\n"
    assert cli.ok("logs", "--until", "1h", "talks") == ""
    stamped = [line.split(" ", 1) for line in cli.ok("logs", "-t", "talks").splitlines()]
    assert [line for _, line in stamped] == ["line 1", "line 2", "line 3"]
    assert all(time.endswith("Z") and len(time) == 30 for time, _ in stamped)


def test_networks(cli: Cli, lan: str) -> None:
    (network,) = cli.json("network", "inspect", lan)
    assert (network["subnets"][0]["subnet"], network["labels"]) == ("10.199.7.0/24", {"a": "b"})
    cli.ok("run", "-d", "--name", "web", "--network", lan, "busybox", "sh", "-c", "httpd -f -p 80 -h /etc")
    address = cli.json("inspect", "web")[0]["endpoints"][0]["address"]
    assert address in cli.ok("ps")
    read = cli.ok("run", "--rm", "--network", lan, "busybox", "sh", "-c", f"until wget -qO- {address}/group; do :; done")
    assert "nogroup" in read
    assert cli("network", "rm", lan).returncode == 1
    cli.ok("network", "disconnect", lan, "web")
    assert cli.json("inspect", "web")[0]["endpoints"] == []
    assert cli.ok("network", "connect", "--ip", "10.199.7.77", lan, "web") == "10.199.7.77\n"
    cli.ok("rm", "-f", "web")
    cli.ok("network", "rm", lan)
    assert lan not in cli.ok("network", "ls")


def test_images_from_a_pipe_and_their_removal(cli: Cli, archive: Path) -> None:
    (imported,) = json.loads(cli.ok("image", "import", "-", "--name", "again", "--json", stdin=archive.read_bytes()))
    assert "again:latest" in imported["names"]
    assert imported["id"][:12] in cli.ok("image", "ls")
    assert cli.json("image", "inspect", imported["id"][:10])[0]["id"] == imported["id"]
    cli.ok("image", "rm", "again")
    assert cli("image", "inspect", "again").returncode == 1
    missing = cli("image", "import", "/no/such/file")
    assert (missing.returncode, missing.stderr) == (
        1,
        "portlayer: /no/such/file cannot be read: No such file or directory.\n",
    )


@pytest.mark.parametrize(
    "args",
    [("ps", "-a"), ("image", "ls"), ("network", "ls"), ("volume", "ls"), ("info",), ("version",), ("cleanup",)],
)
def test_json_is_one_document(cli: Cli, args: tuple[str, ...]) -> None:
    assert isinstance(cli.json(*args), list | dict)


def test_events_are_followed(cli: Cli) -> None:
    with cli.start("events", "--since", "0", "--json", stdout=subprocess.PIPE) as events:
        assert events.stdout is not None
        seen = [json.loads(events.stdout.readline())]
        cli.ok("volume", "create", "eventful")
        while seen[-1]["event"]["name"] != "eventful":
            seen.append(json.loads(events.stdout.readline()))
        events.terminate()
    assert seen[-1]["event"]["type"].startswith("volume.")
    cli.ok("volume", "rm", "eventful")


def test_names_are_completed(cli: Cli) -> None:
    cli.ok("volume", "create", "completable")
    words = {"_PORTLAYER_COMPLETE": "complete_bash", "COMP_WORDS": "portlayer volume rm comp", "COMP_CWORD": "3"}
    done = subprocess.run(
        [cli.start("version", stdout=subprocess.DEVNULL).args[0]],  # type: ignore[index]
        env={**cli.environment, **words},
        capture_output=True,
        timeout=SECONDS,
        check=False,
        text=True,
    )
    assert done.stdout.split() == ["completable"]
    cli.ok("volume", "rm", "completable")


def test_an_id_of_which_too_little_is_written(cli: Cli) -> None:
    done = cli("inspect", "zzzz")
    assert (done.returncode, done.stderr) == (1, "portlayer: There is no container called 'zzzz'.\n")


def test_without_a_server_it_is_said_how_to_start_one(tmp_path: Path) -> None:
    done = Cli(tmp_path)("ps")
    assert done.returncode == 1
    assert "portlayer serve" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []
