"""Everything that proves who somebody is, beside what the kernel says, as one authority."""

from __future__ import annotations

from portlayer.components.ca import Ca
from portlayer.components.tokens import TokenBook
from portlayer.model.access import Identity


class Proofs:
    """Implements interfaces.authority.Authority: tokens, and the certificates of processes."""

    def __init__(self, tokens: TokenBook, ca: Ca) -> None:
        self._tokens = tokens
        self._ca = ca

    async def identify(self, secret: str) -> Identity | None:
        return await self._tokens.identify(secret)

    async def ended(self, identity: Identity) -> None:
        await self._tokens.ended(identity)

    async def vouches(self, certificate: bytes) -> bool:
        return await self._ca.vouches(certificate)
