"""Commits a second over one store, with the memory substrate: what is left is the commit itself and the store.

`python -m bench.apart.commits STORE DIRECTORY` measures, and writes DIRECTORY/result.json; it is run in a jail, where
etcd has its usual port.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec

from bench.apart import figures as f
from bench.image import layer
from portlayer.compose import Settings, assemble
from portlayer.interfaces.components import Components
from portlayer.interfaces.store import Store
from portlayer.model.caller import Caller
from portlayer.model.errors import Unavailable
from portlayer.model.execution import Commit, ContainerRef, Create, ProcessRequest, SetLabels
from portlayer.model.storage import ImportImage
from portlayer.stores.choice import open_store, parse_url
from portlayer.stores.memory import MemoryStore
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World

ME = Caller()
TRUE = ProcessRequest(args=("true",))
CONTAINERS = 32
SECONDS = 3.0


async def measure(components: Components) -> dict[str, list[float]]:
    """Rates by the figure's key."""

    async def body() -> AsyncIterator[bytes]:
        yield layer()

    await components.storage.import_image(ME, ImportImage(name="busybox", format="rootfs"), body())
    names = [f"c{number}" for number in range(CONTAINERS)]
    for name in names:
        handle = (await components.execution.create(ME, Create(image="busybox", name=name, process=TRUE))).handle
        await components.execution.commit(ME, Commit(handle=handle))
    await _rate(components, names, 0.5)
    return {
        f.COMMITS.key: [await _rate(components, names, SECONDS)],
        f.COMMITS_ONE.key: [await _rate(components, names[:1], SECONDS)],
    }


async def _rate(components: Components, names: list[str], seconds: float) -> float:
    """Commits a second, of one caller for each of *names*."""
    done, began = 0, time.perf_counter()

    async def work(name: str) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            handle = (await components.execution.handle(ME, ContainerRef(ref=name))).handle
            change = SetLabels(handle=handle, labels={"n": str(done)})
            handle = (await components.execution.set_labels(ME, change)).handle
            await components.execution.commit(ME, Commit(handle=handle))
            done += 1

    await asyncio.gather(*map(work, names))
    return done / (time.perf_counter() - began)


@contextlib.asynccontextmanager
async def store(kind: str, directory: Path) -> AsyncIterator[Store]:
    with _etcd(directory) if kind == "etcd" else contextlib.nullcontext():
        opened = await _opened(kind, directory)
        try:
            yield opened
        finally:
            await opened.close()


async def _opened(kind: str, directory: Path) -> Store:
    if kind == "memory":
        return MemoryStore()
    choice = parse_url("etcd://127.0.0.1:2379/bench" if kind == "etcd" else kind)
    for _ in range(100):
        with contextlib.suppress(Unavailable):
            return await open_store(choice, directory)
        await asyncio.sleep(0.1)
    return await open_store(choice, directory)


@contextlib.contextmanager
def _etcd(directory: Path) -> Iterator[None]:
    with (directory / "etcd.log").open("wb") as log:
        etcd = subprocess.Popen(["etcd", "--data-dir", str(directory / "etcd")], stdout=log, stderr=log)
    try:
        yield
    finally:
        etcd.kill()
        etcd.wait()


async def main(kind: str, directory: Path) -> None:
    substrate = MemorySubstrate(World())
    async with store(kind, directory) as opened:
        whole = (opened, substrate, await substrate.start(), directory, "bench", Settings())
        async with assemble(*whole) as assembled:
            rates = await measure(assembled.components)
    (directory / "result.json").write_bytes(msgspec.json.encode(rates))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
