"""Programs that are started by way of the C library."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from portlayer.substrates.linux.posix import posix_spawn

SHELL = "/bin/sh"
BLOCKED_OR_IGNORED = "grep -e SigBlk -e SigIgn /proc/self/status"


def output(command: str, **variables: str) -> str:
    """What *command* writes."""
    read, write = os.pipe()
    try:
        pid = posix_spawn(
            [SHELL, "-c", command],
            {"PATH": os.environ["PATH"], **variables},
            opened=((0, os.devnull, os.O_RDONLY),),
            copied=((write, 1),),
            defaults=(signal.SIGPIPE,),
        )
    finally:
        os.close(write)
    with os.fdopen(read) as pipe:
        written = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return written


def test_it_has_what_it_was_given() -> None:
    assert output("echo $COLOUR; readlink /proc/self/fd/0", COLOUR="blue") == f"blue\n{os.devnull}\n"


def test_signals_that_python_ignores_are_not_ignored_and_none_is_blocked() -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    old = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        masks = dict(line.split() for line in output(BLOCKED_OR_IGNORED).splitlines())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    assert int(masks["SigBlk:"], 16) == 0
    assert not int(masks["SigIgn:"], 16) & 1 << signal.SIGPIPE - 1


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        posix_spawn([path], {}, opened=(), copied=(), defaults=())
    assert caught.value.filename == path


def test_others_get_on_while_a_child_comes_to_its_program(tmp_path: Path) -> None:
    """The child hangs in opening its stdin, and the call with it, until another thread of ours opens the other end."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    pids: list[int] = []

    def start() -> None:
        opened = ((0, fifo, os.O_RDONLY),)
        pids.append(posix_spawn([SHELL, "-c", "cat"], {}, opened=opened, copied=(), defaults=()))

    thread = threading.Thread(target=start)
    thread.start()
    os.close(os.open(fifo, os.O_WRONLY))
    thread.join(10)
    assert not thread.is_alive()
    assert os.waitpid(pids[0], 0)[0] == pids[0]
