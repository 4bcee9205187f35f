"""The port layer itself: what it is, events, small values."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portlayer.client.component import PAGE, Component, pages
from portlayer.client.streams import closing
from portlayer.model import grants as g
from portlayer.model import service as m
from portlayer.model.access import Role
from portlayer.model.events import NumberedEvent
from portlayer.model.storage import Nothing


class Service(Component):
    """What belongs to no component alone."""

    async def info(self) -> m.Info:
        """Version, components and where they run, substrates, store."""
        return await self._components.service.info(self._caller, Nothing())

    async def remove_host(self, name: str, *, force: bool = False) -> None:
        """Forget a host that is away for good. force: with its containers and volumes. Raises InUse, InvalidState."""
        await self._components.service.delete_host(self._caller, m.DeleteHost(ref=name, force=force))

    async def ready(self) -> m.Readiness:
        """Whether store and substrate answer."""
        return await self._components.service.ready(self._caller, Nothing())

    async def list_processes(self) -> tuple[m.ProcessHealth, ...]:
        """The processes that live, and how they are."""
        return (await self._components.service.list_processes(self._caller, Nothing())).processes

    async def metrics(self) -> str:
        """Prometheus text."""
        return await self._components.service.metrics(self._caller, Nothing())

    async def list_vchs(self) -> tuple[m.Vch, ...]:
        """All tenants."""

        async def ask(after: str | None) -> m.Vchs:
            return await self._components.service.list_vchs(self._caller, m.ListVchs(limit=PAGE, after=after))

        return tuple([vch async for page in pages(ask) for vch in page.vchs])

    async def inspect_vch(self, name: str | None = None) -> m.Vch:
        """A tenant with its usage; without a name, the one that this client speaks for."""
        return await self._components.service.get_vch(self._caller, m.VchRef(ref=name or self._caller.vch))

    async def create_vch(self, name: str, quota: m.Quota | None = None, *, idempotency_key: str | None = None) -> m.Vch:
        """A new tenant; without a quota, without limits. Raises AlreadyExists."""
        request = m.CreateVch(name=name, quota=quota or m.Quota())
        return await self._components.service.create_vch(self._creating(idempotency_key), request)

    async def set_quota(self, name: str, quota: m.QuotaChange, *, if_match: str | None = None) -> m.Vch:
        """Change limits at once: a number sets one, None lifts it, what is left out stays.

        if_match: the version that it must have now, or Conflict is raised.
        """
        request = m.UpdateVch(ref=name, quota=quota, if_match=if_match)
        return await self._components.service.update_vch(self._caller, request)

    async def remove_vch(self, name: str, *, force: bool = False) -> None:
        """Delete a tenant, which must have nothing; with force, with all that it has. Raises InUse, NotFound."""
        await self._components.service.delete_vch(self._caller, m.DeleteVch(ref=name, force=force))

    async def create_token(
        self,
        subject: str,
        role: Role,
        *,
        vch: str | None = None,
        ttl_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> g.NewToken:
        """A token for *subject*; its secret is told once, or to whom it was told, again under the same idempotency_key.
        A viewer or user has a vch, an operator none."""
        request = g.CreateToken(subject=subject, role=role, vch=vch, ttl_seconds=ttl_seconds)
        return await self._components.service.create_token(self._creating(idempotency_key), request)

    async def list_tokens(self) -> tuple[g.Grant, ...]:
        """All tokens that are good, without their secrets."""

        async def ask(after: str | None) -> g.Tokens:
            return await self._components.service.list_tokens(self._caller, g.ListGrants(limit=PAGE, after=after))

        return tuple([token async for page in pages(ask) for token in page.tokens])

    async def delete_token(self, ident: str) -> None:
        """It is good for nothing from now on, and streams that it opened end. Raises NotFound."""
        await self._components.service.delete_token(self._caller, g.GrantRef(id=ident))

    async def create_certificate(
        self,
        subject: str,
        role: Role,
        request: str,
        *,
        vch: str | None = None,
        ttl_seconds: int = g.CERTIFICATE_DAYS * 86400,
        idempotency_key: str | None = None,
    ) -> g.NewCertificate:
        """A certificate for *subject*. request: a signing request, PEM, of the key that its holder has. A viewer or
        user has a vch, an operator none."""
        wanted = g.CreateCertificate(subject=subject, role=role, vch=vch, ttl_seconds=ttl_seconds, request=request)
        return await self._components.service.create_certificate(self._creating(idempotency_key), wanted)

    async def list_certificates(self) -> tuple[g.Grant, ...]:
        """All certificates of clients that are good."""

        async def ask(after: str | None) -> g.Certificates:
            request = g.ListGrants(limit=PAGE, after=after)
            return await self._components.service.list_certificates(self._caller, request)

        return tuple([each async for page in pages(ask) for each in page.certificates])

    async def revoke_certificate(self, ident: str) -> None:
        """It is good for nothing from now on, and streams that it opened end. Raises NotFound."""
        await self._components.service.delete_certificate(self._caller, g.GrantRef(id=ident))

    async def authorities(self) -> str:
        """The certificates of the private CA, PEM: what to trust to know this port layer's processes."""
        return (await self._components.service.authorities(self._caller, Nothing())).pem

    async def rotate_ca(self, *, forget: bool = False) -> str:
        """Let the private CA sign with a new key from now on; its certificates. What the last ones have signed stays
        good, unless they are to be forgotten."""
        return (await self._components.service.rotate_ca(self._caller, g.RotateCa(forget=forget))).pem

    async def events(self, since: str | None = None) -> AsyncIterator[NumberedEvent]:
        """Events for ever. since: `now` (the default), `0` for all that is kept, or the cursor of the last one seen.
        Where some of those behind it are kept no more, `events.missed` comes first."""
        async with closing(await self._components.service.events(self._caller, m.Subscribe(since=since))) as events:
            async for event in events:
                yield event

    async def get_kv(self, key: str) -> m.KvEntry:
        """A small value of a persona. Raises NotFound."""
        return await self._components.service.get_kv(self._caller, m.KvRef(key=key))

    async def put_kv(self, key: str, value: bytes, *, if_match: str | None = None) -> m.KvEntry:
        """Keep a small value. if_match: the etag that it must have now, or Conflict is raised."""
        request = m.PutKv(key=key, value=value, if_match=if_match)
        return await self._components.service.put_kv(self._caller, request)

    async def delete_kv(self, key: str, *, if_match: str | None = None) -> None:
        """Delete a small value. Raises NotFound, Conflict."""
        await self._components.service.delete_kv(self._caller, m.DeleteKv(key=key, if_match=if_match))
