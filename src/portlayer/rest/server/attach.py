"""Attach over a WebSocket: the framing of `rest.frames` around a component's Attachment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from portlayer.interfaces.interaction import Attachment, Control, Output
from portlayer.model import interaction as m
from portlayer.model.errors import InvalidArgument, InvalidState, PortlayerError, Unavailable
from portlayer.rest import problems
from portlayer.rest.calls.interaction import ATTACH_PROTOCOL
from portlayer.rest.frames import MAX_FRAME, attach_frames, control_frame
from portlayer.rest.iterators import close
from portlayer.rest.pointers import refusal
from portlayer.rest.server.answers import Refused
from portlayer.rest.server.exchange import Exchange

_logger = logging.getLogger(__name__)
_TAKEN = 1024 * 1024  # longer messages are cut off by the WebSocket itself, with code 1009
_CLOSE_SECONDS = 5.0
_STOPPING = Unavailable("The port layer is stopping; attach again when it is back.", retry_after_seconds=1)


class _Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """What a client may say."""


class _Resize(_Control, frozen=True, tag="resize"):
    width: int
    height: int


class _CloseStdin(_Control, frozen=True, tag="closeStdin"):
    pass


class _Detach(_Control, frozen=True, tag="detach"):
    pass


_controls: msgspec.json.Decoder[_Resize | _CloseStdin | _Detach] = msgspec.json.Decoder(_Resize | _CloseStdin | _Detach)


async def attach(exchange: Exchange) -> web.StreamResponse:
    """Errors before the upgrade are plain problem documents; after it, `error` frames."""
    request: m.Attach = exchange.request
    socket = web.WebSocketResponse(
        protocols=(ATTACH_PROTOCOL,), max_msg_size=_TAKEN, compress=False, timeout=_CLOSE_SECONDS
    )
    _check_upgrade(exchange.http, socket)
    attachment = await exchange.components.interaction.attach(exchange.caller, request)
    try:
        await socket.prepare(exchange.http)
        await _Conversation(socket, attachment, stdin=request.stdin).run(exchange.shared.draining)
    except ConnectionError:
        _logger.debug("the attached client went away")
    finally:
        await attachment.close()
    return socket


def _check_upgrade(http: web.BaseRequest, socket: web.WebSocketResponse) -> None:
    offered = [each.strip() for each in http.headers.get("Sec-WebSocket-Protocol", "").split(",") if each.strip()]
    if not socket.can_prepare(http):
        message = "Attach is a WebSocket; upgrade this request to one."
        raise Refused(InvalidArgument(message), 426, {"Upgrade": "websocket", "Connection": "Upgrade"})
    if offered and ATTACH_PROTOCOL not in offered:
        raise InvalidArgument(f"Attach speaks {ATTACH_PROTOCOL}; offer it as Sec-WebSocket-Protocol.")


class _Conversation:
    """Output one way, input the other, until either ends or the server drains."""

    def __init__(self, socket: web.WebSocketResponse, attachment: Attachment, *, stdin: bool) -> None:
        self._socket = socket
        self._attachment = attachment
        self._stdin = stdin
        self._leaving = False

    async def run(self, draining: asyncio.Event) -> None:
        output = asyncio.ensure_future(self._send_output())
        tasks = {output, asyncio.ensure_future(self._take_input()), asyncio.ensure_future(draining.wait())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if draining.is_set() and output not in done:
                await self._take_leave(output)
            for task in done:
                task.result()
        except PortlayerError as error:
            await self._fail(error)
        except ConnectionError:
            raise
        except Exception:
            _logger.exception("attach failed in a way that it should not")
            await self._send_problem(problems.internal())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._socket.close(code=WSCloseCode.GOING_AWAY if draining.is_set() else WSCloseCode.OK)

    async def _take_leave(self, output: asyncio.Task[None]) -> None:
        """All that was read is sent, and then from where another attachment goes on; one who does not read is cut."""
        self._leaving = True
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._attachment.detach()
                await asyncio.shield(output)
        except TimeoutError:
            await self._fail(_STOPPING)

    async def _send_output(self) -> None:
        """All that comes. Closed at its end: an error on its way would keep it alive, with all it holds."""
        items = aiter(self._attachment)
        try:
            await self._send_all(items)
        finally:
            await close(items)

    async def _send_all(self, items: AsyncIterator[Output | Control]) -> None:
        async for item in items:
            if self._leaving and isinstance(item, Control) and item.kind == "detached":
                await self._fail(_STOPPING, **item.fields)
            elif isinstance(item, Output):
                for frame in attach_frames(item.stream, item.data):
                    await self._socket.send_bytes(frame)
            else:
                await self._socket.send_bytes(control_frame(item.kind, item.fields))

    async def _take_input(self) -> None:
        """Until the client goes. Raises InvalidArgument for what is not of the protocol."""
        stdin_open = True
        async for message in self._socket:
            if message.type is not WSMsgType.BINARY or not message.data or len(message.data) > MAX_FRAME:
                raise InvalidArgument(f"Attach takes binary messages of 1 to {MAX_FRAME} bytes.")
            stream, data = message.data[0], message.data[1:]
            if stream == m.CONTROL:
                await self._control(data)
            elif stream != m.STDIN:
                raise InvalidArgument(f"Clients send streams {m.STDIN} and {m.CONTROL}, not {stream}.")
            elif not self._stdin:
                raise InvalidArgument("This attachment has no stdin; attach with stdin=true.")
            elif stdin_open:
                stdin_open = await self._write(data)

    async def _write(self, data: bytes) -> bool:
        """Whether there is still someone to read; the client is told once where there is not."""
        try:
            await self._attachment.write(data)
        except InvalidState as error:
            await self._fail(error)  # no reason to end: if the process has, its `exit` comes
            return False
        except Unavailable:
            return False  # it is over there already: what is still to be read says how
        return True

    async def _control(self, data: bytes) -> None:
        try:
            control = _controls.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise refusal(error, "The control message") from error
        if isinstance(control, _CloseStdin):
            await self._attachment.close_stdin()
            return
        if isinstance(control, _Detach):
            await self._attachment.detach()
            return
        try:
            await self._attachment.resize(control.width, control.height)
        except InvalidState as error:
            await self._fail(error)  # told, but no reason to end: the process may just have exited

    async def _fail(self, error: PortlayerError, **more: Any) -> None:
        await self._send_problem(problems.document(error), **more)

    async def _send_problem(self, problem: dict[str, Any], **more: Any) -> None:
        await self._socket.send_bytes(control_frame("error", {**more, "problem": problem}))
