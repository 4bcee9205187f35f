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


@pytest.mark.parametrize(
    ("command", "code"),
    [(["true"], 0), (["sh", "-c", "exit 3"], 3), (["nothing-like-it"], 127), (["/etc/passwd"], 126)],
)
def test_the_exit_code_is_the_containers(cli: Cli, command: list[str], code: int) -> None:
    done = cli("run", "--rm", "busybox", *command)
    assert done.returncode == code
    assert ("portlayer: " in done.stderr) == (code in {126, 127})


@pytest.mark.parametrize(
    "args",
    [
        ("absent", "true"),
        ("--no-such-option", "busybox"),
        ("-v", "/etc:/etc", "busybox", "true"),
        ("-m", "a lot", "busybox", "true"),
        ("--network", "absent", "busybox", "true"),
    ],
)
def test_failures_of_ours_exit_with_125_and_leave_nothing(cli: Cli, args: tuple[str, ...]) -> None:
    before = cli.ok("ps", "-aq")
    done = cli("run", *args)
    assert done.returncode == 125
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert cli.ok("ps", "-aq") == before


def test_stdout_and_stderr_come_apart_and_rm_leaves_nothing(cli: Cli) -> None:
    before = cli.ok("ps", "-aq")
    done = cli("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert cli.ok("ps", "-aq") == before


def test_options_after_the_image_are_the_commands(cli: Cli) -> None:
    assert cli.ok("run", "--rm", "busybox", "echo", "--rm", "-i") == "--rm -i\n"


def test_the_container_gets_what_was_asked_for(cli: Cli) -> None:
    options = ["-e", "A=1", "-w", "/tmp", "-u", "65534:65534", "--hostname", "here", "--entrypoint", "/bin/sh"]
    said = cli.ok("run", "--rm", *options, "busybox", "-c", "echo $A $(pwd) $(id -u):$(id -g) $(hostname)")
    assert said == "1 /tmp 65534:65534 here\n"


def test_limits_and_labels_are_recorded(cli: Cli) -> None:
    limits = ["-m", "64m", "--cpus", "0.5", "--pids-limit", "20", "-l", "a=b", "--restart", "on-failure:2"]
    ref = cli.ok("run", "-d", "--name", "limited", *limits, "busybox", "true").strip()
    (found,) = cli.json("inspect", ref[:8])
    assert found["resources"] == {"cpus": 0.5, "memoryBytes": 64 << 20, "pids": 20}
    assert found["labels"] == {"a": "b"}
    assert found["restartPolicy"] == {"name": "on-failure", "maximumRetryCount": 2}


def test_stdin_is_piped_until_its_end(cli: Cli) -> None:
    data = os.urandom(300_000)
    done = subprocess.run(
        ["portlayer", "run", "--rm", "-i", "busybox", "cat"],
        executable=cli.start("version", stdout=subprocess.DEVNULL).args[0],
        env=cli.environment,
        input=data,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, data)


def test_signals_are_passed_on(cli: Cli) -> None:
    script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    with cli.start("run", "--rm", "busybox", "sh", "-c", script, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == b"caught\n"
        assert running.wait(SECONDS) == 7


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, cli: Cli, *args: str, width: int = 80, height: int = 24) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(width, height)
        self.process = cli.start(*args, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self.seen = b""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def until(self, text: bytes) -> bytes:
        """Read until *text* is there; what came up to it."""
        limit = time.monotonic() + SECONDS
        while text not in self.seen:
            assert time.monotonic() < limit, self.seen
            self.seen += os.read(self.ours, 65536)
        before, _, self.seen = self.seen.partition(text)
        return before


@contextlib.contextmanager
def on_terminal(cli: Cli, *args: str, width: int = 80, height: int = 24) -> Iterator[Terminal]:
    terminal = Terminal(cli, *args, width=width, height=height)
    try:
        yield terminal
        assert terminal.process.wait(SECONDS) is not None
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
        terminal.type(b"until stty size | grep '44 99'; do :; done; echo re-sized\n")
        terminal.until(b"44 99\r\n")
        terminal.until(b"re-sized\r\n")
        terminal.type(b"exit 5\n")
        assert terminal.process.wait(SECONDS) == 5


def test_detach_keys_leave_it_running_and_attach_comes_back(cli: Cli) -> None:
    with on_terminal(cli, "run", "-it", "--name", "left", "--detach-keys", "ctrl-x", "busybox", "sh") as terminal:
        terminal.type(b"echo he''re\n")
        terminal.until(b"here\r\n")
        terminal.type(b"\x18")
        assert terminal.process.wait(SECONDS) == 0
    assert [each["state"] for each in cli.json("inspect", "left")] == ["running"]
    with on_terminal(cli, "attach", "left") as terminal:
        terminal.type(b"echo ba''ck; exit 4\n")
        terminal.until(b"back\r\n")
        assert terminal.process.wait(SECONDS) == 4


def test_volumes_outlive_containers(cli: Cli) -> None:
    cli.ok("run", "--rm", "-v", "jar:/jar", "busybox", "sh", "-c", "echo cookie > /jar/one")
    assert cli.ok("run", "--rm", "-v", "jar:/jar:ro", "busybox", "cat", "/jar/one") == "cookie\n"
    read_only = cli("run", "--rm", "-v", "jar:/jar:ro", "busybox", "touch", "/jar/two")
    assert read_only.returncode == 1
    assert "Read-only" in read_only.stderr
    cli.ok("volume", "rm", "jar")
    assert "jar" not in cli.ok("volume", "ls")


def test_variables_come_from_files_and_from_us(cli: Cli) -> None:
    file = cli.directory / "variables"
    file.write_text("# a comment\n\nFROM_FILE=two words\nBOTH=file\n")
    options = ["--env-file", str(file), "-e", "BOTH=option", "-e", "PORTLAYER_RUN", "-e", "UNSET_HERE"]
    said = cli.ok("run", "--rm", *options, "busybox", "env").splitlines()
    assert {"FROM_FILE=two words", "BOTH=option", f"PORTLAYER_RUN={cli.directory}/run"} <= set(said)
    assert not [line for line in said if line.startswith("UNSET_HERE")]
