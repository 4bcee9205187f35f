"""The shim, one for each incarnation: it holds the streams, writes the log and keeps the exit code while we are away.

What it is called with and what it answers is told in shim.c; its log's format in `crilog`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import NamedTuple

from portlayer.substrates.linux.incarnation import Incarnation
from portlayer.substrates.linux.runtime import Runtime

PROGRAM = str(Path(__file__).with_name("portlayer-shim"))
REMEDY = "install portlayer again, with a C compiler (apt install gcc libc6-dev)"
ENVIRONMENT = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
REPORT, INPUT = 3, 60
"""Its descriptors: where it reports, and where it has the writing end of the stdin, or the terminal."""
_BLOCK = 16384
_REFUSED = b"!"


class Report(NamedTuple):
    """pid: of the process that the runtime has created; 0 where it has not, and `message` says why."""

    pid: int
    message: str = ""


def command(runtime: Runtime, incarnation: Incarnation, log: Path, *, stdin: bool, terminal: bool) -> list[str]:
    """The arguments of a shim whose working directory is that of the incarnation."""
    return [
        *(PROGRAM, f"-{'i' * stdin}{'t' * terminal}", incarnation.exits, incarnation.id, str(log)),
        *(runtime.command, f"--root={incarnation.runtime_root}", "create", "--bundle", incarnation.directory),
        *("--pid-file", "pid"),
        *(("--console-socket", "console") if terminal else ()),
        incarnation.id,
    ]


def is_there() -> bool:
    """Whether it was built when this package was installed."""
    return os.access(PROGRAM, os.X_OK)


def arguments(exits: str, incarnation: str = "") -> tuple[str, ...]:
    """Words by which the shims of one instance, or of one incarnation of it, are known among all processes."""
    return (PROGRAM, exits, incarnation) if incarnation else (PROGRAM, exits)


async def report(descriptor: int) -> Report:
    """What it says on the other end of *descriptor*, once the runtime has done its work."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[bytes] = loop.create_future()
    received = bytearray()

    def read() -> None:
        block = os.read(descriptor, _BLOCK)
        received.extend(block)
        whole = received.endswith(b"\n") and not received.startswith(_REFUSED)
        if (whole or not block) and not finished.done():
            finished.set_result(bytes(received))

    loop.add_reader(descriptor, read)
    try:
        text = await finished
    finally:
        loop.remove_reader(descriptor)
    if text.startswith(_REFUSED) or not text:
        return Report(0, text[len(_REFUSED) :].decode(errors="replace"))
    return Report(int(text))
