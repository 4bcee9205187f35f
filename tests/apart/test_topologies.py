"""One port layer in one process, or in several: nobody can tell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import builders
import images
import pytest
from apart.cluster import TOPOLOGIES, Cluster, opened

from portlayer.client import ContainerHandle, PortLayer, Steps
from portlayer.interfaces.store import Delete, Transaction
from portlayer.model.errors import Conflict, HandleInvalid, NotFound, Unavailable
from portlayer.model.topology import Part, Topology
from portlayer.stores.memory import MemoryStore

ARCHIVE = images.oci_archive(images.Built([builders.layer()[1]], name="busybox:latest", config={"Cmd": ["sh"]}))


@pytest.fixture(params=TOPOLOGIES)
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with opened(request.param, tmp_path) as cluster:
        yield cluster


async def furnish(pl: PortLayer) -> None:
    await pl.storage.import_image(images.stream(ARCHIVE))
    await pl.network.create_network("gibson_network")


async def test_the_seeds_workflow_from_every_process(cluster: Cluster) -> None:
    async with cluster.at() as pl:
        await furnish(pl)
    for door in cluster.doors:
        async with cluster.at(door) as pl:
            name = f"cookie-{door}"
            await pl.execution.commit(Steps().create("busybox", "sh", "-c", "echo hello; exit 3", name=name))
            c = await pl.execution.get_container(name)
            n = await pl.network.get_network("gibson_network")
            c = await pl.network.join(c, n)
            c = await pl.network.bind(c)
            c = await pl.execution.set_state(c, "running")
            done = await pl.execution.commit(c)
            assert done.endpoints[0].address
            assert (await pl.execution.wait(name, timeout_seconds=20)).exit_code == 3
            assert b"".join([chunk.data async for chunk in pl.interaction.logs(name)]) == b"hello\n"
            assert (await pl.execution.commit(c)).revision == done.revision, "once, whichever process is asked"


async def test_streams_both_ways(cluster: Cluster) -> None:
    async with cluster.at() as pl:
        await furnish(pl)
        steps = Steps().create("busybox", "cat", name="echo").join_interaction(stdin=True).bind_interaction()
        await pl.execution.commit(steps.set_state("running"))
    for name in cluster.doors:
        async with cluster.at(name) as pl, pl.interaction.attach("echo", stdin=True) as attached:
            await attached.write(f"to {name}\n".encode())
            async for output in attached:
                assert output.data == f"to {name}\n".encode()
                break
    async with cluster.at(cluster.doors[-1]) as pl:
        await pl.execution.remove("echo", force=True)


async def test_who_is_removed_on_exit_is_read_to_its_end(cluster: Cluster) -> None:
    async with cluster.at() as pl:
        await furnish(pl)
        steps = Steps().create("busybox", "sh", "-c", "echo last words; exit 4", name="brief", remove_on_exit=True)
        await pl.execution.commit(steps)
        async with pl.interaction.attach("brief") as attached:
            started = await pl.execution.set_state(await pl.execution.get_container("brief"), "running")
            await pl.execution.commit(started)
            assert b"".join([output.data async for output in attached]) == b"last words\n"
            assert attached.exit_code == 4
        with contextlib.suppress(NotFound):
            await pl.execution.wait("brief", condition="removed", timeout_seconds=20)


async def test_errors_are_the_same_from_every_process(cluster: Cluster) -> None:
    async with cluster.at() as pl:
        await furnish(pl)
        done = await pl.execution.commit(Steps().create("busybox", name="one"))
    for name in cluster.doors:
        async with cluster.at(name) as pl:
            with pytest.raises(NotFound) as missing:
                await pl.execution.remove("nobody")
            assert missing.value.facts["id"] == "nobody"
            with pytest.raises(HandleInvalid):
                await pl.execution.commit(ContainerHandle(id="bogus", sealed="bogus"))
            first, second = await pl.execution.get_container("one"), await pl.execution.get_container("one")
            await pl.execution.commit(await pl.execution.set_labels(first, {"by": name}))
            with pytest.raises(Conflict) as lost:
                await pl.execution.commit(await pl.execution.set_labels(second, {"by": "late"}))
            assert lost.value.facts["collisions"] == ("labels/by",)
            assert (await pl.execution.inspect_container("one")).id == done.id
            with pytest.raises(NotFound):
                await pl.storage.inspect_image("nothing")
            with pytest.raises(NotFound):
                await pl.network.get_network("nowhere")


@pytest.mark.parametrize("gone", ["storage", "interaction"])
async def test_who_is_away_is_named_and_comes_back(tmp_path: Path, gone: str) -> None:
    async with Cluster(TOPOLOGIES["each apart"], MemoryStore(), tmp_path) as cluster, cluster.at("execution") as pl:
        await furnish(pl)
        part = cluster.topology.part(gone)
        await cluster.stop(gone)

        async def use() -> None:
            if gone == "storage":
                await pl.storage.inspect_image("busybox")
            else:
                assert [chunk async for chunk in pl.interaction.logs("one")] == []

        await pl.execution.commit(Steps().create("busybox", name="one"))
        with pytest.raises(Unavailable) as away:
            await use()
        assert gone in away.value.detail
        assert away.value.facts["retry_after_seconds"] == 1
        await cluster.start(part)
        await use()


@pytest.mark.parametrize("moving", ["storage", "network", "execution"])
async def test_calls_that_meet_a_move_come_through(tmp_path: Path, moving: str) -> None:
    """The client comes again by itself with what does no harm twice, and with what nobody has begun."""
    async with Cluster(TOPOLOGIES["each apart"], MemoryStore(), tmp_path) as cluster:
        async with cluster.at() as pl:
            await furnish(pl)
        done, enough = 0, asyncio.Event()

        async def work(number: int) -> None:
            nonlocal done
            for again in range(1_000_000):
                if enough.is_set():
                    return
                name = f"thing-{number}-{again}"
                if moving == "storage":
                    await pl.storage.create_volume(name, idempotency_key=name)
                elif moving == "network":
                    await pl.network.create_network(name, idempotency_key=name)
                else:
                    await pl.execution.commit(await pl.execution.create("busybox", name=name))
                done += 1

        async with cluster.at(retries=5) as pl, asyncio.TaskGroup() as group:
            workers = [group.create_task(work(number)) for number in range(4)]
            for number in range(2):
                before = done
                while done < before + 8:
                    await asyncio.sleep(0.001)
                await cluster.stop(moving if number == 0 else f"{moving}-{number}")
                await cluster.start(Part(name=f"{moving}-{number + 1}", components=(moving,)))
            before = done
            while done < before + 8:
                await asyncio.sleep(0.001)
            enough.set()
            await asyncio.wait(workers)


async def test_handles_from_before_storage_moved_commit_after_it(tmp_path: Path) -> None:
    whole = Part(name="rest")
    async with Cluster(Topology(parts=(whole,)), MemoryStore(), tmp_path) as cluster:
        async with cluster.at("rest") as pl:
            await furnish(pl)
            volume = await pl.storage.create_volume("jar")
            created = await pl.execution.create("busybox", "sh", "-c", "echo kept > /jar/it", name="moved")
            created = await pl.storage.join(created, volume.name, "/jar")
            created = await pl.network.join(created, "gibson_network")
            created = await pl.network.bind(created)
        await cluster.stop("rest")
        cluster.topology = TOPOLOGIES["storage apart"]
        for part in cluster.topology.parts:
            await cluster.start(part)
        async with cluster.at("storage") as pl:
            handle = await pl.execution.set_state(created, "running")
            done = await pl.execution.commit(handle)
            assert done.endpoints[0].address
            assert (await pl.execution.wait("moved", timeout_seconds=20)).exit_code == 0


async def test_who_cannot_say_that_it_lives_is_asked_all_the_same(tmp_path: Path) -> None:
    """As in a store that is full: leases end, and reads go on."""
    async with opened("each apart", tmp_path) as cluster, cluster.at() as pl:
        await furnish(pl)
        store = cluster.store
        for row in await store.range("/processes/"):
            await store.apply(Transaction(ops=[Delete(row.key)]))
        assert (await pl.storage.inspect_image("busybox")).names
        await cluster.stop("storage")
        for _ in range(2):
            with pytest.raises(Unavailable, match="storage"):
                await pl.storage.inspect_image("busybox")
