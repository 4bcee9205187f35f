"""What commands do on this host without a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from portlayer.compose import Settings, make_paths
from portlayer.interfaces.substrate import Substrate
from portlayer.substrates.linux.substrate import LinuxSubstrate


@asynccontextmanager
async def open_substrate(settings: Settings) -> AsyncIterator[Substrate]:
    """The substrate of this instance alone, without its store."""
    substrate = LinuxSubstrate(make_paths(settings), runtime=settings.runtime or None)
    await substrate.start()
    try:
        yield substrate
    finally:
        await substrate.close()
