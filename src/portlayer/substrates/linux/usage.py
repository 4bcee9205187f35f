"""How much of the disk trees take: counted by du(1), at the lowest priority, for it has to look at every file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

_AT_ONCE = 200


async def disk_usage(trees: Sequence[Path]) -> dict[Path, int]:
    """The bytes that each of *trees* takes, as blocks; holes take none. Who is not there is left out."""
    found: dict[Path, int] = {}
    for first in range(0, len(trees), _AT_ONCE):
        found |= await _measure(trees[first : first + _AT_ONCE])
    return found


async def _measure(trees: Sequence[Path]) -> dict[Path, int]:
    command = ("nice", "-n", "19", "du", "--summarize", "--one-file-system", "--block-size=1", "--null", "--")
    process = await asyncio.create_subprocess_exec(
        *command,
        *map(str, trees),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,  # files go while it looks at them
    )
    try:
        told, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        raise
    lines = (line.partition(b"\t") for line in told.split(b"\0") if line)
    return {Path(path.decode()): int(size) for size, _, path in lines}
