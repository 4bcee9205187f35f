"""Servers that are forked from a process which has read all modules: they start in a quarter of the time.

Each is `portlayer serve` all the same, in a process of its own that can be killed.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_MODULES = ["portlayer.cli.main", "portlayer.cli.serve", "portlayer.cli.cleanup"]
_CLONE_NEWNET = 0x40000000
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_MODULES)


def start(
    arguments: Sequence[str], environment: Mapping[str, str], log: Path, network: str = ""
) -> tuple[ForkServerProcess, Connection]:
    """`portlayer` with *arguments*, its errors in *log*; the process, and where its output can be read. network: the
    file of the network namespace that it is in; "" for that of who calls, as the process that forks may be in another:
    where its first caller was."""
    network = network or f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    reading, writing = _context.Pipe(duplex=False)
    process = _context.Process(target=_portlayer, args=(arguments, dict(environment), str(log), writing, network))
    process.start()
    writing.close()
    return process, reading


def output(reading: Connection, *, until: bytes = b"") -> bytes:
    """What comes, to the end, or up to the line that has *until*."""
    said = b""
    with reading:
        while not (until and until in said):
            piece = os.read(reading.fileno(), 65536)
            if not piece:
                break
            said += piece
    return said


def ended(process: ForkServerProcess, seconds: float) -> int:
    """How *process* ends within *seconds*: as `exitcode` has it."""
    process.join(seconds)
    code = process.exitcode
    assert code is not None, f"it has not ended within {seconds} seconds"
    process.close()
    return code


def _portlayer(
    arguments: Sequence[str], environment: dict[str, str], log: str, writing: Connection, network: str
) -> None:
    descriptor = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
    assert ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    os.close(descriptor)
    os.environ.update(environment)
    os.dup2(writing.fileno(), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    sys.argv = ["portlayer", *arguments]
    from portlayer.cli.main import main  # noqa: PLC0415  (the forking process has it already)

    main()
