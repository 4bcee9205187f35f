"""conmon, one for each incarnation: it holds the streams, writes the log and keeps the exit code while we are away.

Source: conmon(8) 2.1; its log format is in `conmonlog`.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from portlayer.substrates.linux.incarnation import Incarnation
from portlayer.substrates.linux.runtime import Runtime

_BLOCK = 16384
_INHERITED = 3
# UTC, so that times in the log need no table of zones.
ENVIRONMENT = {"_OCI_SYNCPIPE": str(_INHERITED), "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "TZ": "UTC"}


class Report(msgspec.Struct):
    """What conmon writes once the runtime has created the process, or failed to: `data` is a pid, or negative."""

    data: int
    message: str = ""


_reports = msgspec.json.Decoder(Report)


def command(
    program: str,
    runtime: Runtime,
    incarnation: Incarnation,
    log: Path,
    exit_directory: Path,
    *,
    stdin: bool,
    terminal: bool,
) -> list[str]:
    """Arguments of a conmon that leaves its parent behind (no `--sync`): the pages of libraries that only its start
    needed go with that one, which makes what stays a quarter smaller."""
    return [
        *(program, "--api-version", "1", "--no-sync-log", "--full-attach"),
        *("-c", incarnation.id, "-u", incarnation.id, "-b", incarnation.directory, "-p", incarnation.file("pid")),
        *("--conmon-pidfile", incarnation.file("conmon")),
        *("-r", runtime.command, "--runtime-arg", f"--root={incarnation.runtime_root}"),
        *("-l", f"k8s-file:{log}", "--exit-dir", str(exit_directory)),
        *(("-i",) if stdin else ()),
        *(("-t",) if terminal else ()),
    ]


async def report(descriptor: int) -> Report | None:
    """conmon's report from the read end of its pipe; None where it ended without one."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[bytes] = loop.create_future()
    received = bytearray()

    def read() -> None:
        block = os.read(descriptor, _BLOCK)
        received.extend(block)
        if (not block or received.endswith(b"\n")) and not finished.done():
            finished.set_result(bytes(received))

    loop.add_reader(descriptor, read)
    try:
        text = await finished
    finally:
        loop.remove_reader(descriptor)
    try:
        return _reports.decode(text)
    except msgspec.DecodeError:
        return None
