"""An open attachment to a container's streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from portlayer.client.streams import closing
from portlayer.interfaces import interaction as i
from portlayer.interfaces.interaction import Output
from portlayer.model.errors import InvalidState
from portlayer.rest.problems import error_from


class Attachment:
    """Iterating gives what the container writes, until it exits or the attachment is detached.

    exit_code, start_error: how it ended, once iterating has; None where that is not known. detached: whether the
    detach keys ended the attachment. cursor: from where a new attachment goes on.
    """

    def __init__(self, attachment: i.Attachment) -> None:
        self._attachment = attachment
        self.exit_code: int | None = None
        self.start_error: str | None = None
        self.detached = False
        self.cursor: str | None = None

    async def __aiter__(self) -> AsyncIterator[Output]:
        async with closing(aiter(self._attachment)) as frames:
            async for frame in frames:
                if isinstance(frame, Output):
                    yield frame
                else:
                    self._take(frame.kind, frame.fields)

    def _take(self, kind: str, fields: dict[str, Any]) -> None:
        self.cursor = fields.get("cursor", self.cursor)
        if kind == "exit":
            self.exit_code, self.start_error = fields.get("exitCode"), fields.get("startError")
        elif kind == "detached":
            self.detached = True
        else:
            error = error_from(fields.get("problem", {}))
            if not isinstance(error, InvalidState):  # that the process has just ended is told by its exit
                raise error

    async def write(self, data: bytes) -> None:
        """Write to stdin, waiting while its pipe is full. Detach keys in it end the attachment."""
        await self._attachment.write(data)

    async def detach(self) -> None:
        """Let iterating come to its end, with `cursor` for another attachment; the container runs on."""
        await self._attachment.detach()

    async def close_stdin(self) -> None:
        """Close stdin: the process reads end of file."""
        await self._attachment.close_stdin()

    async def resize(self, width: int, height: int) -> None:
        """Set the terminal's size in characters."""
        await self._attachment.resize(width, height)
