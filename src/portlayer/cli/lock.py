"""One port layer, or one cleanup, a directory: a server alone, or one of each name."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portlayer.model.errors import InUse


@contextmanager
def holding(*directories: Path, name: str | None = None) -> Iterator[None]:
    """Hold a lock on each of *directories*, which the kernel drops when this process ends, however it does.

    name: of one process of several that share them.

    Raises:
        InUse: another process holds one, or has this name.
    """
    held: list[int] = []
    kinds = dict.fromkeys(directories, fcntl.LOCK_EX if name is None else fcntl.LOCK_SH)
    if name is not None:
        mine = directories[-1] / "processes" / name
        mine.mkdir(parents=True, exist_ok=True, mode=0o700)
        kinds[mine] = fcntl.LOCK_EX
    try:
        for directory, kind in kinds.items():
            held.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            try:
                fcntl.flock(held[-1], kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse(
                    f"Another port layer uses {directory}; stop it, or choose other directories with PORTLAYER_STATE "
                    "and PORTLAYER_RUN.",
                    kind="directory",
                    id=str(directory),
                ) from None
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
