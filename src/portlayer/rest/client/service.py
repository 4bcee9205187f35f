"""The service over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

from portlayer.model import grants as g
from portlayer.model import service as m
from portlayer.model.caller import Caller
from portlayer.model.errors import Unavailable
from portlayer.model.events import LAST_EVENT, Event, NumberedEvent
from portlayer.model.storage import Nothing
from portlayer.rest.calls import service as calls
from portlayer.rest.client.connection import Connection, decoded
from portlayer.rest.client.stream import Stream


class RestService:
    """Implements interfaces.service.Service."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def info(self, caller: Caller, request: Nothing) -> m.Info:
        return await self._connection.call(calls.INFO, caller, request)

    async def delete_host(self, caller: Caller, request: m.DeleteHost) -> None:
        await self._connection.call(calls.DELETE_HOST, caller, request)

    async def ready(self, caller: Caller, request: Nothing) -> m.Readiness:
        return await self._connection.call(calls.READY, caller, request)

    async def list_processes(self, caller: Caller, request: Nothing) -> m.Processes:
        return await self._connection.call(calls.PROCESSES, caller, request)

    async def metrics(self, caller: Caller, request: Nothing) -> str:
        return (await self._connection.fetch(calls.METRICS_TEXT, caller, request)).decode()

    async def list_vchs(self, caller: Caller, request: m.ListVchs) -> m.Vchs:
        return await self._connection.call(calls.LIST_VCHS, caller, request)

    async def get_vch(self, caller: Caller, request: m.VchRef) -> m.Vch:
        return await self._connection.call(calls.GET_VCH, caller, request)

    async def create_vch(self, caller: Caller, request: m.CreateVch) -> m.Vch:
        return await self._connection.call(calls.CREATE_VCH, caller, request)

    async def update_vch(self, caller: Caller, request: m.UpdateVch) -> m.Vch:
        return await self._connection.call(calls.UPDATE_VCH, caller, request)

    async def delete_vch(self, caller: Caller, request: m.DeleteVch) -> None:
        await self._connection.call(calls.DELETE_VCH, caller, request)

    async def create_token(self, caller: Caller, request: g.CreateToken) -> g.NewToken:
        return await self._connection.call(calls.CREATE_TOKEN, caller, request)

    async def list_tokens(self, caller: Caller, request: g.ListGrants) -> g.Tokens:
        return await self._connection.call(calls.LIST_TOKENS, caller, request)

    async def delete_token(self, caller: Caller, request: g.GrantRef) -> None:
        await self._connection.call(calls.DELETE_TOKEN, caller, request)

    async def create_certificate(self, caller: Caller, request: g.CreateCertificate) -> g.NewCertificate:
        return await self._connection.call(calls.CREATE_CERTIFICATE, caller, request)

    async def list_certificates(self, caller: Caller, request: g.ListGrants) -> g.Certificates:
        return await self._connection.call(calls.LIST_CERTIFICATES, caller, request)

    async def delete_certificate(self, caller: Caller, request: g.GrantRef) -> None:
        await self._connection.call(calls.DELETE_CERTIFICATE, caller, request)

    async def authorities(self, caller: Caller, request: Nothing) -> g.Authorities:
        return await self._connection.call(calls.AUTHORITIES, caller, request)

    async def rotate_ca(self, caller: Caller, request: g.RotateCa) -> g.Authorities:
        return await self._connection.call(calls.ROTATE_CA, caller, request)

    async def events(self, caller: Caller, request: m.Subscribe) -> AsyncIterator[NumberedEvent]:
        response = await self._connection.open(calls.EVENTS, caller, request)
        return Stream(response, _events(response))

    async def get_kv(self, caller: Caller, request: m.KvRef) -> m.KvEntry:
        response = await self._connection.open(calls.GET_KV, caller, request)
        async with response:
            return m.KvEntry(key=request.key, value=await response.read(), etag=_etag(response))

    async def put_kv(self, caller: Caller, request: m.PutKv) -> m.KvEntry:
        response = await self._connection.open(calls.PUT_KV, caller, request)
        async with response:
            return m.KvEntry(key=request.key, value=request.value, etag=_etag(response))

    async def delete_kv(self, caller: Caller, request: m.DeleteKv) -> None:
        await self._connection.call(calls.DELETE_KV, caller, request)


def _etag(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("ETag", "").strip('"')


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[NumberedEvent]:
    """Server-sent events until the server ends them, which is no end of events unless the VCH was removed."""
    fields: dict[str, str] = {}
    try:
        async for line in response.content:
            name, _, value = line.decode().rstrip("\r\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                event = decoded(Event, fields["data"].encode())
                yield NumberedEvent(cursor=fields.get("id") or fields["cursor"], event=event)
                if event.type == LAST_EVENT:
                    return
                fields.clear()
    except (aiohttp.ClientError, ConnectionError) as error:
        raise Unavailable(
            "The events broke off; subscribe again from the last cursor.", retry_after_seconds=1
        ) from error
    raise Unavailable("The server ended the events; subscribe again from the last cursor.", retry_after_seconds=1)
