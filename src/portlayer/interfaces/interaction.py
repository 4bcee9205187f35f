"""Interaction: the streams of a task. Every call may raise the taxonomy's errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from portlayer.model import interaction as m
from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.storage import HandleAnswer


class Output(Value):
    """Bytes of one stream: STDOUT or STDERR (a terminal has STDOUT alone)."""

    stream: int
    data: bytes


class Control(Value):
    """A control frame: kind `exit` {exitCode, startError?}, `detached` {cursor}, or `error` (a problem, a cursor)."""

    kind: str
    fields: dict[str, Any] = {}


class Attachment(Protocol):
    """An open attachment. Iterating gives Output, and last a Control."""

    def __aiter__(self) -> AsyncIterator[Output | Control]: ...

    async def write(self, data: bytes) -> None:
        """Write to stdin, waiting while its pipe is full. Detach keys in it end the attachment."""

    async def close_stdin(self) -> None:
        """Close stdin."""

    async def resize(self, width: int, height: int) -> None:
        """Set the terminal's size in characters."""

    async def detach(self) -> None:
        """Let it end: what has been read is given still, and last comes the Control `detached`, with the cursor from
        which another attachment goes on."""

    async def close(self) -> None:
        """Detach; the container runs on."""


class Interaction(Protocol):
    async def join(self, caller: Caller, request: m.JoinInteraction) -> HandleAnswer:
        """Record which streams the main task has; active once bound, from its next start."""

    async def bind(self, caller: Caller, request: m.BindInteraction) -> HandleAnswer:
        """Activate."""

    async def unbind(self, caller: Caller, request: m.BindInteraction) -> HandleAnswer:
        """Deactivate."""

    async def attach(self, caller: Caller, request: m.Attach) -> Attachment:
        """Attach to a container that runs, or is created and will: output from now on (with `logs`, from the first
        byte), then its exit. Raises InvalidState where stdin is asked for and not bound."""

    async def output(self, caller: Caller, request: m.Streams, stream: int) -> AsyncIterator[bytes]:
        """STDOUT or STDERR of the present task from now on, until it ends."""

    async def write_stdin(self, caller: Caller, request: m.Streams, body: AsyncIterator[bytes]) -> None:
        """Write all of *body* to stdin."""

    async def close_stdin(self, caller: Caller, request: m.Streams) -> None:
        """Close stdin."""

    async def resize(self, caller: Caller, request: m.Resize) -> None:
        """Set the terminal's size. Raises InvalidState where there is none."""

    async def logs(self, caller: Caller, request: m.Logs) -> AsyncIterator[m.Chunk]:
        """The log as asked; with follow until the container stops or is removed."""
