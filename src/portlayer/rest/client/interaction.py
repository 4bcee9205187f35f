"""Interaction over REST."""

from __future__ import annotations

from collections.abc import AsyncIterator

from portlayer.interfaces.interaction import Attachment
from portlayer.model import interaction as m
from portlayer.model.caller import Caller
from portlayer.model.storage import HandleAnswer
from portlayer.rest import problems
from portlayer.rest.calls import interaction as calls
from portlayer.rest.client.attachment import RestAttachment
from portlayer.rest.client.connection import pieces
from portlayer.rest.client.remote import Remote
from portlayer.rest.client.stream import Stream
from portlayer.rest.frames import log_chunks


class RestInteraction(Remote):
    """Implements interfaces.interaction.Interaction."""

    async def join(self, caller: Caller, request: m.JoinInteraction) -> HandleAnswer:
        return await self._connection.call(calls.JOIN, caller, request)

    async def bind(self, caller: Caller, request: m.BindInteraction) -> HandleAnswer:
        return await self._connection.call(calls.BIND, caller, request)

    async def unbind(self, caller: Caller, request: m.BindInteraction) -> HandleAnswer:
        return await self._connection.call(calls.UNBIND, caller, request)

    async def attach(self, caller: Caller, request: m.Attach) -> Attachment:
        return RestAttachment(await self._connection.websocket(calls.ATTACH, caller, request, calls.ATTACH_PROTOCOL))

    async def output(self, caller: Caller, request: m.Streams, stream: int) -> AsyncIterator[bytes]:
        call = calls.STDERR if stream == m.STDERR else calls.STDOUT
        response = await self._connection.open(call, caller, request)
        return Stream(response, pieces(response))

    async def write_stdin(self, caller: Caller, request: m.Streams, body: AsyncIterator[bytes]) -> None:
        response = await self._connection.open(calls.WRITE_STDIN, caller, request, data=body)
        response.release()

    async def close_stdin(self, caller: Caller, request: m.Streams) -> None:
        await self._connection.call(calls.CLOSE_STDIN, caller, request)

    async def resize(self, caller: Caller, request: m.Resize) -> None:
        await self._connection.call(calls.RESIZE, caller, request)

    async def logs(self, caller: Caller, request: m.Logs) -> AsyncIterator[m.Chunk]:
        response = await self._connection.open(calls.LOGS, caller, request, accept=calls.FRAMES)
        return Stream(response, _raising(log_chunks(pieces(response))))


async def _raising(chunks: AsyncIterator[m.Chunk]) -> AsyncIterator[m.Chunk]:
    """The *chunks*, with the problem that may end them raised."""
    async for chunk in chunks:
        if chunk.stream == m.CONTROL:
            raise problems.error_of(500, chunk.data)
        yield chunk
