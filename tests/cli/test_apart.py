"""Each component in a process of its own, on a real host: the same commands, and any of them may die."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.conftest import Cli, serving, stop

from portlayer import __version__
from portlayer.client import connect_sync

COMPONENTS = ("storage", "execution", "network", "interaction")
TOPOLOGY = "\n".join(f'[processes.{name}]\ncomponents = ["{name}"]' for name in COMPONENTS)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[Cli, dict[str, subprocess.Popen[bytes]]]]:
    cli = Cli(tmp_path)
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    processes = {name: start(cli, name) for name in COMPONENTS}
    yield cli, processes
    for process in processes.values():
        stop(process)
    cli.ok("cleanup", "--apply")


def start(cli: Cli, name: str) -> subprocess.Popen[bytes]:
    return serving(cli, options=("--config", str(cli.directory / "topology.toml"), "--process", name))


def test_the_commands_work_and_every_process_may_die(
    apart: tuple[Cli, dict[str, subprocess.Popen[bytes]]], archive: bytes
) -> None:
    cli, processes = apart
    (cli.directory / "archive").write_bytes(archive)
    cli.ok("image", "import", str(cli.directory / "archive"))
    cli.ok("network", "create", "net")
    cli.ok("volume", "create", "jar")
    assert cli.ok(
        "run", "--rm", "--network", "net", "-v", "jar:/jar", "busybox", "sh", "-c", "echo out; echo hi >/jar/f"
    )
    assert cli.raw("run", "--rm", "-i", "-v", "jar:/jar", "busybox", "sh", "-c", "cat; cat /jar/f", stdin=b"in\n")[
        :2
    ] == (
        0,
        b"in\nhi\n",
    )
    cli.ok("run", "-d", "--name", "stays", "--network", "net", "busybox", "sh", "-c", "echo up; sleep 1000")
    for name in COMPONENTS:
        with processes[name] as process:
            process.kill()
        processes[name] = start(cli, name)
        with connect_sync(host=f"unix://{cli.directory}/run/{name}.sock") as pl:
            assert pl.execution.inspect_container("stays").state == "running"
            assert b"".join(chunk.data for chunk in pl.interaction.logs("stays")) == b"up\n"
            where = {one.name: one.where for one in pl.service.info().components}
            assert where == {other: "local" if other == name else f"{other} on local" for other in COMPONENTS}
    told = {one["name"]: one for one in cli.json("topology")}
    assert {name: one["components"] for name, one in told.items()} == {name: name for name in COMPONENTS}
    assert {one["health"] for one in told.values()} <= {"ready", "slow"}
    assert {one["checks"]["store"] for one in told.values()} == {"ok"}
    assert all(one["startedAt"] <= one["seenAt"] and 0 < one["answerSeconds"] < 5 for one in told.values())
    first, host, *drawn = cli.ok("topology").splitlines()
    assert first.endswith(", store sqlite")
    assert host.startswith("└─ host local: up for ")
    assert ", 1 container" in host
    assert [line.split()[1] for line in drawn] == sorted(COMPONENTS)
    assert all(f"unix://{cli.directory}/run/" in line and __version__ in line for line in drawn)
    stop(processes.pop("network"))
    assert "network" not in cli.ok("topology")
    cli.ok("rm", "-f", "stays")


def test_one_name_is_one_process(apart: tuple[Cli, dict[str, subprocess.Popen[bytes]]]) -> None:
    cli, _ = apart
    config = str(cli.directory / "topology.toml")
    refused = cli("serve", "--config", config, "--process", "network")
    assert refused.code == 1
    assert "Another port layer uses" in refused.err
    assert cli("serve").code == 1, "nor is there room for one that is all in one"
    assert "storage" in cli("serve", "--config", config).err, "which one it is has to be said"
