"""The client's end of an attachment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from portlayer.interfaces.interaction import Control, Output
from portlayer.model.errors import InvalidState, Unavailable
from portlayer.model.interaction import CONTROL, STDIN
from portlayer.rest.client.connection import decoded
from portlayer.rest.frames import attach_frames, control_frame


class RestAttachment:
    """Implements interfaces.interaction.Attachment over a WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    def __aiter__(self) -> AsyncIterator[Output | Control]:
        return self._frames()

    async def _frames(self) -> AsyncIterator[Output | Control]:
        """Output and controls until the socket closes; an `error` need not be the last. Raises Unavailable where the
        connection breaks off before a control has said how it ends."""
        told = False
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                break
            stream, data = message.data[0], message.data[1:]
            if stream == CONTROL:
                fields: dict[str, Any] = decoded(dict[str, Any], data)
                told = told or not _goes_on(fields)
                yield Control(kind=str(fields.pop("type", "error")), fields=fields)
            else:
                yield Output(stream=stream, data=data)
        if not told:
            raise Unavailable("The attachment broke off; attach again.", retry_after_seconds=1)

    async def write(self, data: bytes) -> None:
        for frame in attach_frames(STDIN, data):
            await self._send(frame)

    async def close_stdin(self) -> None:
        await self._send(control_frame("closeStdin", {}))

    async def resize(self, width: int, height: int) -> None:
        await self._send(control_frame("resize", {"width": width, "height": height}))

    async def detach(self) -> None:
        await self._send(control_frame("detach", {}))

    async def close(self) -> None:
        await self._socket.close()

    async def _send(self, frame: bytes) -> None:
        try:
            await self._socket.send_bytes(frame)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Unavailable("The attachment has ended; nothing more can be sent.") from error


def _goes_on(control: Mapping[str, Any]) -> bool:
    """Whether *control* tells of something that was not possible, such as typing to a process that has just ended: the
    attachment has its own end."""
    return bool(control.get("problem", {}).get("code") == InvalidState.__name__)
