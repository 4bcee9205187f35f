"""Commands about what containers write and read."""

from __future__ import annotations

import codecs
import os
from typing import Annotated

import msgspec
import typer

from portlayer.cli.asking import ask
from portlayer.cli.conversation import converse
from portlayer.cli.refs import Container, container_id
from portlayer.cli.values import parse_moment
from portlayer.client import PortLayer
from portlayer.model.base import rfc3339
from portlayer.model.interaction import STDERR, STDOUT, Chunk

app = typer.Typer(rich_markup_mode=None)
_NAMES = {STDOUT: "stdout", STDERR: "stderr"}
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
    json: Annotated[bool, typer.Option("--json", help="Print each line as an object: time, stream, text.")] = False,
) -> None:
    """Show what a container wrote: stdout on stdout, stderr on stderr.

    With --json, all of it is on stdout. The text is UTF-8; `partial` is true where the line goes on with the next
    object of its stream.
    """
    printer = _JsonLines() if json else _Plain(timestamps=timestamps)

    async def show(pl: PortLayer) -> None:
        async for chunk in pl.interaction.logs(
            await container_id(pl, container),
            follow=follow,
            tail=tail,
            since=parse_moment(since),
            until=parse_moment(until),
            timestamps=timestamps or json,
        ):
            printer.show(chunk)

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


class _Plain:
    """Every stream to its own."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._inside_line = {STDOUT: False, STDERR: False}

    def show(self, chunk: Chunk) -> None:
        begins = self._timestamps and not self._inside_line[chunk.stream]
        self._inside_line[chunk.stream] = not chunk.data.endswith(b"\n")
        _write(chunk.stream, (f"{rfc3339(chunk.time)} ".encode() if begins else b"") + chunk.data)


class _JsonLines:
    """An object a line; a character may be cut in two where a long line is."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stream: decoder("replace") for stream in _NAMES}

    def show(self, chunk: Chunk) -> None:
        whole = chunk.data.endswith(b"\n")
        text = self._decoders[chunk.stream].decode(chunk.data.removesuffix(b"\n"), final=whole)
        line = {"time": rfc3339(chunk.time), "stream": _NAMES[chunk.stream], "text": text}
        _write(STDOUT, msgspec.json.encode(line if whole else {**line, "partial": True}) + b"\n")


def _write(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]
