import asyncio

import pytest
from harness import ME, Harness

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model.errors import AlreadyExists, NotFound


async def test_one_commit_takes_a_name_once(harness: Harness) -> None:
    handles = (await harness.draft(name="dup"), await harness.draft(name="dup"))
    with pytest.raises(AlreadyExists):
        await harness.pl.execution.commit(ME, e.Commit(handles=handles))


async def test_one_container_publishes_a_port_once(harness: Harness) -> None:
    await harness.network("a")
    await harness.network("b")
    handle = await harness.draft(name="p")
    for name in "ab":
        handle = (
            await harness.pl.network.join(
                ME, n.JoinNetwork(handle=handle, network=name, ports=(n.Port(container_port=80, host_port=18080),))
            )
        ).handle
    handle = (await harness.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle
    with pytest.raises(AlreadyExists):
        await harness.commit(handle)


async def until(harness, ref, test):
    async with asyncio.timeout(5):
        while not test(await harness.inspect(ref)):
            await asyncio.sleep(0.01)


async def test_on_failure_counts(harness: Harness) -> None:
    await harness.run(
        "sh", "-c", "exit 3", name="r", restart_policy=e.RestartPolicy(name="on-failure", maximum_retry_count=2)
    )
    await until(harness, "r", lambda c: c.restarts == 2 and c.state == "stopped")
    await asyncio.sleep(0.5)
    found = await harness.inspect("r")
    assert (found.restarts, found.state) == (2, "stopped")


async def test_removed_when_stopped(harness: Harness) -> None:
    await harness.run(name="z", remove_on_exit=True)
    await harness.commit(await harness.set_state(await harness.handle("z"), "stopped", timeout_seconds=0))
    with pytest.raises(NotFound):
        await harness.wait("z", "removed")
        await harness.inspect("z")


async def test_a_restart_survives_our_death(harness: Harness) -> None:
    await harness.run("sh", "-c", "exit 0", name="r", restart_policy=e.RestartPolicy(name="always"))
    await until(harness, "r", lambda c: c.restarts == 2 and c.state == "stopped")
    await harness.crash()
    await harness.start()
    await until(harness, "r", lambda c: c.restarts >= 3)
