"""Leases: what a bind reserves comes back in time, and nobody else has it before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conformance.store_tools import FakeClock
from harness import ME, Harness, harness_over

from portlayer.components import keys
from portlayer.components.addresses import MOST_CLAIMS
from portlayer.compose import Settings
from portlayer.interfaces.store import Delete, Store, Transaction
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model.errors import Conflict, ResourceExhausted
from portlayer.stores.sqlite import SqliteStore

LEASE = 60.0
ONLY, ONLY6 = "10.99.0.2", "fd00:99::2"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["IPv4", "dual"])
async def leasing(tmp_path: Path, clock: FakeClock, request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """A port layer over SQLite whose lease clock is *clock*, with a network of one address, or one of each kind."""

    async def open_store() -> Store:
        return await SqliteStore.open(tmp_path / "store.db", clock=clock)

    async with harness_over(open_store, tmp_path, Settings(lease_seconds=LEASE)) as harness:
        subnets = n.Subnet(subnet="10.99.0.0/29", ranges=(ONLY,)), n.Subnet(subnet="fd00:99::/64", ranges=(ONLY6,))
        await harness.network(subnets=subnets if request.param == "dual" else subnets[:1])
        yield harness


def owns(endpoint: n.Endpoint) -> bool:
    """Whether it has all that there is in the network."""
    return endpoint.address == ONLY and endpoint.address6 in ("", ONLY6)


async def test_an_abandoned_handle_gives_its_address_back(leasing: Harness, clock: FakeClock) -> None:
    abandoned = await leasing.draft(network="gibson_network")
    clock.advance(LEASE + 1)
    committed = await leasing.commit(await leasing.draft(network="gibson_network"))
    assert owns(committed.endpoints[0])
    with pytest.raises(Conflict, match="run out"):
        await leasing.commit(abandoned)


async def test_also_across_a_restart(leasing: Harness, clock: FakeClock) -> None:
    await leasing.draft(network="gibson_network")
    await leasing.crash()
    clock.advance(LEASE + 1)
    assert owns((await leasing.commit(await leasing.draft(network="gibson_network"))).endpoints[0])


async def test_a_commit_in_time_keeps_it_for_good(leasing: Harness, clock: FakeClock) -> None:
    clock.advance(LEASE / 2)
    committed = await leasing.commit(await leasing.draft(network="gibson_network"))
    clock.advance(10 * LEASE)
    assert owns((await leasing.inspect(committed.id)).endpoints[0])
    network = await leasing.pl.network.get_network(ME, n.NetworkRef(ref="gibson_network"))
    assert (network.allocated_addresses, network.free_addresses) == (1, 0)
    if network.ipv6:
        assert (network.allocated_addresses6, network.free_addresses6) == (1, 0)


async def test_binding_again_prolongs(leasing: Harness, clock: FakeClock) -> None:
    handle = await leasing.draft()
    join = n.JoinNetwork(handle=handle, network="gibson_network")
    joined = (await leasing.pl.network.join(ME, join)).handle
    await leasing.pl.network.bind(ME, n.BindNetwork(handle=joined))
    clock.advance(LEASE * 0.8)
    again = await leasing.pl.network.bind(ME, n.BindNetwork(handle=joined))
    clock.advance(LEASE * 0.8)
    assert owns((await leasing.commit(again.handle)).endpoints[0])


async def joined(leasing: Harness) -> n.BindNetwork:
    """What binds an endpoint of a new container."""
    join = n.JoinNetwork(handle=await leasing.draft(), network="gibson_network")
    return n.BindNetwork(handle=(await leasing.pl.network.join(ME, join)).handle)


async def test_a_discarded_branch_leaves_the_others_their_address(leasing: Harness, clock: FakeClock) -> None:
    endpoint = await joined(leasing)
    dropped, kept = [(await leasing.pl.network.bind(ME, endpoint)).handle for _ in range(2)]
    clock.advance(LEASE * 0.8)
    await leasing.pl.execution.discard(ME, e.Discard(handle=dropped))
    clock.advance(LEASE * 0.8)
    with pytest.raises(ResourceExhausted):
        await leasing.draft(network="gibson_network")
    assert owns((await leasing.commit(kept)).endpoints[0])


async def test_binding_without_end_costs_no_more_than_binding_once(leasing: Harness, clock: FakeClock) -> None:
    endpoint = await joined(leasing)
    first = (await leasing.pl.network.bind(ME, endpoint)).handle
    (small,) = await leasing.store.range(keys.entities("default", "leases"))
    for _ in range(MOST_CLAIMS + 50):
        last = (await leasing.pl.network.bind(ME, endpoint)).handle
    (row,) = await leasing.store.range(keys.entities("default", "leases"))
    assert len(row.value) <= len(small.value)
    await leasing.pl.execution.discard(ME, e.Discard(handle=last))
    assert owns((await leasing.commit(first)).endpoints[0])


async def test_what_too_many_handles_have_ends_with_its_time(leasing: Harness, clock: FakeClock) -> None:
    endpoint = await joined(leasing)
    handles = [(await leasing.pl.network.bind(ME, endpoint)).handle for _ in range(MOST_CLAIMS + 1)]
    for handle in handles:
        await leasing.pl.execution.discard(ME, e.Discard(handle=handle))
    clock.advance(LEASE + 1)
    assert owns((await leasing.commit(await leasing.draft(network="gibson_network"))).endpoints[0])


async def test_binding_again_takes_nothing_from_who_has_it_by_now(leasing: Harness) -> None:
    """A store may let go of an address a moment before it lets go of what had reserved it."""
    endpoint = await joined(leasing)
    bound = (await leasing.pl.network.bind(ME, endpoint)).endpoints[0]
    await leasing.store.apply(Transaction(ops=[Delete(keys.address("default", bound.network_id, ONLY))]))
    if bound.address6:
        await leasing.store.apply(Transaction(ops=[Delete(keys.address("default", bound.network_id, ONLY6))]))
    other = await leasing.commit(await leasing.draft(network="gibson_network"))
    with pytest.raises(ResourceExhausted):
        await leasing.pl.network.bind(ME, endpoint)
    handle = await leasing.set_labels(await leasing.handle(other.id), still="its owner")
    assert owns((await leasing.commit(handle)).endpoints[0])


async def test_a_commit_that_races_the_expiry_never_makes_two_owners(leasing: Harness, clock: FakeClock) -> None:
    late = await leasing.draft(network="gibson_network")
    await leasing.until_hit("commit.intent", leasing.commit(late))
    clock.advance(LEASE + 1)
    await leasing.crash()
    with pytest.raises(ResourceExhausted):
        await leasing.draft(network="gibson_network")
    assert owns((await leasing.commit(late)).endpoints[0])
    clock.advance(10 * LEASE)
    with pytest.raises(ResourceExhausted):
        await leasing.draft(network="gibson_network")


@pytest.mark.parametrize("head_start", [0, 1, 2, 3, 5, 8, 13, 21, 34])
async def test_a_commit_at_the_very_end_of_its_lease_has_the_address_or_not(
    leasing: Harness, clock: FakeClock, head_start: int
) -> None:
    """Another caller is after the same address: one of them owns it, whoever is first."""
    late = await leasing.draft(network="gibson_network")
    theirs = await leasing.draft()
    clock.advance(LEASE - 1)

    async def other() -> e.Committed:
        join = n.JoinNetwork(handle=theirs, network="gibson_network")
        joined = (await leasing.pl.network.join(ME, join)).handle
        return await leasing.commit((await leasing.pl.network.bind(ME, n.BindNetwork(handle=joined))).handle)

    async def commit() -> e.Committed:
        return await leasing.commit(late)

    first = asyncio.ensure_future(commit())
    for _ in range(head_start):
        await asyncio.sleep(0)
    clock.advance(2)
    answers = await asyncio.gather(first, other(), return_exceptions=True)
    won = [answer for answer in answers if isinstance(answer, e.Committed)]
    lost = [answer for answer in answers if isinstance(answer, Conflict | ResourceExhausted)]
    assert (len(won), len(lost)) == (1, 1), answers
    assert owns(won[0].endpoints[0])
    clock.advance(10 * LEASE)
    listed = (await leasing.pl.execution.list_containers(ME, e.ListContainers())).containers
    assert [one.id for one in listed] == [won[0].id]
    network = await leasing.pl.network.get_network(ME, n.NetworkRef(ref="gibson_network"))
    assert (network.allocated_addresses, network.free_addresses) == (1, 0)


@pytest.mark.parametrize("days", [-400, -1, 1, 400])
async def test_setting_the_clock_of_the_host_does_nothing(
    leasing: Harness, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    handle = await leasing.draft(network="gibson_network", name="cookie")
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + days * 86400)
    handle = await leasing.set_labels(handle, still="good")
    with pytest.raises(ResourceExhausted):
        await leasing.draft(network="gibson_network")
    first = await leasing.commit(handle)
    assert owns(first.endpoints[0])
    monkeypatch.setattr(time, "time", true_time)
    await leasing.crash()
    assert await leasing.commit(handle) == first
    clock.advance(LEASE + 1)
    assert owns((await leasing.inspect("cookie")).endpoints[0])


async def test_what_a_cut_off_commit_gave_back_expires_as_well(leasing: Harness, clock: FakeClock) -> None:
    late = await leasing.draft(network="gibson_network")
    await leasing.until_hit("commit.intent", leasing.commit(late))
    await leasing.crash()
    clock.advance(LEASE + 1)
    await leasing.commit(await leasing.draft(network="gibson_network"))
    with pytest.raises(Conflict):
        await leasing.commit(late)


async def test_after_a_reboot_a_lease_has_its_whole_time_again(leasing: Harness, clock: FakeClock) -> None:
    handle = await leasing.draft(network="gibson_network")
    clock.advance(LEASE - 1)
    clock.reboot()
    await leasing.crash()
    clock.advance(LEASE - 1)
    assert owns((await leasing.commit(handle)).endpoints[0])
