"""Certificates of the private CA for clients: the serial number is the id of a grant, which says who it is and has its
digest. What else the certificate says is for people."""

from __future__ import annotations

from portlayer.components.ca import Ca
from portlayer.components.grants import Grants
from portlayer.components.records import Records
from portlayer.components.replays import Replays
from portlayer.model import grants as g
from portlayer.model.access import Identity
from portlayer.model.caller import Caller
from portlayer.model.errors import InvalidArgument

MOST_SECONDS = 5 * 365 * 86400
_MAX_REQUEST = 16 * 1024


class CertificateBook:
    """Issues, lists, revokes and recognises certificates."""

    def __init__(self, records: Records, replays: Replays, ca: Ca) -> None:
        self.grants = Grants(records, replays, "certificate", MOST_SECONDS)
        self._ca = ca

    async def create(self, caller: Caller, request: g.CreateCertificate) -> g.NewCertificate:
        """Raises InvalidArgument; NotFound for a VCH that is not there."""
        from portlayer.components import x509  # noqa: PLC0415

        if request.ttl_seconds is None:
            raise InvalidArgument("A certificate has an end; say ttlSeconds.", pointer="/ttlSeconds")
        if len(request.request) > _MAX_REQUEST:
            raise InvalidArgument("The signing request is longer than any that makes sense.", pointer="/request")
        public = x509.requested(request.request.encode())
        await self._ca.load()

        def prove(grant: g.Grant) -> tuple[bytes, g.NewCertificate]:
            issued = self._ca.issue_client(grant, public, request.ttl_seconds or 0)
            return issued.der, g.NewCertificate(pem=issued.pem, certificate=grant)

        return await self.grants.add(caller, request, g.NewCertificate, prove)

    async def page(self, request: g.ListGrants) -> g.Certificates:
        """Certificates by id."""
        found, following = await self.grants.page(request)
        return g.Certificates(certificates=found, next=following)

    async def identify(self, certificate: bytes) -> Identity | None:
        """Whose *certificate* is, which is DER, as of now; None: no good one of ours."""
        from portlayer.components import x509  # noqa: PLC0415

        read = x509.read(certificate)
        return await self.grants.holder(f"{read.serial_number:032x}", certificate) if read else None

    async def authorities(self) -> g.Authorities:
        """The CA's certificates."""
        await self._ca.load()
        return g.Authorities(pem=self._ca.pem)

    async def rotate(self, request: g.RotateCa) -> g.Authorities:
        """The CA signs with a new key from now on."""
        await self._ca.rotate(forget=request.forget)
        return g.Authorities(pem=self._ca.pem)
