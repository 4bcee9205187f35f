"""Surviving a server that is killed: what was not answered is asked again, with the same handle or key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from portlayer.model.errors import PortlayerError, Unavailable
from soak.server import Server

T = TypeVar("T")
PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.05


class Patience:
    """Asks again. repeated: how often it had to. unexplained: what was unavailable though the server was there."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.repeated = 0
        self.unexplained: list[str] = []

    async def again(self, ask: Callable[[], Awaitable[T]], happened: type[PortlayerError] | None = None) -> T | None:
        """What *ask* gives, asked until it is answered.

        happened: the error that tells, after a lost answer, that the call had been carried out; then it gives None.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        lost = False
        while True:
            before = (self._server.generation, self._server.up)
            try:
                return await ask()
            except Unavailable as error:
                if before == (self._server.generation, True) and self._server.up:
                    self.unexplained.append(str(error))
                if asyncio.get_running_loop().time() > deadline:
                    raise
                lost = True
                self.repeated += 1
                await asyncio.sleep(error.facts.get("retry_after_seconds", _PAUSE_SECONDS))
            except PortlayerError as error:
                if lost and happened is not None and isinstance(error, happened):
                    return None
                raise
