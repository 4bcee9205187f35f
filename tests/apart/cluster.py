"""A port layer of several processes, in the test's own: each with a server on a socket of its own, over one store and
one memory host for each machine. Calls between them go over REST, as they do between real ones.

TOPOLOGIES names the ways to run it that tests go through. In each, the first process is the *entry*, where callers come
in; it has as few of the components as there can be, so that calls have somewhere to be passed on to.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from driver import Driver
from etcdlab import free_ports

from portlayer.client import PortLayer, connect
from portlayer.components.membership import Membership
from portlayer.compose import Assembled, Settings, assemble
from portlayer.failpoints import Failpoints
from portlayer.interfaces.components import Components, Relay
from portlayer.interfaces.store import Store, Transaction
from portlayer.model.caller import Caller
from portlayer.model.errors import Unavailable
from portlayer.model.execution import replace
from portlayer.model.topology import Part, Topology, place
from portlayer.rest.calls import CALLS
from portlayer.rest.server import Audit, Server
from portlayer.stores.clock import Clock, boot_clock
from portlayer.stores.memory import MemoryStore
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World

STORAGE, EXECUTION, NETWORK, INTERACTION = COMPONENTS = ("storage", "execution", "network", "interaction")
TOGETHER = "all in one"
MOVING = "changing under way"
REMOTE = "each apart, over TLS"
HOSTS = "two hosts"
_APART = Topology(
    parts=(Part(name="door", components=()), *(Part(name=name, components=(name,)) for name in COMPONENTS))
)
TOPOLOGIES = {
    TOGETHER: Topology(),
    "each apart": _APART,
    "storage apart": Topology(
        parts=(
            Part(name="rest", components=(EXECUTION, NETWORK, INTERACTION)),
            Part(name="storage", components=(STORAGE,)),
        )
    ),
    MOVING: Topology(
        parts=(
            Part(name="door", components=(INTERACTION,)),
            *(Part(name=f"{name}-0", components=(name,)) for name in (STORAGE, NETWORK, EXECUTION)),
        )
    ),
    HOSTS: Topology(
        parts=(
            Part(name="door", host="west", components=(NETWORK,)),
            Part(name="west", host="west", components=(STORAGE, EXECUTION, INTERACTION)),
            Part(name="east", host="east", components=(EXECUTION, INTERACTION)),
        )
    ),
}
MUTATING = {(call.component, call.method) for call in CALLS if call.verb != "GET" and call.method}


class Cluster:
    """The processes of *topology*. A process can be stopped and started by its name, also as another part.

    moves: whether a component moves to another process before each change that is asked for by way of `served`.
    remote: the processes reach each other over TLS, as they do on several hosts. clock: of their leases, and of the
    store's. fields: of their settings.
    """

    def __init__(
        self,
        topology: Topology,
        store: Store,
        directory: Path,
        *,
        moves: bool = False,
        remote: bool = False,
        clock: Clock = boot_clock,
        **fields: Any,
    ) -> None:
        self._clock = clock
        self._fields = fields
        self.failpoints: dict[str, Failpoints] = {}
        self._remote = remote or len(topology.hosts) > 1
        self.addresses: dict[str, str] = {}
        self.topology = topology
        self.moves = moves
        self.moved = 0
        self._moving = asyncio.Lock()
        self.store = store
        self.directory = directory
        self.worlds = {host: World() for host in topology.hosts}
        self._secret = secrets.token_bytes(32)
        self._processes: dict[str, tuple[contextlib.AsyncExitStack, Assembled]] = {}

    async def __aenter__(self) -> Self:
        for part in self.topology.parts:
            await self.start(part)
        return self

    async def __aexit__(self, *_: object) -> None:
        for name in list(self._processes):
            await self.stop(name)
        for world in self.worlds.values():
            world.close()

    def process(self, name: str) -> Assembled:
        """The process called *name*."""
        return self._processes[name][1]

    @property
    def entry(self) -> Assembled:
        """The process where callers come in."""
        return self._processes[self.topology.parts[0].name][1]

    @property
    def doors(self) -> list[str]:
        """The names of the processes where callers may come in: all that stay what they are."""
        parts = self.topology.parts[:1] if self.moves else self.topology.parts
        return [part.name for part in parts]

    @property
    def served(self) -> Components:
        """The components as the entry serves them."""
        components = self.entry.components
        if not self.moves:
            return components
        shaken = {name: _Shaken(name, getattr(components, name), self.move, self.settled) for name in COMPONENTS}
        relays = {name: self._shaken(relay) for name, relay in components.relays.items()}
        return replace_components(components, {**shaken, "relays": relays})

    def _shaken(self, relay: Relay) -> Relay:
        async def call(caller: Caller, method: str, message: Any) -> bytes:
            await (self.settled() if message.call.verb == "GET" else asyncio.shield(asyncio.ensure_future(self.move())))
            return await relay(caller, method, message)

        return call

    @property
    def world(self) -> World:
        """The host of the entry."""
        return self.worlds[self.topology.parts[0].host]

    def address(self, name: str) -> str:
        return f"unix://{self.directory}/{name}.sock"

    def state(self, host: str) -> Path:
        """The state directory of *host*: each has its own, with the one secret that all share."""
        directory = self.directory / host
        directory.mkdir(exist_ok=True)
        (directory / "host.key").touch(mode=0o600)
        (directory / "host.key").write_bytes(self._secret)
        return directory

    async def start(self, part: Part) -> None:
        """A process that is *part* of the topology."""
        address = f"https://127.0.0.1:{free_ports(1)[0]}" if self._remote else self.address(part.name)
        part = replace(part, address=address)
        self.addresses[part.name] = address
        parts = {each.name: each for each in self.topology.parts} | {part.name: part}
        stack = contextlib.AsyncExitStack()
        substrate = MemorySubstrate(self.worlds.setdefault(part.host, World()))
        settings = Settings(topology=replace(self.topology, parts=tuple(parts.values())), **self._fields)
        whole = (self.store, substrate, await substrate.start(), self.state(part.host), "test", settings)
        points = self.failpoints[part.name] = Failpoints()
        assembled = await stack.enter_async_context(assemble(*whole, points, part=part, clock=lambda: self._clock()[1]))
        self._processes[part.name] = stack, assembled
        components = self.served if part.name == self.topology.parts[0].name else assembled.components
        audit = Audit(self.directory / f"audit-{part.name}.log")
        server = Server(components, assembled.here, assembled.passport, authority=assembled.authority, audit=audit)
        await server.listen_unix(self.directory / f"{part.name}.sock")
        if assembled.certificates is not None and (at := place(part.address)):
            await server.listen_tls(*at, assembled.certificates.serving)
        stack.push_async_callback(server.drain)

    async def lose(self, name: str) -> None:
        """The process is gone as if it had been killed while it did nothing: its lease is left to end."""
        self.membership(name)._store = _Deaf()  # type: ignore[assignment]
        await self.stop(name)

    def mute(self, name: str) -> None:
        """The process does not say any more that it lives."""
        refreshing = self.membership(name)._refreshing
        assert refreshing is not None
        refreshing.cancel()

    async def unmute(self, name: str) -> None:
        """It says so again, as one that was paused."""
        membership = self.membership(name)
        for _ in range(2):  # it finds that it has lost its lease, and begins to live again
            await membership.refresh()
        membership._refreshing = asyncio.create_task(membership._refresh_often())

    def membership(self, name: str) -> Membership:
        """Of a process with execution."""
        execution: Any = self._processes[name][1].here.execution
        membership: Membership = execution._engine.membership
        return membership

    async def refresh_certificates(self) -> None:
        """Let each process take what has changed of the CA, as it does every few seconds."""
        for _, assembled in self._processes.values():
            if assembled.certificates is not None:
                await assembled.certificates.refresh()

    async def sweep(self, name: str) -> None:
        """Let the process called *name* look at everything on its host once."""
        execution: Any = self._processes[name][1].here.execution
        await execution._reconciler.sweep()

    def driver(self, name: str) -> Driver:
        """Asks in the process called *name*."""
        return Driver(self._processes[name][1].components)

    async def stop(self, name: str) -> None:
        stack, _ = self._processes.pop(name)
        await stack.aclose()

    async def move(self) -> None:
        """One of the components that are in a process of their own is in another one from now on, each in its turn."""
        async with self._moving:
            parts = [part for part in self.topology.parts[1:] if len(part.components) == 1]
            before = parts[self.moved % len(parts)]
            self.moved += 1
            after = replace(before, name=f"{before.components[0]}-{self.moved}")
            await self.stop(before.name)
            self.topology = Topology(parts=tuple(after if one is before else one for one in self.topology.parts))
            await self.start(after)

    async def settled(self) -> None:
        """Return when nothing moves."""
        async with self._moving:
            pass

    def at(self, name: str | None = None, *, retries: int = 0) -> contextlib.AbstractAsyncContextManager[PortLayer]:
        """A client of the process called *name*, or of the entry."""
        return connect(host=self.address(name or self.topology.parts[0].name), retries=retries)


def opened(
    topology: str, directory: Path, store: Store | None = None, *, remote: bool = False, **fields: Any
) -> Cluster:
    """The port layer of one of TOPOLOGIES, or of REMOTE, to be entered. remote: its processes are reached over TLS,
    too. fields: of its settings."""
    made = _APART if topology == REMOTE else TOPOLOGIES[topology]
    how = {"moves": topology == MOVING, "remote": remote or topology == REMOTE}
    return Cluster(made, store or MemoryStore(), directory, **how, **fields)


def replace_components(components: Components, others: dict[str, Any]) -> Components:
    """*components*, with *others* in the place of some."""
    return Components(**{**vars(components), **others})


class _Shaken:
    """A component of which each change is asked for just after *move*, and all else when nothing moves."""

    def __init__(
        self, name: str, component: object, move: Callable[[], Awaitable[None]], settled: Callable[[], Awaitable[None]]
    ) -> None:
        self._name = name
        self._component = component
        self._move = move
        self._settled = settled

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any) -> Any:
            if (self._name, method) in MUTATING:
                await asyncio.shield(asyncio.ensure_future(self._move()))
            else:
                await self._settled()
            return await getattr(self._component, method)(*args)

        return call


class _Deaf:
    """The store of a process that cannot say that it leaves."""

    async def apply(self, transaction: Transaction) -> int:
        raise Unavailable("Nobody hears.")
