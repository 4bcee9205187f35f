"""Commands about what containers write and read."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from portlayer.cli.asking import ask
from portlayer.cli.conversation import converse
from portlayer.cli.refs import Container, container_id
from portlayer.cli.values import parse_moment
from portlayer.client import PortLayer
from portlayer.model.base import rfc3339
from portlayer.model.interaction import STDERR, STDOUT

app = typer.Typer(rich_markup_mode=None)
Keys = Annotated[str | None, typer.Option(help="Keys that detach, as ctrl-p,ctrl-q; empty for none.")]
Moment = Annotated[str | None, typer.Option(help="RFC 3339, seconds since the epoch, or ago as 10m or 1h30m.")]


@app.command()
def logs(
    container: Container,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it stops.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, help="Only the last lines.")] = None,
    since: Moment = None,
    until: Moment = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Put its time before each line.")] = False,
) -> None:
    """Show what a container wrote: stdout on stdout, stderr on stderr."""

    async def show(pl: PortLayer) -> None:
        inside_line = {STDOUT: False, STDERR: False}
        async for chunk in pl.interaction.logs(
            await container_id(pl, container),
            follow=follow,
            tail=tail,
            since=parse_moment(since),
            until=parse_moment(until),
            timestamps=timestamps,
        ):
            stamp = b"" if inside_line[chunk.stream] or not timestamps else f"{rfc3339(chunk.time)} ".encode()
            inside_line[chunk.stream] = not chunk.data.endswith(b"\n")
            _write(chunk.stream, stamp + chunk.data)

    ask(show)


@app.command()
def attach(
    container: Container,
    no_stdin: Annotated[bool, typer.Option("--no-stdin", help="Leave its stdin alone.")] = False,
    detach_keys: Keys = None,
) -> None:
    """Attach to a container that runs; the exit code is the container's."""

    async def attached(pl: PortLayer) -> int:
        found = await pl.execution.inspect_container(await container_id(pl, container))
        streams = found.interaction
        stdin = bool(streams and streams.bound and streams.stdin) and not no_stdin
        terminal = bool(streams and streams.bound and streams.terminal)
        async with pl.interaction.attach(found.id, stdin=stdin, detach_keys=detach_keys) as attachment:
            return await converse(pl, found.id, attachment, stdin=stdin, terminal=terminal)

    raise typer.Exit(ask(attached))


def _write(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]
