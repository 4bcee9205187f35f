"""From a command to the port layer: one connection, one or many things, errors as lines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
import typer

from portlayer.cli.output import print_json
from portlayer.client import PortLayer, connect
from portlayer.model.base import Value
from portlayer.model.errors import PortlayerError
from portlayer.rest import problems

T = TypeVar("T")


def ask(work: Callable[[PortLayer], Awaitable[T]]) -> T:
    """What *work* finds out over a connection of its own."""

    async def connected() -> T:
        async with connect() as pl:
            return await work(pl)

    return asyncio.run(connected())


def each(
    refs: Sequence[str],
    work: Callable[[PortLayer, str], Awaitable[Value | None]],
    *,
    json: bool,
    shown: str = "ref",
) -> None:
    """Do *work* for all *refs* at once and print what came of each, in their order; exit with 1 if any failed.

    shown: what is printed of one; `ref`, or a field of what *work* gives. json: print all of it as one document, with
    the problem of each that failed.
    """

    async def all_of_them(pl: PortLayer) -> list[Value | BaseException | None]:
        return await asyncio.gather(*(work(pl, ref) for ref in refs), return_exceptions=True)

    told: list[dict[str, Any]] = []
    for ref, result in zip(refs, ask(all_of_them), strict=True):
        if isinstance(result, PortlayerError):
            complain(result)
            told.append({"ref": ref, "problem": problems.document(result)})
        elif isinstance(result, BaseException):
            raise result
        else:
            told.append({"ref": ref, **msgspec.to_builtins(result or {})})
            if not json:
                typer.echo(told[-1].get(shown, ""))
    if json:
        print_json(told)
    if any("problem" in one for one in told):
        raise typer.Exit(1)


def complain(error: PortlayerError) -> None:
    """One line about *error*."""
    typer.echo(f"portlayer: {error.detail}", err=True)
