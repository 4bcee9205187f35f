"""Workers of pytest are hosts of their own, whatever tests do there, and however they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hoststate
import pytest
import worker
from workers import Workers

# What tests could leave of each kind. A worker tells what of it is seen there, and goes on until its input ends.
MESS = """
for hierarchy in worker.hierarchies():
    (hierarchy.home / "portlayer-mess").mkdir()
for command in (
    "ip link add portlayer-mess type bridge",
    "ip netns add portlayer-mess",
    "nft add table inet portlayer-mess",
    "mkdir /tmp/portlayer-mess /run/portlayer-mess",
    "mount -t tmpfs tmpfs /run/portlayer-mess",
    "bash -c 'exec -a etcd sleep 1000' > /dev/null &",
):
    subprocess.run(command, shell=True, check=True)
while not any("etcd" in process for process in hoststate.picture()["process"]):
    pass
"""
LOOK = """
seen = {kind: names for kind, names in hoststate.picture().items()}
seen["file"] = {str(path) for place in ("/tmp", "/run") for path in pathlib.Path(place).iterdir()}
print(json.dumps({kind: sorted(names) for kind, names in seen.items()}), flush=True)
sys.stdin.read()
"""
IMPORTS = "import json, pathlib, subprocess, sys; import hoststate, worker"
KINDS = ("cgroup", "link", "network namespace", "nft table", "mount", "file", "process")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / f"run-{os.urandom(4).hex()}"
    made.mkdir()
    return made


@pytest.fixture
def start(directory: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a worker on a script; whatever happens, it ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*script: str, kept: Sequence[Path] = ()) -> subprocess.Popen[str]:
        paths = ":".join(map(str, (sys.prefix, Path(__file__).parents[1], *kept)))
        command = [sys.executable, worker.__file__, str(directory), paths, "-c", "\n".join((IMPORTS, *script))]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, env=environment, text=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for process in started:
        with process:
            process.terminate()


def answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def mess(seen: dict[str, Sequence[str]]) -> dict[str, list[str]]:
    """What of a mess is seen."""
    marks = ("portlayer-mess", " etcd ")
    found = {
        kind: [name for name in names if any(mark in f"{name} " for mark in marks)] for kind, names in seen.items()
    }
    return {kind: names for kind, names in found.items() if names}


def groups(directory: Path) -> list[Path]:
    return [group for one in worker.hierarchies() for group in one.home.glob(f"{directory.name}*")]


def test_no_worker_sees_another(start: Callable[..., subprocess.Popen[str]]) -> None:
    before = hoststate.picture()
    assert sorted(mess(answer(start(MESS, LOOK)))) == sorted(KINDS)
    other = answer(start(LOOK))
    assert mess(other) == {}
    assert other["link"] == ["lo"]
    now = hoststate.picture()
    for kind in ("link", "network namespace", "nft table", "mount"):
        assert now[kind] == before[kind]


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_worker(
    start: Callable[..., subprocess.Popen[str]], directory: Path, number: signal.Signals | None
) -> None:
    before = hoststate.picture()
    process = start(MESS, LOOK)
    answer(process)
    assert groups(directory)
    if number:
        process.send_signal(number)
    process.communicate()
    if number == signal.SIGKILL:
        worker.tidy(directory.name)
    else:
        assert list(directory.iterdir()) == []
    assert groups(directory) == []
    assert hoststate.left_since(before) == []


def test_a_worker_ends_as_what_it_runs_does(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("raise SystemExit(3)")
    process.communicate()
    assert process.returncode == 3


def test_a_worker_keeps_what_it_is_told_to(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    script = (
        f"path = pathlib.Path({str(tmp_path)!r}, 'kept', 'x'); print(json.dumps(str(path)), flush=True); path.touch()"
    )
    process = start(script, kept=[tmp_path / "kept"])
    answer(process)
    process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "kept" / "x").exists()


def test_without_what_workers_take_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    workers = Workers()
    assert workers.pytest_xdist_auto_num_workers() == 0
    (line,) = workers.pytest_report_header()
    assert "unshare" in line
    with pytest.raises(pytest.UsageError, match="unshare"):
        workers.pytest_xdist_setupnodes(config=None, specs=[])  # type: ignore[arg-type]
