"""What people write to name things: names, ids, and the beginnings of ids. Also what the shell completes them from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import typer

from portlayer.cli.asking import ask
from portlayer.client import PortLayer
from portlayer.model.errors import InvalidArgument, PortlayerError

_BEGINNING = re.compile(r"(?:sha256:)?([0-9a-f]{4,63})")
SHOWN = 12
"""How many digits of an id a table shows."""


async def container_id(pl: PortLayer, ref: str) -> str:
    """*ref*, or the id of the one container that begins so. Raises InvalidArgument where several do."""
    if _beginning(ref) is None:
        return ref
    return _choose(ref, "container", [(each.id, (each.name,)) for each in await pl.execution.list()])


async def image_id(pl: PortLayer, ref: str) -> str:
    """As `container_id`, of an image."""
    if _beginning(ref) is None:
        return ref
    return _choose(ref, "image", [(each.id, _image_names(each.names)) for each in await pl.storage.list_images()])


async def network_id(pl: PortLayer, ref: str) -> str:
    """As `container_id`, of a network."""
    if _beginning(ref) is None:
        return ref
    return _choose(ref, "network", [(each.id, (each.name,)) for each in await pl.network.list()])


async def volume_id(pl: PortLayer, ref: str) -> str:
    """As `container_id`, of a volume."""
    if _beginning(ref) is None:
        return ref
    return _choose(ref, "volume", [(each.id, (each.name,)) for each in await pl.storage.list_volumes()])


def _beginning(ref: str) -> str | None:
    match = _BEGINNING.fullmatch(ref)
    return match[1] if match else None


def _choose(ref: str, kind: str, known: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    beginning = _beginning(ref) or ref
    found = []
    for id_, names in known:
        if ref in names or id_ == beginning:
            return ref
        if id_.startswith(beginning):
            found.append(id_)
    if len(found) > 1:
        several = ", ".join(id_[: max(SHOWN, len(ref) + 2)] for id_ in found)
        raise InvalidArgument(f"{ref!r} begins the ids of several {kind}s: {several}; write more of it.")
    return found[0] if found else ref


def _image_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return (*names, *(name.removesuffix(":latest") for name in names))


def _completing(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


def complete_container(incomplete: str) -> list[str]:
    try:
        return _completing(incomplete, (each.name for each in ask(lambda pl: pl.execution.list())))
    except PortlayerError:
        return []


def complete_image(incomplete: str) -> list[str]:
    try:
        images = ask(lambda pl: pl.storage.list_images())
    except PortlayerError:
        return []
    return _completing(incomplete, (name for each in images for name in each.names))


def complete_network(incomplete: str) -> list[str]:
    try:
        return _completing(incomplete, (each.name for each in ask(lambda pl: pl.network.list())))
    except PortlayerError:
        return []


def complete_volume(incomplete: str) -> list[str]:
    try:
        return _completing(incomplete, (each.name for each in ask(lambda pl: pl.storage.list_volumes())))
    except PortlayerError:
        return []


Container = Annotated[str, typer.Argument(metavar="CONTAINER", autocompletion=complete_container)]
Containers = Annotated[list[str], typer.Argument(metavar="CONTAINER...", autocompletion=complete_container)]
Image = Annotated[str, typer.Argument(metavar="IMAGE", autocompletion=complete_image)]
Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", autocompletion=complete_image)]
Network = Annotated[str, typer.Argument(metavar="NETWORK", autocompletion=complete_network)]
Networks = Annotated[list[str], typer.Argument(metavar="NETWORK...", autocompletion=complete_network)]
Volumes = Annotated[list[str], typer.Argument(metavar="VOLUME...", autocompletion=complete_volume)]
