"""The memory substrate, held to the suites of every substrate; and the powers over its World."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import builders
import images
import pytest
from conformance.substrate_bench import Bench, Started
from conformance.substrate_execution import ExecutionSuite
from conformance.substrate_interaction import InteractionSuite
from conformance.substrate_network import NetworkSuite
from conformance.substrate_storage import StorageSuite

from portlayer.model.errors import ResourceExhausted, SubstrateFailed
from portlayer.model.execution import Resources
from portlayer.model.network import EndpointSpec, NetworkSpec
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import Step, World


class MemoryBench(Bench):
    def __init__(self) -> None:
        self.world = World()
        self.substrate = MemorySubstrate(self.world)

    async def restart(self) -> None:
        await self.substrate.close()
        self.substrate = MemorySubstrate(self.world)

    async def reaches(self, started: Started, address: str) -> bool:
        return self.world.reaches(started.spec.id, address)

    async def lose_link(self, started: Started, endpoint: EndpointSpec) -> None:
        self.world.lose_link(started.incarnation, endpoint.id)

    async def lose_network(self, network: NetworkSpec) -> None:
        self.world.lose_network(network.id)

    async def lose_mount(self, started: Started) -> None:
        self.world.lose_mount(started.spec.id)

    async def published(self) -> set[str]:
        return set(self.world.published)

    async def limits(self, started: Started) -> Resources:
        return self.world.incarnations[started.incarnation].resources


@pytest.fixture
async def bench() -> AsyncIterator[MemoryBench]:
    bench = MemoryBench()
    await bench.set_up()
    yield bench
    await bench.tear_down()


class TestStorage(StorageSuite):
    pass


class TestExecution(ExecutionSuite):
    pass


class TestNetwork(NetworkSuite):
    pass


class TestInteraction(InteractionSuite):
    pass


class TestWorld:
    async def test_kill_behind_our_back(self, bench: MemoryBench) -> None:
        started = await bench.started("sleep", "100")
        waiting = asyncio.create_task(started.wait())
        bench.world.kill(started.incarnation)
        assert (await waiting).exit_code == 137

    async def test_out_of_memory(self, bench: MemoryBench) -> None:
        started = await bench.started("sleep", "100")
        bench.world.run_out_of_memory(started.incarnation)
        ended = await started.wait()
        assert (ended.exit_code, ended.oom_killed) == (137, True)

    async def test_a_link_gets_lost(self, bench: MemoryBench) -> None:
        network = builders.network()
        await bench.substrate.network.make_network(network)
        pair = [await bench.started("sleep", "100") for _ in range(2)]
        ends = [builders.endpoint(network, host) for host in (2, 3)]
        for one, end in zip(pair, ends, strict=True):
            await bench.substrate.network.plug(*one.ids, end, network)
        assert await bench.reaches(pair[0], ends[1].address)
        bench.world.lose_link(pair[1].incarnation, ends[1].id)
        assert not await bench.reaches(pair[0], ends[1].address)

    async def test_a_reboot_keeps_content_and_nothing_else(self, bench: MemoryBench) -> None:
        await bench.substrate.network.make_network(builders.network())
        await bench.substrate.storage.make_volume("v")
        started = await bench.started("sh", "-c", "echo x > /f; echo done; exec sleep 100")
        await started.printed(b"done\n")
        bench.world.reboot()
        await bench.restart()
        assert (await started.observe()).state == "absent"
        assert await bench.substrate.execution.present() == []
        assert await bench.substrate.network.networks() == []
        assert await bench.substrate.storage.volumes() == ["v"]
        assert await bench.substrate.storage.layers() == [builders.layer()[0]]
        with pytest.raises(SubstrateFailed):
            await bench.substrate.execution.prepare(started.spec, "new", {})
        assert (await (await bench.again(started)).printed(b"done\ndone\n")) > 0

    async def test_the_disk_fills(self, bench: MemoryBench) -> None:
        tar = images.tar([images.file("big", b"x" * 100_000)])
        bench.world.disk_bytes = len(builders.layer()[1]) + 100_000
        with pytest.raises(ResourceExhausted) as caught:
            await bench.substrate.storage.put_layer(builders.diff_id(tar), images.stream(tar))
        assert caught.value.facts == {"resource": "disk"}
        assert await bench.substrate.storage.layers() == [builders.layer()[0]]
        bench.world.disk_bytes += 20_000
        await bench.substrate.storage.put_layer(builders.diff_id(tar), images.stream(tar))

    async def test_the_kth_call_fails(self, bench: MemoryBench) -> None:
        bench.world.fail("execution.prepare", SubstrateFailed("broken", step="execution.prepare"), nth=2)
        await bench.prepared("true")
        with pytest.raises(SubstrateFailed, match="broken"):
            await bench.prepared("true")
        await bench.prepared("true")
        assert len(await bench.substrate.execution.present()) == 2

    async def test_a_call_hangs_until_it_is_cut_short(self, bench: MemoryBench) -> None:
        seen: list[Step] = []
        reached = asyncio.Event()

        async def hang(step: Step) -> None:
            if step.name == "execution.release":
                seen.append(step)
                reached.set()
                await asyncio.Event().wait()

        started = await bench.prepared("true")
        remove = bench.world.before(hang)
        call = asyncio.create_task(started.release())
        await reached.wait()
        assert seen == [Step(name="execution.release", ids=started.ids)]
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        remove()
        assert (await started.observe()).state == "prepared"

    async def test_a_death_after_the_act(self, bench: MemoryBench) -> None:
        class Crash(BaseException):
            pass

        def crash(step: Step) -> None:
            if step.name == "execution.prepare":
                raise Crash

        remove = bench.world.after(crash)
        with pytest.raises(Crash):
            await bench.prepared("true")
        remove()
        assert len(await bench.substrate.execution.present()) == 1

    async def test_a_life_costs_next_to_nothing(self, bench: MemoryBench) -> None:
        lives = 50
        begin = time.process_time()
        for _ in range(lives):
            started = await bench.started("true")
            await started.wait()
            await started.remove()
            await bench.substrate.storage.remove_rootfs(started.spec.id)
        assert (time.process_time() - begin) / lives < 0.003
