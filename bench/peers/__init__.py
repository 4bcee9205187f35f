"""What the benchmark asks of a peer. Each one's server is its own, in a jail, with its state in *directory*."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

TRUE = ("true",)
SLEEP = ("sleep", "1000")


class PeerUnavailable(Exception):
    """A peer cannot run here, with the reason."""


@dataclass(frozen=True)
class Life:
    """Seconds since the first call: until the program's exit was known, and until the container was removed."""

    exited: float
    removed: float


class Peer(Protocol):
    """Something that can run a container from its creation to its removal. bridged: it can give it a bridge network."""

    name: str
    bridged: bool

    async def open(self) -> str:
        """Start the server and load the image; its version. Raises PeerUnavailable."""

    async def life(self, *, bridge: bool) -> Life:
        """Create, start, wait for `true` to exit, remove."""

    async def close(self) -> None:
        """Stop the server with all that it made."""


@runtime_checkable
class Engine(Peer, Protocol):
    """A peer that keeps containers: the steps one by one."""

    async def create(self, command: tuple[str, ...], *, bridge: bool) -> str:
        """A container that has not been started; its id."""

    async def start_and_wait(self, container: str) -> None:
        """Start it and wait for its exit."""

    async def start(self, container: str) -> None:
        """Start it; it runs on."""

    async def remove(self, container: str) -> None:
        """Remove it, running or not."""

    def processes(self) -> frozenset[int]:
        """The pids of its server, its helpers and its containers."""


async def life_in_steps(engine: Engine, *, bridge: bool) -> Life:
    """A life in single calls."""
    began = time.perf_counter()
    container = await engine.create(TRUE, bridge=bridge)
    await engine.start_and_wait(container)
    exited = time.perf_counter()
    await engine.remove(container)
    return Life(exited - began, time.perf_counter() - began)
