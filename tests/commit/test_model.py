"""Model-based: random callers, branches, retries, crashes, restarts, kills and expiries against the whole port layer.

The model is what successful commits have said: labels, name, bound networks, state. A commit that a crash cut off may
have happened or not; nothing in between. What a failure prints replays it: `@reproduce_failure`, put above OverMemory
or OverSqlite; so does a `--hypothesis-seed` that was given. For a longer run (`make test-model`):

    PORTLAYER_MODEL_EXAMPLES=2000 python -m pytest tests/commit/test_model.py tests/apart/test_model.py

Here it is one process; in tests/apart each component has its own, and the store is etcd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from commit_kinds import check
from conformance.store_tools import FakeClock
from harness import ME, Harness
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from portlayer.components.membership import LEASE_SECONDS
from portlayer.compose import Settings
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model.errors import AlreadyExists, Conflict, InvalidState, NotFound, PortlayerError, Unavailable
from portlayer.model.service import VchRef
from portlayer.stores.memory import MemoryStore
from portlayer.stores.sqlite import SqliteStore

EXAMPLES = int(os.environ.get("PORTLAYER_MODEL_EXAMPLES", "85"))
STEPS_AT_MOST = 100
"""Of an example. Steps that found nothing to do do not count, so there are fewer than EXAMPLES times as many."""
LEAST_STEPS = 5000 * min(1.0, EXAMPLES / 85)
"""Of all examples over one store."""
STEP = 10
NETWORKS = ("n0", "n1")
POINTS = (
    "commit.intent",
    "commit.record",
    "commit.end",
    *(
        f"commit.{when}.{step}"
        for when in ("before", "done")
        for step in ("Prepare", "Plug", "Unplug", "Stop", "Release")
    ),
    *(f"commit.before.{step}" for step in ("MakeRootfs", "RewriteFiles", "Retire", "RemoveRootfs", "Update")),
)


@dataclass(frozen=True)
class Shape:
    """What the model knows of a container. running: what was last committed; pids: its limit."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    bound: frozenset[str] = frozenset()
    running: bool = False
    pids: int | None = None


@dataclass
class Draft:
    """A handle, whose container it is of (empty: not committed yet), and what it would change."""

    handle: str
    container: str
    new: bool
    changes: list[tuple[str, Any]] = field(default_factory=list)

    def then(self, handle: str, change: tuple[str, Any]) -> Draft:
        return Draft(handle, self.container, self.new, [*self.changes, change])


def apply(shape: Shape, change: tuple[str, Any]) -> Shape:
    what, value = change
    match what:
        case "label":
            return replace(shape, labels=tuple(sorted({**dict(shape.labels), value[0]: value[1]}.items())))
        case "rename":
            return replace(shape, name=value)
        case "bind":
            return replace(shape, bound=shape.bound | {value})
        case "leave":
            return replace(shape, bound=shape.bound - {value})
        case "state":
            return replace(shape, running=value == "running")
        case "pids":
            return replace(shape, pids=value)
    raise AssertionError(what)


class PortLayerMachine(RuleBasedStateMachine):
    """One port layer, driven by rules; subclasses say over which store.

    A rule that finds nothing to work on does nothing: preconditions would make what is drawn depend on timing.
    """

    steps: ClassVar[int] = 0
    """How many rules of all runs have found something to do."""
    sqlite = False
    look_after_each = True
    """Whether the laws are looked at after each step, or only after those that may have committed something."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.drafts: list[Draft] = []
        self.done: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        self.counter = 0
        self.acted = False
        self.moved = True
        self.stores: list[Any] = []
        self.harness = self.make()

    def make(self) -> Any:
        """The port layer."""
        return Harness(self._open, Path(self.directory.name), Settings(), clock=self.clock)

    async def _open(self) -> Any:
        if self.sqlite or not self.stores:
            path = Path(self.directory.name) / "store.db"
            self.stores.append(
                await SqliteStore.open(path, clock=self.clock) if self.sqlite else MemoryStore(clock=self.clock)
            )
        return self.stores[-1]

    def __repr__(self) -> str:
        return type(self).__name__

    def run(self, work: Any) -> Any:
        self.acted = True
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        async def work() -> None:
            await self.harness.start()
            await self.harness.image()
            for name in NETWORKS:
                await self.harness.network(name)

        self.run(work())
        self.create()
        self.commit(0)
        self.acted = False

    def pick(self, index: int) -> Draft:
        return self.drafts[index % len(self.drafts)]

    def keep(self, draft: Draft) -> None:
        self.drafts.append(draft)
        del self.drafts[:-30]

    # callers

    @rule()
    def create(self) -> None:
        self.counter += 1
        name = f"c{self.counter}"
        handle = self.run(self.patiently(lambda: self.harness.draft("sleep", "1000", name=name)))
        self.keep(Draft(handle, name, new=True))

    @rule(index=st.integers(0, 99))
    def take(self, index: int) -> None:
        if not self.shapes:
            return
        ident = list(self.shapes)[index % len(self.shapes)]
        handle = self.run(self.patiently(lambda: self.harness.handle(ident)))
        self.keep(Draft(handle, ident, new=False))

    @rule(index=st.integers(0, 99), what=st.sampled_from(["label", "rename", "state", "pids"]), value=st.integers(0, 2))
    def change(self, index: int, what: str, value: int) -> None:
        if not self.drafts:
            return
        draft = self.pick(index)
        harness = self.harness

        async def work() -> None:
            match what:
                case "label":
                    change: tuple[str, Any] = (what, (f"k{value}", str(self.counter)))
                    handle = await harness.set_labels(draft.handle, **{f"k{value}": str(self.counter)})
                case "rename":
                    self.counter += 1
                    change = (what, f"r{self.counter}")
                    handle = await harness.rename(draft.handle, f"r{self.counter}")
                case "state":
                    state = ("running", "stopped", "running")[value]
                    change = (what, state)
                    handle = await harness.set_state_at_once(draft.handle, state)
                case _:
                    change = (what, 10 + value)
                    request = e.SetResources(handle=draft.handle, resources=e.Resources(pids=10 + value))
                    handle = (await harness.pl.execution.set_resources(ME, request)).handle
            self.keep(draft.then(handle, change))

        self.expect(work, NotFound, AlreadyExists, Conflict)

    @rule(index=st.integers(0, 99), network=st.sampled_from(NETWORKS), leave=st.booleans())
    def connect(self, index: int, network: str, *, leave: bool) -> None:
        if not self.drafts:
            return
        draft = self.pick(index)
        api = self.harness.pl.network

        async def work() -> None:
            if leave:
                handle = (await api.leave(ME, n.LeaveNetwork(handle=draft.handle, network=network))).handle
                self.keep(draft.then(handle, ("leave", network)))
                return
            handle = (await api.join(ME, n.JoinNetwork(handle=draft.handle, network=network))).handle
            handle = (await api.bind(ME, n.BindNetwork(handle=handle, network=network))).handle
            self.keep(draft.then(handle, ("bind", network)))

        self.expect(work, NotFound, AlreadyExists, Conflict)

    @rule(index=st.integers(0, 99))
    def commit(self, index: int) -> None:
        self.moved = True
        if not self.drafts:
            return
        draft = self.pick(index)

        self.expect(lambda: self.commit_now(draft), NotFound, AlreadyExists, Conflict, InvalidState)

    async def commit_now(self, draft: Draft) -> None:
        answer = await self.harness.commit(draft.handle)
        if draft.handle in self.done:
            assert answer == self.done[draft.handle]
            return
        self.done[draft.handle] = answer
        self.shapes[answer.id] = self.after(draft, answer.id)

    async def patiently(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """*work*, again where it may be that it cannot be done just now."""
        async with asyncio.timeout(30):
            while True:
                try:
                    return await work()
                except Unavailable:
                    await asyncio.sleep(0.05)

    def after(self, draft: Draft, ident: str) -> Shape:
        shape = Shape(name=draft.container) if draft.new else self.shapes[ident]
        for change in draft.changes:
            shape = apply(shape, change)
        return shape

    @rule(index=st.integers(0, 99))
    def remove(self, index: int) -> None:
        self.moved = True
        if not self.shapes:
            return
        ident = list(self.shapes)[index % len(self.shapes)]
        self.run(self.patiently(lambda: self.harness.remove(ident, force=True)))
        del self.shapes[ident]

    @rule(index=st.integers(0, 99))
    def discard(self, index: int) -> None:
        if not self.drafts:
            return
        request = e.Discard(handle=self.pick(index).handle)
        self.run(self.patiently(lambda: self.harness.pl.execution.discard(ME, request)))

    # the world

    @rule(process=st.integers(0, 9))
    def restart(self, process: int) -> None:
        self.moved = True
        self.run(self.harness.crash(process))

    @rule(index=st.integers(0, 99), point=st.sampled_from(POINTS))
    def crash_while_committing(self, index: int, point: str) -> None:
        self.moved = True
        draft = next((draft for draft in self.drafts[index % 30 :] if draft.handle not in self.done), None)
        if draft is None:
            return

        async def work() -> None:
            task = await self.harness.until_hit(point, self.harness.commit(draft.handle))
            failed = task.done() and task.exception() is not None
            await self.harness.crash()
            await asyncio.wait({task}, timeout=20)
            if failed:
                assert isinstance(task.exception(), PortlayerError)
                return
            receipt = await self.harness.store.get(f"/v/default/receipts/{await self.ident(draft)}")
            if receipt is not None:
                await self.patiently(lambda: self.commit_now(draft))

        self.run(work())

    async def ident(self, draft: Draft) -> str:
        sealer = self.harness.drafts.sealer
        vch = (await self.harness.pl.service.get_vch(ME, VchRef(ref="default"))).id
        return str((await sealer.open_draft(vch, draft.handle)).id)

    @rule()
    def kill_behind_our_back(self) -> None:
        self.moved = True
        ident = next((key for key, shape in self.shapes.items() if shape.running), None)
        if ident is None:
            return

        async def work() -> None:
            for one in self.harness.world.live(ident):
                if one.state == "running":
                    self.harness.world.kill(one.id)
            await self.harness.wait(ident)

        self.run(work())
        self.shapes[ident] = replace(self.shapes[ident], running=False)

    @rule(seconds=st.integers(1, 200))
    def time_passes(self, seconds: int) -> None:
        """The process says that it lives as often as it does when time is real."""
        self.moved = True
        for _ in range(0, seconds, STEP):
            self.clock.advance(min(seconds, STEP))
            self.run(self.harness.refresh())

    @rule()
    def silence(self) -> None:
        """No process says that it lives for longer than its lease: all were paused, or cut off."""
        self.moved = self.acted = True
        self.clock.advance(LEASE_SECONDS * 1.5)

    @rule(index=st.integers(0, 99), number=st.integers(0, 5), landed=st.booleans())
    def commit_whose_answers_are_lost(self, index: int, number: int, landed: bool) -> None:
        """The store does not answer one of the transactions; whether it happened, nobody knows."""
        self.moved = True
        if not self.drafts:
            return
        draft = self.pick(index)

        async def work() -> None:
            with self.harness.losing(number, landed=landed), contextlib.suppress(Unavailable):
                await self.harness.commit(draft.handle)
            await self.patiently(lambda: self.commit_now(draft))

        self.expect(work, NotFound, AlreadyExists, Conflict, InvalidState)

    def expect(self, work: Callable[[], Awaitable[Any]], *errors: type[Exception]) -> None:
        with contextlib.suppress(errors):
            self.run(self.patiently(work))

    # the laws

    @invariant()
    def what_was_committed_is_what_is_seen(self) -> None:
        async def work() -> None:
            await self.patiently(lambda: check(self.harness))
            everything = e.ListContainers(limit=1000)
            listed = (
                await self.patiently(lambda: self.harness.pl.execution.list_containers(ME, everything))
            ).containers
            seen = {
                one.id: Shape(
                    name=one.name,
                    labels=tuple(sorted(one.labels.items())),
                    bound=frozenset(point.network for point in one.endpoints if point.state == "bound"),
                    running=one.state == "running",
                    pids=one.resources.pids,
                )
                for one in listed
            }
            assert seen == self.shapes

        type(self).steps += self.acted
        if hasattr(self.harness, "pl") and (self.moved or self.look_after_each):
            self.run(work())
            self.moved = False
        self.acted = False

    async def clean(self) -> None:
        """Nothing is left."""

    def teardown(self) -> None:
        if hasattr(self.harness, "pl"):
            self.run(self.harness.close())
            for store in self.stores:
                self.run(store.close())
            self.run(self.clean())
        self.runner.close()
        self.directory.cleanup()


class OverMemory(PortLayerMachine):
    pass


class OverSqlite(PortLayerMachine):
    sqlite = True


def counted(machine: type[PortLayerMachine]) -> Any:
    """The test of *machine*, which has to have done something often enough."""

    class Counted(machine.TestCase):  # type: ignore[misc,name-defined]
        settings = settings(max_examples=EXAMPLES, **common)

        def runTest(self) -> None:  # noqa: N802 - as unittest has it
            super().runTest()
            assert machine.steps >= LEAST_STEPS

    return Counted


common: dict[str, Any] = {
    "stateful_step_count": STEPS_AT_MOST,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
}
pytestmark = pytest.mark.timeout(900)
TestOverMemory = counted(OverMemory)
TestOverSqlite = counted(OverSqlite)
