"""From a command to the port layer: one connection, one or many things, errors as lines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import typer

from portlayer.client import PortLayer, connect
from portlayer.model.errors import PortlayerError

T = TypeVar("T")


def ask(work: Callable[[PortLayer], Awaitable[T]]) -> T:
    """What *work* finds out over a connection of its own."""

    async def connected() -> T:
        async with connect() as pl:
            return await work(pl)

    return asyncio.run(connected())


def each(refs: Sequence[str], work: Callable[[PortLayer, str], Awaitable[str]]) -> None:
    """Do *work* for all *refs* at once and print what each gives, in their order; exit with 1 if any failed."""

    async def all_of_them(pl: PortLayer) -> list[str | BaseException]:
        return await asyncio.gather(*(work(pl, ref) for ref in refs), return_exceptions=True)

    failed = False
    for result in ask(all_of_them):
        if isinstance(result, str):
            typer.echo(result)
        elif isinstance(result, PortlayerError):
            failed = True
            complain(result)
        else:
            raise result
    if failed:
        raise typer.Exit(1)


def complain(error: PortlayerError) -> None:
    """One line about *error*."""
    typer.echo(f"portlayer: {error.detail}", err=True)
