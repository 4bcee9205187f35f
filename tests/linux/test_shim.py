"""The shim by itself, with a shell script as its runtime: what it reports, logs and leaves. As root."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portlayer.model.interaction import STDERR, STDOUT
from portlayer.substrates.linux import crilog, kernel, shim

PATIENCE_SECONDS = 30.0
# Like a runtime, it leaves a process behind that waits for its release.
CREATES = 'sh -c "read go < gate; exec sh ./program" & echo $! > pid'


class Lab:
    """One incarnation's directory, the directory of exit codes beside it, and a log on a file system of its own."""

    def __init__(self, home: Path) -> None:
        self.place, self.exits, self.log = home / "place", home / "exits", home / "logs" / "log"
        for directory in (self.place, self.exits, self.log.parent):
            directory.mkdir()
        os.mkfifo(self.place / "gate")
        os.mkfifo(self.place / "next")
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, program: str, runtime: str = CREATES, flags: str = "-") -> tuple[subprocess.Popen[bytes], bytes]:
        """The shim, and what it reports."""
        (self.place / "program").write_text(program)
        read, write = os.pipe()
        command = [shim.PROGRAM, flags, str(self.exits), "abc", str(self.log), "/bin/sh", "-c", runtime]
        started = subprocess.Popen(
            command,
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[shim.REPORT],
            preexec_fn=lambda: os.dup2(write, shim.REPORT),  # noqa: PLW1509 - no threads here
        )
        self.started.append(started)
        os.close(write)
        with os.fdopen(read, "rb") as report:
            return started, report.read()

    def release(self, gate: str = "gate") -> None:
        """Let the process go on, once it waits there."""
        (self.place / gate).write_text("go\n")

    def lines(self) -> list[bytes]:
        return self.log.read_bytes().splitlines(keepends=True)

    def wait(self, started: subprocess.Popen[bytes]) -> str:
        """The exit code that it leaves; the shim itself ends with 0."""
        assert started.wait(PATIENCE_SECONDS) == 0
        assert [path.name for path in self.exits.iterdir()] == ["abc"]
        return (self.exits / "abc").read_text()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    for started in made.started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@pytest.mark.parametrize(
    ("ends", "code"), [("exit 0", "0"), ("exit 42", "42"), ("exit 255", "255"), ("kill -KILL $$", "137")]
)
def test_the_exit_code(lab: Lab, ends: str, code: str) -> None:
    started, report = lab.start(ends)
    assert int(report) > 1
    lab.release()
    assert lab.wait(started) == code


def test_the_log_has_streams_lines_and_true_times(lab: Lab) -> None:
    before = time.time_ns()
    started, _ = lab.start("printf 'one\\ntwo'; sleep 0.2; echo three; echo four >&2")
    lab.release()
    lab.wait(started)
    block = lab.log.read_bytes()
    chunks, end = crilog.parse(block, 0, split=True)
    assert end == len(block)
    assert b"".join(chunk.data for chunk in chunks if chunk.stream == STDOUT) == b"one\ntwothree\n"
    assert b"".join(chunk.data for chunk in chunks if chunk.stream == STDERR) == b"four\n"
    assert all(before <= chunk.time <= time.time_ns() for chunk in chunks)
    assert [chunk.time for chunk in chunks] == sorted(chunk.time for chunk in chunks)


def test_much_output_at_once_is_whole(lab: Lab) -> None:
    started, _ = lab.start("i=0; while [ $i -lt 20000 ]; do echo line-$i; i=$((i+1)); done; printf end")
    lab.release()
    lab.wait(started)
    chunks, _ = crilog.parse(lab.log.read_bytes(), 0)
    assert b"".join(chunk.data for chunk in chunks) == b"".join(b"line-%d\n" % n for n in range(20_000)) + b"end"


def test_a_runtime_that_fails_is_quoted(lab: Lab) -> None:
    started, report = lab.start("", runtime="echo the flux capacitor is empty >&2; exit 3")
    assert report == b"!the flux capacitor is empty\n"
    assert started.wait(PATIENCE_SECONDS) == 1
    assert list(lab.exits.iterdir()) == []


def test_a_runtime_that_babbles_is_quoted_in_part(lab: Lab) -> None:
    started, report = lab.start("", runtime="yes no | head -c 1000000 >&2; exit 3")
    assert report.startswith(b"!no\nno\n")
    assert len(report) < 100_000
    assert started.wait(PATIENCE_SECONDS) == 1


def test_signals_that_end_others_do_not_end_it(lab: Lab) -> None:
    started, _ = lab.start("read x < next; exit 7")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        started.send_signal(number)
    lab.release()
    lab.release("next")
    assert lab.wait(started) == "7"


def test_orphans_of_the_container_are_reaped(lab: Lab) -> None:
    """A process whose parent has gone is the shim's; its end is not taken for the container's."""
    started, _ = lab.start("(sh -c 'echo $$ > orphan; exit 9' &); read x < next; exit 8")
    lab.release()
    orphan = ""
    until = time.monotonic() + PATIENCE_SECONDS
    while not orphan or Path("/proc", orphan).exists():
        assert time.monotonic() < until
        with contextlib.suppress(FileNotFoundError):
            orphan = (lab.place / "orphan").read_text().strip()
    lab.release("next")
    assert lab.wait(started) == "8"


@pytest.fixture
def small_disk(lab: Lab) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", lab.log.parent], check=True)
    yield lab.log.parent
    kernel.umount(str(lab.log.parent), kernel.MNT_DETACH)


def test_a_full_disk_holds_no_container_up_and_the_log_goes_on_after_it(lab: Lab, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(40_000))
    started, _ = lab.start("head -c 200000 /dev/zero | tr '\\0' x; echo; read x < next; echo after; exit 5")
    lab.release()
    with (lab.place / "next").open("w") as gate:  # opened once the program reads again
        (small_disk / "ballast").unlink()
        gate.write("go\n")
    assert lab.wait(started) == "5"
    chunks, _ = crilog.parse(lab.log.read_bytes(), 0)
    assert b"".join(chunk.data for chunk in chunks).endswith(b"after\n")
