"""Handles as callers hold them: having one is what matters, its text means something to the port layer alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from portlayer.model.network import Endpoint


@dataclass(frozen=True, slots=True)
class ContainerHandle:
    """Possession of a container, with the changes made through this handle so far.

    id: of the container. sealed: what to keep, or to pass on, in order to go on with this handle elsewhere.
    A mutation never changes a handle; it gives another one, and the old one stays good.
    """

    id: str
    sealed: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class JoinedHandle(ContainerHandle):
    """A handle that a network join gave."""

    endpoint_id: str


@dataclass(frozen=True, slots=True)
class BoundHandle(ContainerHandle):
    """A handle that a network bind or unbind gave. endpoints: those of the container, with their addresses."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class NetworkHandle:
    """Possession of a network: one of the same name made later is another."""

    id: str
    sealed: str = field(repr=False)


Ref = str | ContainerHandle
"""How a container is named: by its name, its id, or a handle to it."""


def container_ref(ref: Ref) -> str:
    """The name or id that *ref* is."""
    return ref if isinstance(ref, str) else ref.id
