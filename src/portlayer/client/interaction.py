"""Interaction: the streams of a container's main task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from portlayer.client.attachment import Attachment
from portlayer.client.component import Component
from portlayer.client.handles import ContainerHandle, Ref, container_ref
from portlayer.client.steps import Steps
from portlayer.client.streams import closing
from portlayer.model import interaction as m


class Interaction(Component):
    """Output is always kept in the log; stdin and a terminal are there once an interaction is joined and bound."""

    async def join(
        self,
        container: ContainerHandle,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        terminal: bool = False,
    ) -> ContainerHandle:
        """Stage which streams the main task has, from its next start once bound."""
        steps = Steps(container).join_interaction(stdin=stdin, stdout=stdout, stderr=stderr, terminal=terminal)
        return await self._stage(steps)

    async def bind(self, container: ContainerHandle) -> ContainerHandle:
        """Stage that the joined streams are active."""
        return await self._stage(Steps(container).bind_interaction())

    async def unbind(self, container: ContainerHandle) -> ContainerHandle:
        """Stage that they are not."""
        return await self._stage(Steps(container).unbind_interaction())

    @asynccontextmanager
    async def attach(
        self,
        ref: Ref,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        logs: bool = False,
        detach_keys: str | None = None,
        cursor: str | None = None,
    ) -> AsyncIterator[Attachment]:
        """Attach to a container that runs, or is created and will run: nothing of what it writes is missed.

        logs: begin with what was written before. detach_keys: as `ctrl-p,ctrl-q`, the default on a terminal; empty for
        none. cursor: go on where another attachment was cut off. Raises InvalidState where it cannot be attached to.
        """
        request = m.Attach(
            ref=container_ref(ref),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            logs=logs,
            detach_keys=detach_keys,
            cursor=cursor,
        )
        attachment = await self._components.interaction.attach(self._caller, request)
        try:
            yield Attachment(attachment)
        finally:
            await attachment.close()

    async def output(self, ref: Ref, stream: int = m.STDOUT) -> AsyncIterator[bytes]:
        """STDOUT or STDERR from now on, until the task ends."""
        request = m.Streams(ref=container_ref(ref))
        async with closing(await self._components.interaction.output(self._caller, request, stream)) as pieces:
            async for piece in pieces:
                yield piece

    async def write_stdin(self, ref: Ref, data: bytes) -> None:
        """Write to stdin, waiting while its pipe is full."""
        request = m.Streams(ref=container_ref(ref))
        await self._components.interaction.write_stdin(self._caller, request, _once(data))

    async def close_stdin(self, ref: Ref) -> None:
        """Close stdin: the process reads end of file."""
        await self._components.interaction.close_stdin(self._caller, m.Streams(ref=container_ref(ref)))

    async def resize(self, ref: Ref, width: int, height: int) -> None:
        """Set the terminal's size in characters. Raises InvalidState where there is none."""
        request = m.Resize(ref=container_ref(ref), width=width, height=height)
        await self._components.interaction.resize(self._caller, request)

    async def logs(
        self,
        ref: Ref,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: str | None = None,
        until: str | None = None,
        timestamps: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        cursor: int | None = None,
    ) -> AsyncIterator[m.Chunk]:
        """The log, in pieces that know their stream and time.

        follow: go on until the container stops. tail: only the last so many lines. since, until: RFC 3339, or seconds
        since the epoch. timestamps: each piece is one line at most, so that each line has its own time. cursor: of the
        last piece that was read before, to go on behind it.
        """
        request = m.Logs(
            ref=container_ref(ref),
            follow=follow,
            tail=tail,
            since=since,
            until=until,
            timestamps=timestamps,
            stdout=stdout,
            stderr=stderr,
            cursor=None if cursor is None else str(cursor),
        )
        async with closing(await self._components.interaction.logs(self._caller, request)) as chunks:
            async for chunk in chunks:
                yield chunk


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
