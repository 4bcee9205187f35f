"""One server, or one cleanup, a directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portlayer.model.errors import InUse


@contextmanager
def holding(*directories: Path) -> Iterator[None]:
    """Hold a lock on each of *directories*, which the kernel drops when this process ends, however it does.

    Raises:
        InUse: another process holds one.
    """
    held: list[int] = []
    try:
        for directory in directories:
            held.append(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            try:
                fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
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
