"""The bench on which the conformance tests of substrates work: a substrate, short words for what they do again and
again, and the powers over its host that a test needs and the interface does not give.

A test module provides a fixture `bench` with a subclass of Bench for its host, and one subclass of each suite.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import builders
import images

from portlayer.interfaces.substrate import Observation, StartFailure, Substrate
from portlayer.model.execution import ContainerSpec, Resources
from portlayer.model.interaction import STDERR, STDOUT, Chunk
from portlayer.model.names import new_id
from portlayer.model.network import EndpointSpec, NetworkSpec

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Ran:
    """A container that ran to its end."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class Started:
    """A container with a prepared or running incarnation."""

    bench: Bench
    spec: ContainerSpec
    incarnation: str

    @property
    def ids(self) -> tuple[str, str]:
        return self.spec.id, self.incarnation

    async def release(self) -> StartFailure | None:
        return await self.bench.substrate.execution.release(*self.ids)

    async def observe(self) -> Observation:
        return await self.bench.substrate.execution.observe(*self.ids)

    async def wait(self) -> Observation:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.bench.substrate.execution.wait(*self.ids)

    async def signal(self, number: int) -> None:
        await self.bench.substrate.execution.signal(*self.ids, number)

    async def remove(self) -> None:
        await self.bench.substrate.execution.remove(*self.ids)

    async def write(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.bench.substrate.interaction.write_stdin(*self.ids, data)

    async def close_stdin(self) -> None:
        await self.bench.substrate.interaction.close_stdin(*self.ids)

    async def log(self, cursor: int = 0) -> list[Chunk]:
        """The log from *cursor* to its present end."""
        return [chunk async for chunk in self.bench.substrate.interaction.read_log(self.spec.id, cursor)]

    async def follow(self, cursor: int = 0) -> list[Chunk]:
        """The log from *cursor* to the last byte of this incarnation."""
        reader = self.bench.substrate.interaction.read_log(self.spec.id, cursor, follow=self.incarnation)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [chunk async for chunk in reader]

    async def printed(self, text: bytes, cursor: int = 0) -> int:
        """Wait until *text* is in the log after *cursor*; the cursor after the line that completes it."""
        reader = self.bench.substrate.interaction.read_log(self.spec.id, cursor, follow=self.incarnation, split=True)
        seen = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                async for chunk in reader:
                    seen += chunk.data
                    if text in seen:
                        return chunk.cursor
        raise AssertionError(f"{text!r} never came, only {seen!r}")


class Bench(abc.ABC):
    """A substrate on a host of its own, with the layer of `builders.layer` on it."""

    substrate: Substrate

    async def set_up(self) -> None:
        await self.substrate.start()
        ident, tar = builders.layer()
        await self.substrate.storage.put_layer(ident, images.stream(tar))

    async def tear_down(self) -> None:
        """Everything that the test made is removed, and the host shows that nothing is left of it."""
        await self.substrate.purge()
        assert await self.substrate.leftovers() == []
        await self.substrate.close()

    @abc.abstractmethod
    async def restart(self) -> None:
        """Our process dies and a new one comes: `substrate` becomes a new object on the same host."""

    @abc.abstractmethod
    async def reaches(self, started: Started, address: str) -> bool:
        """Whether the running container can open connections to *address*."""

    @abc.abstractmethod
    async def published(self) -> set[str]:
        """The ids of the endpoints that ports of the host lead to."""

    @abc.abstractmethod
    async def limits(self, started: Started) -> Resources:
        """The limits that hold for the running container now."""

    @abc.abstractmethod
    async def lose_link(self, started: Started, endpoint: EndpointSpec) -> None:
        """Behind our back, somebody deletes the link of *endpoint*."""

    @abc.abstractmethod
    async def lose_network(self, network: NetworkSpec) -> None:
        """Behind our back, somebody deletes what *network* is made of."""

    @abc.abstractmethod
    async def lose_mount(self, started: Started) -> None:
        """Behind our back, somebody takes the root filesystem of the container from the host."""

    async def prepare(
        self, spec: ContainerSpec, networks: Mapping[str, NetworkSpec] | None = None
    ) -> Started | StartFailure:
        await self.substrate.storage.make_rootfs(spec)
        incarnation = new_id()
        failure = await self.substrate.execution.prepare(spec, incarnation, networks or {})
        return failure or Started(self, spec, incarnation)

    async def prepared(self, *args: str, networks: Mapping[str, NetworkSpec] | None = None, **fields: Any) -> Started:
        """A prepared container, made by `builders.container`."""
        started = await self.prepare(builders.container(*args, **fields), networks)
        assert isinstance(started, Started), started
        return started

    async def started(self, *args: str, **fields: Any) -> Started:
        started = await self.prepared(*args, **fields)
        assert await started.release() is None
        return started

    async def again(self, before: Started) -> Started:
        """Another start of the same container, whose last one has ended."""
        await before.remove()
        started = await self.prepare(before.spec)
        assert isinstance(started, Started), started
        assert await started.release() is None
        return started

    async def ran(self, *args: str, **fields: Any) -> Ran:
        """Run *args* to the end."""
        return await self.ended(await self.started(*args, **fields))

    async def ended(self, started: Started) -> Ran:
        chunks = await started.follow()
        return Ran((await started.wait()).exit_code, text(chunks, STDOUT), text(chunks, STDERR))

    async def start_failure(self, spec: ContainerSpec) -> StartFailure:
        """How the start of *spec* fails, at prepare or at release."""
        started = await self.prepare(spec)
        if isinstance(started, Started):
            failure = await started.release()
            assert failure is not None
            await started.remove()
            return failure
        return started

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait until *condition* holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not await condition():
            assert time.monotonic() < deadline, "the condition never held"
            await asyncio.sleep(0.005)


def text(chunks: list[Chunk], *streams: int) -> bytes:
    """The bytes of *chunks*, of *streams* alone where they are given."""
    return b"".join(chunk.data for chunk in chunks if not streams or chunk.stream in streams)
