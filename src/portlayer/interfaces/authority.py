"""Who holds which token, as the server asks for it."""

from __future__ import annotations

from typing import Protocol

from portlayer.model.access import Identity


class Authority(Protocol):
    async def identify(self, secret: str) -> Identity | None:
        """Whose token *secret* is, as of now; None: no good one's."""

    async def ended(self, identity: Identity) -> None:
        """Returns once *identity*, which came from here, is good no more."""
