import asyncio
import contextlib
from typing import Any

import pytest
from harness import ME, Harness

from portlayer.components import attachment, keys, networks, observer
from portlayer.components.records import decode
from portlayer.model import changes
from portlayer.model import execution as e
from portlayer.model import interaction as i
from portlayer.model import network as n
from portlayer.model.errors import (
    AlreadyExists,
    Conflict,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    SubstrateFailed,
    Unavailable,
)
from portlayer.model.service import CreateVch, DeleteVch
from portlayer.substrates.memory.execution import MemoryExecution
from portlayer.substrates.memory.world import Step


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


async def test_an_attachment_that_could_not_be_made_takes_no_place(harness: Harness) -> None:
    running = await harness.run("sleep", "1000", remove_on_exit=True)
    with harness.losing(0, landed=False), pytest.raises(Unavailable):
        await harness.pl.interaction.attach(ME, i.Attach(ref=running.id))
    attached: Any = await harness.pl.interaction.attach(ME, i.Attach(ref=running.id))
    assert harness.pl.interaction._streams.lines["default"].running == 1  # type: ignore[attr-defined]
    await attached.close()


async def test_what_was_touched_long_ago_is_not_told_apart_any_more(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the record of a container does not grow with what has ever been in it; a handle of then conflicts."""
    monkeypatch.setattr(changes, "MOST_TOUCHED", 5)
    first = await harness.commit(await harness.draft(name="router"))
    old = await harness.set_labels(await harness.handle(first.id), mine="1")
    for number in range(6):
        last = await harness.set_labels(await harness.handle(first.id), late=str(number))
        other = await harness.set_labels(await harness.handle(first.id), **{f"x{number}": "1"})
        await harness.commit(await harness.set_labels(other, **{f"x{number}": None}))
    assert (await harness.commit(last)).revision > first.revision
    row = await harness.store.get(keys.entity("default", "containers", first.id))
    assert row is not None
    assert len(decode(e.ContainerRecord, row.value).touched) == 5
    with pytest.raises(Conflict) as told:
        await harness.commit(old)
    assert told.value.facts["collisions"] == ("labels/mine",)


async def test_strict_refuses_also_what_was_committed_without_changes(harness: Harness) -> None:
    first = await harness.commit(await harness.draft())
    late, same = [await harness.set_labels(await harness.handle(first.id), mine="1") for _ in range(2)]
    await harness.commit(await harness.handle(first.id))
    with pytest.raises(Conflict):
        await harness.commit(late, strict=True)
    assert (await harness.commit(same)).revision == first.revision + 2


async def test_a_fingerprint_without_a_key_is_refused(harness: Harness) -> None:
    handle = await harness.draft()
    with pytest.raises(InvalidArgument, match="fingerprint"):
        await harness.pl.execution.commit(ME, e.Commit(handle=handle, fingerprint="of nothing"))
    assert (await harness.commit(handle)).state == "created"


async def test_who_reads_for_long_is_still_waited_for(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "READING_SECONDS", 3.0)
    running = await harness.run("sleep", "1000", remove_on_exit=True)
    prefix = keys.attachments("default", running.id)
    async with contextlib.aclosing(harness.store.watch(prefix)) as changes, asyncio.timeout(10):
        attached: Any = await harness.pl.interaction.attach(ME, i.Attach(ref=running.id))
        for _ in range(2):  # said, and said again
            assert (await anext(changes)).record is not None
    assert await harness.store.count(prefix) == 1
    await attached.close()
    assert await harness.store.count(prefix) == 0


async def test_what_a_host_does_not_let_go_at_first_it_does_later(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(networks, "GONE_SECONDS", 3.0)
    for name in "ab":
        await harness.network(name)
        await harness.remove((await harness.commit(await harness.draft(network=name))).id)
    harness.world.fail("network.remove_network", SubstrateFailed("busy"))
    for name in "ab":
        await harness.pl.network.delete_network(ME, n.NetworkRef(ref=name))
    assert not harness.world.networks


async def test_a_container_that_cannot_be_killed_does_not_keep_the_others_of_a_vch_that_goes(harness: Harness) -> None:
    await harness.pl.service.create_vch(ME, CreateVch(name="leaving"))
    tenant = harness.of("leaving")
    await tenant.image()
    stays, goes = sorted([(await tenant.run("sleep", "1000")).id for _ in range(2)])

    def refuse(step: Step) -> None:
        if step.name == "execution.signal" and stays in step.ids:
            raise SubstrateFailed("It hangs in the kernel.")

    relent = harness.world.before(refuse)
    leaving = asyncio.ensure_future(harness.pl.service.delete_vch(ME, DeleteVch(ref="leaving", force=True)))
    async with asyncio.timeout(20):
        while harness.world.live(goes):
            await asyncio.sleep(0.01)
        assert harness.world.live(stays)
        relent()
        await leaving


async def test_what_leaves_a_network_as_it_stops_publishes_nothing(harness: Harness) -> None:
    await harness.network("lan")
    running = await harness.run(name="web", network="lan", ports=(n.Port(container_port=80, host_port=18080),))
    assert len(harness.world.published) == 1
    handle = (
        await harness.pl.network.leave(ME, n.LeaveNetwork(handle=await harness.handle(running.id), network="lan"))
    ).handle
    await harness.commit(await harness.set_state_at_once(handle, "stopped"))
    assert not harness.world.published


async def test_a_container_may_take_over_what_it_lets_go(harness: Harness) -> None:
    """Its own address and port, in a network that is full; another container gets neither of them, before or after."""
    await harness.network("small", subnets=(n.Subnet(subnet="10.231.7.0/30"),))
    await harness.network("other")
    port = n.Port(container_port=80, host_port=18080)

    async def rejoin(handle: str, network: str, left: str | None = None, address: str | None = None) -> str:
        if left is not None:
            handle = (await harness.pl.network.leave(ME, n.LeaveNetwork(handle=handle, network=left))).handle
        join = n.JoinNetwork(handle=handle, network=network, address=address, ports=(port,))
        handle = (await harness.pl.network.join(ME, join)).handle
        return (await harness.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle

    async def endpoint() -> n.Endpoint:
        (found,) = (await harness.inspect("one")).endpoints
        return found

    one = await harness.set_state(await rejoin(await harness.draft(name="one"), "small"), "running")
    await harness.commit(one)
    had = await endpoint()
    for address in (had.address, None):
        handle = await rejoin(await harness.handle("one"), "small", left="small", address=address)
        harness.world.fail("network.plug", SubstrateFailed("no link"))
        with pytest.raises(SubstrateFailed):
            await harness.commit(handle)
        assert await endpoint() == had
        await harness.commit(handle)
        now = await endpoint()
        assert now.id != had.id
        assert (now.address, now.ports) == (had.address, (port,))
        had = now
        with pytest.raises(ResourceExhausted):
            await rejoin(await harness.draft(), "small")
        with pytest.raises(AlreadyExists):
            await harness.commit(await rejoin(await harness.draft(), "other"))
    with pytest.raises(AlreadyExists):  # not in two networks at once
        await harness.commit(await rejoin(await rejoin(await harness.handle("one"), "other", left="small"), "small"))
    assert await endpoint() == had
    await harness.commit(await rejoin(await harness.handle("one"), "other", left="small"))
    assert (await endpoint()).network == "other"
    with pytest.raises(AlreadyExists):
        await harness.commit(await rejoin(await harness.draft(), "small"))
    handle = (await harness.pl.network.unbind(ME, n.BindNetwork(handle=await harness.handle("one")))).handle
    handle = (await harness.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle
    await harness.commit(handle)
    await harness.remove("one", force=True)
    await harness.commit(await rejoin(await harness.draft(), "other"))


async def until(harness, ref, test):
    async with asyncio.timeout(20):
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
    await until(harness, "r", lambda c: c.restarts >= 2 and c.state == "stopped")
    await harness.crash()
    before = (await harness.inspect("r")).restarts
    await harness.start()
    await until(harness, "r", lambda c: c.restarts > before)


async def test_a_death_between_an_exit_and_its_removal_leaves_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(MemoryExecution, "remove", lambda *_: asyncio.Event().wait())
        await harness.run("true", name="r")
        await until(harness, "r", lambda c: c.state == "stopped")
        assert harness.world.incarnations
    await harness.crash()
    assert not harness.world.incarnations
    assert (await harness.inspect("r")).exit_code == 0
