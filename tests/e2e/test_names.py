"""Containers find each other by name: over REST, and whatever of ours dies."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from e2e.conftest import SERVED, Served

from portlayer.client import PortLayer, Steps, connect
from portlayer.model.errors import InvalidArgument

SECONDS = 20
ASKING = "while true; do nslookup $(cat /jar/ask 2>/dev/null) >/jar/new 2>&1; mv /jar/new /jar/answer; sleep 0.01; done"


class Asker:
    """A container that asks again and again for the name that stands in a file: also while no server is there."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    async def make(cls, served: Served, pl: PortLayer, network: str) -> Asker:
        jar = await pl.storage.create_volume(f"jar-{network}")
        asker = cls(served.directory / "state" / "volumes" / jar.id / "data")
        steps = Steps().create("busybox", "sh", "-c", ASKING, **served.near).join_volume(jar.id, "/jar")
        await pl.execution.commit(steps.join_network(network).bind_network().set_state("running"))
        return asker

    async def told(self, name: str, *addresses: str) -> None:
        """It is told *addresses* of *name*: of what it asks from now on, not of what is under way."""
        (self._directory / "ask").write_text(name)
        async with asyncio.timeout(SECONDS):
            while await self._next(name) != set(addresses):
                pass

    async def _next(self, name: str) -> set[str] | None:
        (self._directory / "answer").unlink(missing_ok=True)
        while not (self._directory / "answer").exists():
            await asyncio.sleep(0.01)
        answer = (self._directory / "answer").read_text()
        if "timed out" in answer or not re.search(rf"(Name:\t|can't find ){re.escape(name)}\b", answer):
            return None
        return set(re.findall(r"^Address: (\S+)$", answer, re.MULTILINE))


async def start(
    pl: PortLayer, name: str, *aliases: str, network: str = "lan", command: str = "sleep 1000", **near: str
) -> str:
    """Its address. near: where the one that asks is."""
    steps = Steps().create("busybox", "sh", "-c", command, name=name, **near).join_network(network, aliases=aliases)
    committed = await pl.execution.commit(steps.bind_network().set_state("running"))
    assert committed.endpoints[0].aliases == aliases
    return committed.endpoints[0].address


@asynccontextmanager
async def setting(served: Served, archive: bytes) -> AsyncIterator[PortLayer]:
    async with connect(host=served.host) as pl:
        await pl.storage.import_image(archive)
        for network in ("lan", "other"):
            await pl.network.create_network(network)
        yield pl


async def change(pl: PortLayer, ref: str, what: Callable[[Steps], Steps]) -> None:
    await pl.execution.commit(what(Steps(await pl.execution.get_container(ref))))


def name_servers(served: Served) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(served.directory / "run" / "live" / "names") in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(params=SERVED)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A server that has nothing yet, in every topology."""
    served = SERVED[request.param](tmp_path)
    try:
        served.serve()
        yield served
    finally:
        served.close()


async def test_names_follow_every_commit(anywhere: Served, archive: bytes) -> None:
    async with setting(anywhere, archive) as pl:
        asker, stranger = await Asker.make(anywhere, pl, "lan"), await Asker.make(anywhere, pl, "other")
        web = await start(pl, "web", "db", "Api.local", **anywhere.near)
        await asyncio.to_thread(anywhere.move)
        second = await start(pl, "second", "db", **anywhere.near)
        for name in ("web", "api.local", (await pl.execution.inspect_container("web")).id[:12], "web.lan"):
            await asker.told(name, web)
        await asker.told("db", web, second)
        await stranger.told("web")
        await stranger.told("db")

        await change(pl, "web", lambda steps: steps.rename("site"))
        await asker.told("web")
        await asker.told("site", web)
        await change(pl, "second", lambda steps: steps.leave_network("lan"))
        await asker.told("db", web)
        await asker.told("second")
        await change(pl, "second", lambda steps: steps.join_network("other", aliases=["db"]).bind_network())
        moved = (await pl.execution.inspect_container("second")).endpoints[0].address
        await stranger.told("db", moved)
        await asker.told("db", web)

        await change(pl, "site", lambda steps: steps.set_state("paused"))
        await asker.told("site", web)
        await change(pl, "site", lambda steps: steps.set_state("stopped", timeout_seconds=0))
        await asker.told("site")
        await change(pl, "site", lambda steps: steps.set_state("running"))
        await asker.told("site", web)
        await change(pl, "site", lambda steps: steps.unbind_network())
        await asker.told("site")
        await change(pl, "site", lambda steps: steps.bind_network())
        again = (await pl.execution.inspect_container("site")).endpoints[0].address
        await asker.told("db", again)
        await pl.execution.remove("site", force=True)
        await asker.told("db")


async def test_names_that_cannot_be_are_refused(served: Served, archive: bytes) -> None:
    async with setting(served, archive) as pl:
        for aliases, pointer in ((["fine", "not fine"], "/aliases/1"), (["a", "A"], "/aliases/1")):
            handle = await pl.execution.create("busybox", "true")
            with pytest.raises(InvalidArgument) as caught:
                await pl.network.join(handle, "lan", aliases=aliases)
            assert caught.value.facts == {"pointer": pointer}


async def test_names_outlive_the_server_and_their_own(served: Served, archive: bytes) -> None:
    async with setting(served, archive) as pl:
        asker = await Asker.make(served, pl, "lan")
        web = await start(pl, "web", "db")
        short = await start(pl, "short", command="until [ -e /tmp/go ]; do sleep 0.02; done")
        (short_pid,) = [process.pid for process in served.view.processes() if short in process.addresses]
        await asker.told("short", short)
        before = name_servers(served)
        assert len(before) == 1
    served.end(signal.SIGKILL)
    await asker.told("web", web)
    os.kill(short_pid, signal.SIGKILL)
    await asker.told("short")

    served.serve()
    assert name_servers(served) == before
    async with connect(host=served.host) as pl:
        third = await start(pl, "third", "db")
        await asker.told("db", web, third)

    for _ in range(2):
        (pid,) = name_servers(served)
        os.kill(pid, signal.SIGKILL)
        await asker.told("db", web, third)
    assert name_servers(served) != before

    served.end(signal.SIGKILL)
    os.kill(*name_servers(served), signal.SIGKILL)
    served.serve()
    await asker.told("db", web, third)


async def test_nothing_of_it_is_left(served: Served, archive: bytes) -> None:
    async with setting(served, archive) as pl:
        await start(pl, "web")
        (pid,) = name_servers(served)
        for one in await pl.execution.list():
            await pl.execution.remove(one.id, force=True)
        for network in ("lan", "other"):
            await pl.network.remove(network)
        assert name_servers(served) == []
        await pl.network.create_network("lan")
        await start(pl, "web")
        (pid,) = name_servers(served)
    served.end(signal.SIGKILL)
    assert f"process {pid} (name server)" in served.cli.ok("cleanup")
    served.cli.ok("cleanup", "--apply")
    assert name_servers(served) == []
    assert "Nothing" in served.cli.ok("cleanup")
