"""`portlayer run`: exit codes, streams, and what the container gets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator

import pytest
from cli.conftest import SECONDS, Cli

from portlayer.client import SyncPortLayer


@pytest.fixture(autouse=True)
def _nothing_left(pl: SyncPortLayer) -> Iterator[None]:
    yield
    for container in pl.execution.list():
        pl.execution.remove(container.id, force=True)


def test_the_exit_code_is_the_containers(cli: Cli, pl: SyncPortLayer) -> None:
    commands = (["true"], ["sh", "-c", "exit 3"])
    done = cli.several(*(["run", "--rm", "busybox", *command] for command in commands))
    assert [(each.code, each.out, each.err) for each in done] == [(0, "", ""), (3, "", "")]
    assert pl.execution.list() == ()


def test_commands_that_cannot_be_started_say_why(cli: Cli, pl: SyncPortLayer) -> None:
    absent, not_executable, detached, removed = cli.several(
        ["run", "busybox", "nothing-like-it"],
        ["run", "busybox", "/etc/passwd"],
        ["run", "-d", "busybox", "nothing-like-it"],
        ["run", "--rm", "--name", "for-a-moment", "busybox", "nothing-like-it"],
    )
    assert (absent.code, not_executable.code, detached.code, removed.code) == (127, 126, 127, 127)
    assert all(each.err.startswith("portlayer: ") for each in (absent, not_executable, detached))
    assert "nothing-like-it" in removed.err
    assert not pl.execution.list(name="for-a-moment")


def test_failures_of_ours_exit_with_125_and_leave_nothing(cli: Cli, pl: SyncPortLayer) -> None:
    done = cli.several(
        ["run", "absent", "true"],
        ["run", "--no-such-option", "busybox"],
        ["run", "-v", "/etc:/etc", "busybox", "true"],
        ["run", "-m", "a lot", "busybox", "true"],
        ["run", "--network", "absent", "-v", "/data", "busybox", "true"],
        ["run", "--cpus", "nan", "busybox", "true"],
        ["--vch", "absent", "run", "busybox", "true"],
    )
    assert [(each.code, each.out) for each in done] == [(125, "")] * 7
    assert not [each.err for each in done if "Traceback" in each.err or "step" in each.err or not each.err]
    assert done[0].err == "portlayer: There is no image called 'absent'.\n"
    assert pl.execution.list() == ()
    assert pl.storage.list_volumes() == ()


def test_stdout_and_stderr_come_apart(cli: Cli) -> None:
    done = cli("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.out, done.err) == ("out\n", "err\n")


def test_the_container_gets_what_was_asked_for(cli: Cli) -> None:
    """Also that options behind the image are the command's."""
    options = ["-e", "A=1", "-w", "/tmp", "-u", "65534:65534", "--hostname", "here", "--entrypoint", "/bin/sh"]
    said = cli.ok(
        "run", "--rm", *options, "busybox", "-c", 'echo $A $(pwd) $(id -u):$(id -g) $(hostname) "$@"', "x", "--rm"
    )
    assert said == "1 /tmp 65534:65534 here --rm\n"


def test_limits_and_labels_are_recorded(cli: Cli, pl: SyncPortLayer) -> None:
    limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "20", "-l", "a=b", "--restart", "on-failure:2"]
    ref = cli.ok("run", "-d", "--name", "limited", *limits, "busybox", "true").strip()
    found = pl.execution.inspect_container("limited")
    assert found.id == ref
    assert (found.resources.cpus, found.resources.memory_bytes, found.resources.pids) == (0.5, 64 << 20, 20)
    assert found.labels == {"a": "b"}
    assert (found.restart_policy.name, found.restart_policy.maximum_retry_count) == ("on-failure", 2)
    pl.execution.remove(ref, force=True)


def test_stdin_is_piped_until_its_end(cli: Cli) -> None:
    data = os.urandom(300_000)
    assert cli.raw("run", "--rm", "-i", "busybox", "cat", stdin=data) == (0, data, b"")


def test_signals_are_passed_on(cli: Cli) -> None:
    script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    with cli.start("run", "--rm", "busybox", "sh", "-c", script, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == b"caught\n"
        assert running.wait(SECONDS) == 7


def test_the_third_interrupt_leaves_alone_what_does_not_listen(cli: Cli, pl: SyncPortLayer) -> None:
    script = "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with cli.start("run", "--rm", "--name", "deaf", "busybox", "sh", "-c", script, **streams) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b"ready\n"
        for _ in range(2):
            running.send_signal(signal.SIGINT)
            assert running.stdout.readline() == b"no\n"
        assert b"interrupt once more" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(SECONDS) == 128 + signal.SIGINT
    assert pl.execution.inspect_container("deaf").state == "running"
    pl.execution.remove("deaf", force=True)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, cli: Cli, *args: str, width: int, height: int) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(width, height)
        self.process = cli.start(*args, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self.seen = b""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def until(self, text: bytes) -> None:
        """Read until *text* is there."""
        limit = time.monotonic() + SECONDS
        while text not in self.seen:
            assert time.monotonic() < limit, self.seen
            self.seen += os.read(self.ours, 65536)
        self.seen = self.seen.partition(text)[2]


@contextlib.contextmanager
def on_terminal(cli: Cli, *args: str, width: int = 80, height: int = 24) -> Iterator[Terminal]:
    terminal = Terminal(cli, *args, width=width, height=height)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.ours)


def test_a_terminal_has_our_size_and_follows_it(cli: Cli) -> None:
    with on_terminal(cli, "run", "--rm", "-it", "busybox", "sh", width=101, height=31) as terminal:
        terminal.type(b"until stty size | grep '31 101'; do :; done; tty\n")
        terminal.until(b"31 101\r\n")
        terminal.until(b"/dev/pts/0\r\n")
        terminal.resize(99, 44)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.type(b"until stty size | grep '44 99'; do :; done\n")
        terminal.until(b"44 99\r\n")
        terminal.type(b"exit 5\n")
        assert terminal.process.wait(SECONDS) == 5


def test_detach_keys_leave_it_running_and_attach_comes_back(cli: Cli, pl: SyncPortLayer) -> None:
    with on_terminal(cli, "run", "-it", "--name", "left", "--detach-keys", "ctrl-x", "busybox", "sh") as terminal:
        terminal.type(b"echo he''re\n")
        terminal.until(b"here\r\n")
        terminal.type(b"\x18")
        assert terminal.process.wait(SECONDS) == 0
    assert pl.execution.inspect_container("left").state == "running"
    with on_terminal(cli, "attach", "left") as terminal:
        terminal.type(b"echo ba''ck; exit 4\n")
        terminal.until(b"back\r\n")
        assert terminal.process.wait(SECONDS) == 4
    pl.execution.remove("left")


def test_volumes_outlive_containers(cli: Cli, pl: SyncPortLayer) -> None:
    cli.ok("run", "--rm", "-v", "jar:/jar", "busybox", "sh", "-c", "echo cookie > /jar/one")
    done = cli("run", "--rm", "-v", "jar:/jar:ro", "busybox", "sh", "-c", "cat /jar/one; touch /jar/two")
    assert (done.code, done.out) == (1, "cookie\n")
    assert "Read-only" in done.err
    pl.storage.remove_volume("jar")


def test_variables_come_from_files_and_from_us(cli: Cli) -> None:
    file = cli.directory / "variables"
    file.write_text("# a comment\n\nFROM_FILE=two words\nBOTH=file\n")
    options = ["--env-file", str(file), "-e", "BOTH=option", "-e", "PORTLAYER_RUN", "-e", "UNSET_HERE"]
    said = cli.ok("run", "--rm", *options, "busybox", "env").splitlines()
    assert {"FROM_FILE=two words", "BOTH=option", f"PORTLAYER_RUN={cli.directory}/run"} <= set(said)
    assert not [line for line in said if line.startswith("UNSET_HERE")]
