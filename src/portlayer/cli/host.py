"""What commands do on this host without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from portlayer.compose import Settings, make_paths
from portlayer.substrates.linux.incarnation import exits
from portlayer.substrates.linux.network import LinuxNetwork
from portlayer.substrates.linux.substrate import LinuxSubstrate


@asynccontextmanager
async def open_substrate(settings: Settings) -> AsyncIterator[LinuxSubstrate]:
    """The substrate of this instance, for looking and removing alone: it is not started, so it makes nothing new."""
    paths = make_paths(settings)
    for directory in (paths.incarnations, exits(paths)):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    substrate = LinuxSubstrate(paths)
    await cast("LinuxNetwork", substrate.network).start()
    try:
        yield substrate
    finally:
        await substrate.close()
