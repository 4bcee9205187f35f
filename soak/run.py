"""The soak itself: rounds of cycles, some of them under kills, with a look at everything whenever a round has ended."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from portlayer.client import PortLayer, Steps, connect
from portlayer.model.errors import InUse, PortlayerError
from soak import image, kernel
from soak.cycles import KINDS
from soak.patience import Patience
from soak.records import Records
from soak.result import Rest, Result
from soak.scene import Ledger, Scene
from soak.server import LEASE_SECONDS, Server
from soak.witness import Witness

NETWORKS = 4
DISTURBED = 0.4
"""The part of all rounds in which the server is killed; in the rest its memory can be judged."""
_CYCLE_SECONDS = 240.0
_FAILURES = 25
_KILL_SPREAD_SECONDS = 0.3
_PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.1


class Plan(msgspec.Struct, frozen=True):
    """How much there is to do. only: kinds to choose from; empty means all. round: cycles between two looks."""

    cycles: int
    kills: int
    seed: int
    at_once: int = 8
    round: int = 100
    only: tuple[str, ...] = ()

    def deals(self) -> list[str]:
        """The kind of each cycle: all of them, shuffled, again and again."""
        rng, names = random.Random(f"{self.seed}/kinds"), list(self.only or KINDS)
        dealt: list[str] = []
        while len(dealt) < self.cycles:
            dealt += rng.sample(names, len(names))
        return dealt[: self.cycles]

    def strikes(self) -> dict[int, float]:
        """The cycles with whose begin a kill comes, and how many seconds later."""
        rng = random.Random(f"{self.seed}/kills")
        within = range(min(self.at_once, self.cycles), max(1, int(self.cycles * DISTURBED)))
        return {
            number: rng.random() * _KILL_SPREAD_SECONDS for number in rng.sample(within, min(self.kills, len(within)))
        }


class Soak:
    """One run in *directory*. progress: told the kind of each cycle that has ended."""

    def __init__(self, plan: Plan, directory: Path, progress: Callable[[str], None]) -> None:
        self.result = Result(plan.seed, plan.cycles, plan.at_once, datetime.now(UTC).isoformat(timespec="seconds"))
        self._plan = plan
        self._directory = directory
        self._progress = progress
        self._strikes = plan.strikes()
        self._striking = asyncio.Lock()
        self._strokes: set[asyncio.Task[None]] = set()
        self._served_from = 0
        self._server = Server(directory)
        self._patience = Patience(self._server)
        self._ledger = Ledger(image.NAME)
        self._warm = kernel.Picture()
        self._records: set[str] = set()

    async def run(self) -> Result:
        """All of it; whatever happens, nothing stays on the host."""
        began = time.monotonic()
        before = kernel.named_namespaces()
        try:
            await self._server.start()
            async with self._connected() as watching:
                witness = Witness(watching)
                try:
                    await self._rounds()
                    await self._delete_all()
                    self._wrong("events", await witness.differences(self._ledger.created, self._ledger.removed))
                    self.result.resumed = witness.resumed
                finally:
                    await witness.close()
            await self._end(before)
        finally:
            self.result.seconds = time.monotonic() - began
            self.result.recoveries = self._server.recoveries
            self.result.repeated = self._patience.repeated
            await self._no_more_strokes()
            await self._server.stop()
            await self._server.cleanup("--apply")
        return self.result

    def _connected(self) -> AbstractAsyncContextManager[PortLayer]:
        return connect(host=self._server.host, vch="default")

    def _wrong(self, where: str, lines: Iterable[str]) -> None:
        self.result.errors += [f"{where}: {line}" for line in lines]

    async def _rounds(self) -> None:
        async with self._connected() as pl:
            await self._set_up(pl)
        await self._rest(0)
        deals = list(enumerate(self._plan.deals()))
        for begin in range(0, self._plan.cycles, self._plan.round):
            cycles = deals[begin : begin + self._plan.round]
            async with self._connected() as pl:
                await self._round(pl, iter(cycles))
            await self._rest(begin + len(cycles))
            if len(self.result.wrong()) > _FAILURES:
                return

    async def _set_up(self, pl: PortLayer) -> None:
        """What stands all the time: an image, and networks, each of which was used once."""
        await pl.storage.import_image(image.build(image.NAME, "soaked\n"), idempotency_key="image")
        for index in range(NETWORKS):
            made = await pl.network.create_network(f"lan{index}", subnets=[f"10.180.{index}.0/24"])
            self._ledger.stand(made.name, made.subnets[0].subnet)
            steps = Steps().create(image.NAME, "true").join_network(made.name).bind_network()
            one = await pl.execution.commit(steps.set_state("running"))
            await pl.execution.wait(one.id)
            await pl.execution.remove(one.id)
            self._ledger.created.add(one.id)
            self._ledger.removed.add(one.id)

    async def _round(self, pl: PortLayer, cycles: Iterator[tuple[int, str]]) -> None:
        async def work() -> None:
            for number, name in cycles:
                if number in self._strikes:
                    stroke = asyncio.create_task(self._strike(self._strikes[number], number))
                    self._strokes.add(stroke)
                await self._cycle(pl, number, name)
                self._progress(name)

        await asyncio.gather(*(work() for _ in range(self._plan.at_once)))
        await asyncio.gather(*self._strokes)
        self._strokes.clear()

    async def _strike(self, delay: float, number: int) -> None:
        await asyncio.sleep(delay)
        async with self._striking:
            await self._server.kill()
            self._served_from = number

    async def _no_more_strokes(self) -> None:
        """After an interruption: whatever was about to start the server again does not."""
        for stroke in self._strokes:
            stroke.cancel()
        await asyncio.gather(*self._strokes, return_exceptions=True)

    async def _cycle(self, pl: PortLayer, number: int, name: str) -> None:
        rng = random.Random(f"{self._plan.seed}/{number}")
        scene = Scene(number, rng, pl, self._patience, self._ledger, str(self._directory))
        try:
            async with asyncio.timeout(_CYCLE_SECONDS):
                await KINDS[name](scene)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the soak is for
            self._wrong(f"cycle {number}, {name}", [_told(error)])
            await self._clear(scene)
        else:
            self.result.done += 1
            self.result.kinds[name] = self.result.kinds.get(name, 0) + 1

    async def _clear(self, scene: Scene) -> None:
        try:
            await scene.clear()
        except PortlayerError as error:
            self._wrong(f"clearing up after cycle {scene.number}", [_told(error)])

    async def _rest(self, cycles: int) -> None:
        """Nothing is done now: what is there is what was there at the first rest."""
        first = not self.result.rests
        async with self._connected() as pl:
            ready, listed = await pl.service.ready(), await pl.execution.list()
        if not ready.ready or set(ready.checks.values()) != {"ok"}:
            self._wrong(f"after {cycles} cycles", [f"not ready: {ready.checks}"])
        self._wrong(f"after {cycles} cycles", [f"container {one.name} is left" for one in listed])
        left = (
            []
            if first
            else await self._settled(
                lambda records: [f"record {key}" for key in sorted(records.keys - self._records)], self._warm
            )
        )
        self.result.leftovers += [f"after {cycles} cycles: {line}" for line in left]
        records = Records(self._server.store)
        if first or left:  # what is left is told once
            self._warm, self._records = kernel.picture(self._server), records.keys
        rest = Rest(
            cycles=cycles,
            generation=self._server.generation,
            served=cycles - self._served_from,
            descriptors=dict(await kernel.descriptors(self._server)),
            **kernel.memory(self._server.pid),
            **records.bytes,
        )
        self.result.rests.append(rest)

    async def _settled(self, strange: Callable[[Records], list[str]], explained: kernel.Picture) -> list[str]:
        """What is left on the host and in the store, once what the kernel and leases do later is done."""
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while True:
            left = kernel.left_since(explained, self._server)
            left += strange(Records(self._server.store))
            if not left or asyncio.get_running_loop().time() > deadline:
                return left
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _delete_all(self) -> None:
        """Remove what stood all the time, and wait for the last lease."""
        async with self._connected() as pl:
            for name in self._ledger.standing:
                await _once_unused(lambda name=name: pl.network.remove(name))  # type: ignore[misc]
            await pl.storage.remove_image(image.NAME)
        left = await self._settled(Records.unexplained, {**self._warm, "file": set()})
        self.result.leftovers += [f"after all was deleted: {line}" for line in left]

    async def _end(self, namespaces: set[str]) -> None:
        """Stop the server: there is nothing of it on the host any more, and its log has no complaint."""
        self._wrong("unexplained", self._patience.unexplained)
        if (code := await self._server.stop()) != 0:
            self._wrong("at the end", [f"the server ended with {code}"])
        left = await self._settled(Records.unexplained, {"namespace": namespaces})
        self.result.leftovers += [f"after the server has ended: {line}" for line in left]
        if not (said := await self._server.cleanup()).startswith("Nothing"):
            self.result.leftovers += [f"portlayer cleanup: {line}" for line in said.splitlines()]
        self.result.remaining = dict(sorted(Records(self._server.store).counts().items()))
        self._wrong("the server's log", self._server.complaints())


async def _once_unused(remove: Callable[[], Awaitable[None]]) -> None:
    """Leases of handles that were abandoned use a network, until they end."""
    deadline = asyncio.get_running_loop().time() + LEASE_SECONDS + _PATIENCE_SECONDS
    while True:
        try:
            return await remove()
        except InUse:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


def _told(error: Exception) -> str:
    """In one line what went wrong, and where in the cycle."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "soak/cycles" in frame.filename]
    where = f" (line {frames[-1].lineno}: {frames[-1].line})" if frames else ""
    said = str(error) or "no more time" if isinstance(error, TimeoutError) else str(error)
    return f"{type(error).__name__}: {said}{where}"
