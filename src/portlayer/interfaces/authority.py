"""Who holds what proves who somebody is, as the server asks for it."""

from __future__ import annotations

from typing import Protocol

from portlayer.model.access import Identity


class Authority(Protocol):
    async def identify(self, secret: str) -> Identity | None:
        """Whose token *secret* is, as of now; None: no good one's."""

    async def certified(self, certificate: bytes) -> Identity | None:
        """Whom *certificate* proves, as of now; None: nobody. It is DER, of a CA that is trusted here, and the other
        end has its key; whether its time is over is asked here."""

    async def ended(self, identity: Identity) -> None:
        """Returns once *identity*, which came from here, is good no more."""

    async def vouches(self, certificate: bytes) -> bool:
        """Whether *certificate*, as DER, is that of a process of this port layer, whose word on who calls is taken."""
