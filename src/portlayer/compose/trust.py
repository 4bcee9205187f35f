"""What the one secret that each host is given makes of a process: a member of this port layer."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator

from portlayer.components.ca import Ca
from portlayer.compose.settings import Settings
from portlayer.compose.tls import Certificates
from portlayer.interfaces.store import Store
from portlayer.model.topology import Part
from portlayer.rest.passport import Passport
from portlayer.rest.server.app import Contexts


class Trust:
    """secret: the host's key. passport: signs for callers. ca: the private one. certificates: of the process *part*,
    where processes are reached over TLS."""

    def __init__(self, store: Store, secret: bytes, part: Part, settings: Settings) -> None:
        self.secret = secret
        self.passport = Passport(hmac.digest(secret, b"portlayer passport 1", hashlib.sha256))
        self.ca = Ca(store, secret)
        self.certificates = Certificates(self.ca, part, settings.tls) if settings.topology.has_remote else None

    @property
    def calling(self) -> Contexts | None:
        """What other processes are called with."""
        return self.certificates.calling if self.certificates else None

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """The certificates are there, and renewed."""
        if self.certificates is None:
            yield
            return
        await self.certificates.start()
        try:
            yield
        finally:
            await self.certificates.close()
