"""Being attached: output to our streams, our input to the container, signals and window sizes passed on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import typer

from portlayer.cli.terminal import raw_terminal, read_stdin, terminal_size, write_out
from portlayer.client import Attachment, PortLayer
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.model.execution import Committed

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTS = 2
"""How many are passed on. One more ends us, and leaves a container that does not listen to them running."""


async def converse(
    pl: PortLayer,
    container: str,
    attachment: Attachment,
    *,
    stdin: bool,
    terminal: bool,
    start: Callable[[], Awaitable[Committed]] | None = None,
) -> int:
    """Talk until the container exits or we are detached; the exit code, 0 where detached.

    start: starts the container, once all is ready for its first byte.
    """
    start_error: str | None = None
    with raw_terminal() if terminal and stdin else contextlib.nullcontext():
        async with _passing_on(pl, container, attachment, stdin=stdin, terminal=terminal):
            if start is not None:
                start_error = (await start()).start_error
            async for output in attachment:
                await write_out(output.stream, output.data)
    if attachment.detached:
        return 0
    if start_error := start_error or attachment.start_error:
        typer.echo(f"portlayer: {start_error}", err=True)
    if attachment.exit_code is None:
        raise Unavailable("How the container ended is not known; it may have been removed.")
    return attachment.exit_code


@asynccontextmanager
async def _passing_on(
    pl: PortLayer, container: str, attachment: Attachment, *, stdin: bool, terminal: bool
) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    interrupts = 0

    def spawn(work: Awaitable[None]) -> None:
        tasks.add(asyncio.ensure_future(_unless_over(work)))

    def forward(number: signal.Signals) -> None:
        nonlocal interrupts
        spawn(pl.execution.signal(container, number.name))
        interrupts += number is signal.SIGINT
        if interrupts == _INTERRUPTS and loop.remove_signal_handler(signal.SIGINT):
            typer.echo("portlayer: interrupt once more to leave the container running", err=True)

    def resize() -> None:
        spawn(_resize(attachment))

    for number in _FORWARDED:
        loop.add_signal_handler(number, forward, number)
    if terminal:
        loop.add_signal_handler(signal.SIGWINCH, resize)
        resize()
    if stdin:
        spawn(_feed(attachment))
    try:
        yield
    finally:
        for number in (*_FORWARDED, *((signal.SIGWINCH,) if terminal else ())):
            loop.remove_signal_handler(number)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _unless_over(work: Awaitable[None]) -> None:
    """Do *work*; where it fails the container has ended, which its output tells."""
    with contextlib.suppress(PortlayerError):
        await work


async def _feed(attachment: Attachment) -> None:
    async for piece in read_stdin():
        await attachment.write(piece)
    await attachment.close_stdin()


async def _resize(attachment: Attachment) -> None:
    size = terminal_size()
    if size is not None:
        await attachment.resize(*size)
