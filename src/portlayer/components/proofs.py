"""Everything that proves who somebody is, beside what the kernel says, as one authority."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import time
from collections.abc import Mapping

from portlayer.components.ca import Ca
from portlayer.components.certificates import CertificateBook
from portlayer.components.records import Records
from portlayer.components.replays import Replays
from portlayer.components.tokens import TokenBook
from portlayer.model.access import Identity
from portlayer.model.execution import replace


class Proofs:
    """Implements interfaces.authority.Authority. clients: whom certificates of given CAs prove, by subject. key: the
    host's."""

    def __init__(self, records: Records, replays: Replays, ca: Ca, clients: Mapping[str, Identity], key: bytes) -> None:
        self.tokens = TokenBook(records, replays, key)
        self.certificates = CertificateBook(records, replays, ca)
        self.grants = self.tokens.grants, self.certificates.grants
        self._ca = ca
        self._clients = clients

    async def identify(self, secret: str) -> Identity | None:
        return await self.tokens.identify(secret)

    async def certified(self, certificate: bytes) -> Identity | None:
        return await self.certificates.identify(certificate) or await self._given(certificate)

    async def ended(self, identity: Identity) -> None:
        kind, _, ident = identity.how.partition(":")
        if identity.until is not None:
            await asyncio.sleep(max(0.0, identity.until - time.time()))
        else:
            await (self.tokens if kind == "token" else self.certificates).grants.ended(ident)

    async def vouches(self, certificate: bytes) -> bool:
        return await self._ca.vouches(certificate)

    async def _given(self, certificate: bytes) -> Identity | None:
        """Whom *certificate* proves that TLS has found to be of a CA that is trusted: never one of our own, which may
        have been revoked."""
        if not self._clients:
            return None
        from portlayer.components import x509  # noqa: PLC0415

        read = x509.read(certificate)
        if read is None or not x509.lasts(read, dt.datetime.now(dt.UTC)) or await self._ca.has_signed(read):
            return None
        found = self._clients.get(read.subject.rfc4514_string())
        how = f"certificate:{hashlib.sha256(certificate).hexdigest()}"
        return found and replace(found, how=how, until=read.not_valid_after_utc.timestamp())
