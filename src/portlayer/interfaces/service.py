"""The port layer itself: what it is, tenants, events, small values for personas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from portlayer.model import grants as g
from portlayer.model import service as m
from portlayer.model.caller import Caller
from portlayer.model.events import NumberedEvent
from portlayer.model.storage import Nothing


class Service(Protocol):
    async def info(self, caller: Caller, request: Nothing) -> m.Info:
        """Version, components and where they run, substrates, store."""

    async def delete_host(self, caller: Caller, request: m.DeleteHost) -> None:
        """A host that is away does not come back: what it had is let go. Raises NotFound, InvalidState while it lives,
        InUse while it has containers or volumes, unless forced."""

    async def ready(self, caller: Caller, request: Nothing) -> m.Readiness:
        """Whether store and substrate answer. A commit that is stuck is told among the checks and makes nobody unready:
        all but its container goes on."""

    async def list_processes(self, caller: Caller, request: Nothing) -> m.Processes:
        """The processes that live, and how they are: each is asked."""

    async def metrics(self, caller: Caller, request: Nothing) -> str:
        """Prometheus text."""

    async def list_vchs(self, caller: Caller, request: m.ListVchs) -> m.Vchs:
        """All tenants."""

    async def get_vch(self, caller: Caller, request: m.VchRef) -> m.Vch:
        """One tenant with its usage."""

    async def create_vch(self, caller: Caller, request: m.CreateVch) -> m.Vch:
        """A new tenant. Raises AlreadyExists, and InvalidArgument for its name or quota."""

    async def update_vch(self, caller: Caller, request: m.UpdateVch) -> m.Vch:
        """Limits change at once; what is above them stays, and nothing is added. Raises NotFound, Conflict."""

    async def delete_vch(self, caller: Caller, request: m.DeleteVch) -> None:
        """The tenant goes. Raises InUse where it has anything, unless forced; NotFound, Conflict; InvalidArgument for
        `default`; Unavailable where it takes long: it goes on by itself.
        """

    async def create_token(self, caller: Caller, request: g.CreateToken) -> g.NewToken:
        """A new token, with its secret, which is told this once. Raises InvalidArgument; NotFound for its VCH."""

    async def list_tokens(self, caller: Caller, request: g.ListGrants) -> g.Tokens:
        """All tokens that are good, without their secrets."""

    async def delete_token(self, caller: Caller, request: g.GrantRef) -> None:
        """It is good for nothing from now on, and streams that it opened end. Raises NotFound."""

    async def create_certificate(self, caller: Caller, request: g.CreateCertificate) -> g.NewCertificate:
        """A new certificate of the private CA. Raises InvalidArgument; NotFound for its VCH."""

    async def list_certificates(self, caller: Caller, request: g.ListGrants) -> g.Certificates:
        """All certificates of clients that are good."""

    async def delete_certificate(self, caller: Caller, request: g.GrantRef) -> None:
        """It is revoked: good for nothing from now on, and streams that it opened end. Raises NotFound."""

    async def authorities(self, caller: Caller, request: Nothing) -> g.Authorities:
        """The private CA: what to trust to know this port layer's processes."""

    async def rotate_ca(self, caller: Caller, request: g.RotateCa) -> g.Authorities:
        """The private CA signs with a new key from now on."""

    async def events(self, caller: Caller, request: m.Subscribe) -> AsyncIterator[NumberedEvent]:
        """Events from a cursor on, for ever; first `events.missed` where some of them are kept no more. Raises
        InvalidArgument for a cursor that is none."""

    async def get_kv(self, caller: Caller, request: m.KvRef) -> m.KvEntry:
        """Raises NotFound."""

    async def put_kv(self, caller: Caller, request: m.PutKv) -> m.KvEntry:
        """Raises Conflict where if_match does not hold, InvalidArgument where it is too large."""

    async def delete_kv(self, caller: Caller, request: m.DeleteKv) -> None:
        """Raises NotFound, Conflict."""
