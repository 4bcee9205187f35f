"""Commands about images."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from portlayer.cli.asking import ask, each
from portlayer.cli.output import Columns, Json, Quiet, age, print_json, print_table, print_tree, size
from portlayer.cli.refs import SHOWN, Images, image_id
from portlayer.client import PortLayer
from portlayer.client.storage import ArchiveFormat
from portlayer.model import storage as m
from portlayer.model.errors import InvalidArgument

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_PIECE = 256 * 1024


@app.callback()
def _group() -> None:
    """Images: what containers are made of."""


@app.command("import")
def import_(
    archive: Annotated[str, typer.Argument(help="A file, or - for standard input.")],
    name: Annotated[str | None, typer.Option("--name", "-n", help="Overrides the names in the archive.")] = None,
    format_: Annotated[ArchiveFormat, typer.Option("--format", help="What the archive is.")] = "auto",
    json: Json = False,
) -> None:
    """Import an OCI layout, a docker-archive, or with --format rootfs a plain root filesystem; also compressed."""

    async def upload(pl: PortLayer) -> tuple[m.Image, ...]:
        with _Bars() as bars:
            return await pl.storage.import_image(bars.reading(archive), name=name, format=format_, progress=bars.report)

    images = ask(upload)
    if json:
        print_json(images)
        return
    for image in images:
        typer.echo("   ".join((image.id, *image.names)))


@app.command()
def ls(quiet: Quiet = False, json: Json = False) -> None:
    """List images."""
    images = ask(lambda pl: pl.storage.list_images())
    if json:
        print_json(images)
    elif quiet:
        for image in images:
            typer.echo(image.id)
    else:
        print_table(images, _COLUMNS)


@app.command()
def inspect(images: Images, json: Json = False) -> None:
    """Show all there is to know of images."""

    async def of(pl: PortLayer) -> list[m.Image]:
        return [await pl.storage.inspect_image(await image_id(pl, ref)) for ref in images]

    found = ask(of)
    if json:
        print_json(found)
        return
    for image in found:
        print_tree(image)


@app.command()
def rm(images: Images, json: Json = False) -> None:
    """Remove images: a name takes that name away, and the image with its last one."""

    async def one(pl: PortLayer, ref: str) -> None:
        await pl.storage.remove_image(await image_id(pl, ref))

    each(images, one, json=json)


class _Bars:
    """Progress on stderr where that is a terminal: one bar for the upload, one a step that the server tells of."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, step: m.Progress) -> None:
        """Show *step*, unless it is the upload, which we see from our end."""
        if not step.id:
            return
        label = f"{step.status} {step.id.removeprefix('sha256:')[:SHOWN]}"
        task = self._tasks.get(step.id)
        if task is None:
            task = self._tasks[step.id] = self._progress.add_task(label, total=None)
        self._progress.update(task, description=label, completed=step.done, total=step.total or None)

    async def reading(self, archive: str) -> AsyncIterator[bytes]:
        """The pieces of *archive*, counted as they are read."""
        try:
            descriptor = os.dup(0) if archive == "-" else os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidArgument(f"{archive} cannot be read: {error.strerror}.") from None
        try:
            total = None if archive == "-" else os.fstat(descriptor).st_size
            task = self._progress.add_task(f"reading {Path(archive).name}", total=total)
            while piece := await asyncio.to_thread(os.read, descriptor, _PIECE):
                self._progress.advance(task, len(piece))
                yield piece
        except OSError as error:
            raise InvalidArgument(f"{archive} cannot be read: {error.strerror}.") from None
        finally:
            os.close(descriptor)


_COLUMNS: Columns[m.Image] = {
    "ID": lambda image: image.id[:SHOWN],
    "NAMES": lambda image: ", ".join(image.names),
    "LAYERS": lambda image: str(len(image.layers)),
    "SIZE": lambda image: size(image.size_bytes),
    "CREATED": lambda image: f"{age(image.created_at)} ago",
}
