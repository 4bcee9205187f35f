"""Leases: what a bind reserves comes back in time, and nobody else has it before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conformance.store_tools import FakeClock
from harness import ME, Harness

from portlayer.compose import Settings
from portlayer.interfaces.store import Store
from portlayer.model import network as n
from portlayer.model.errors import Conflict, ResourceExhausted
from portlayer.stores.sqlite import SqliteStore

LEASE = 60.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def leasing(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Harness]:
    """A port layer over SQLite whose lease clock is *clock*."""
    opened: list[SqliteStore] = []

    async def open_store() -> Store:
        opened.append(await SqliteStore.open(tmp_path / "store.db", clock=clock))
        return opened[-1]

    harness = Harness(open_store, tmp_path, Settings(lease_seconds=LEASE))
    await harness.start()
    await harness.image()
    await harness.network(subnets=(n.Subnet(subnet="10.99.0.0/29", ranges=("10.99.0.2-10.99.0.2",)),))
    yield harness
    await harness.close()
    for store in opened:
        await store.close()


async def test_an_abandoned_handle_gives_its_address_back(leasing: Harness, clock: FakeClock) -> None:
    abandoned = await leasing.draft(network="gibson_network")
    clock.advance(LEASE + 1)
    committed = await leasing.commit(await leasing.draft(network="gibson_network"))
    assert committed.endpoints[0].address == "10.99.0.2"
    with pytest.raises(Conflict, match="run out"):
        await leasing.commit(abandoned)


async def test_also_across_a_restart(leasing: Harness, clock: FakeClock) -> None:
    await leasing.draft(network="gibson_network")
    await leasing.crash()
    clock.advance(LEASE + 1)
    assert (await leasing.commit(await leasing.draft(network="gibson_network"))).endpoints[0].address == "10.99.0.2"


async def test_a_commit_in_time_keeps_it_for_good(leasing: Harness, clock: FakeClock) -> None:
    clock.advance(LEASE / 2)
    committed = await leasing.commit(await leasing.draft(network="gibson_network"))
    clock.advance(10 * LEASE)
    assert (await leasing.inspect(committed.id)).endpoints[0].address == "10.99.0.2"
    network = await leasing.pl.network.get_network(ME, n.NetworkRef(ref="gibson_network"))
    assert (network.allocated_addresses, network.free_addresses) == (1, 0)


async def test_binding_again_prolongs(leasing: Harness, clock: FakeClock) -> None:
    handle = await leasing.draft()
    join = n.JoinNetwork(handle=handle, network="gibson_network")
    joined = (await leasing.pl.network.join(ME, join)).handle
    await leasing.pl.network.bind(ME, n.BindNetwork(handle=joined))
    clock.advance(LEASE * 0.8)
    again = await leasing.pl.network.bind(ME, n.BindNetwork(handle=joined))
    clock.advance(LEASE * 0.8)
    assert (await leasing.commit(again.handle)).endpoints[0].address == "10.99.0.2"


async def test_a_commit_that_races_the_expiry_never_makes_two_owners(leasing: Harness, clock: FakeClock) -> None:
    late = await leasing.draft(network="gibson_network")
    await leasing.until_hit("commit.intent", leasing.commit(late))
    clock.advance(LEASE + 1)
    await leasing.crash()
    with pytest.raises(ResourceExhausted):
        await leasing.draft(network="gibson_network")
    assert (await leasing.commit(late)).endpoints[0].address == "10.99.0.2"
    clock.advance(10 * LEASE)
    with pytest.raises(ResourceExhausted):
        await leasing.draft(network="gibson_network")


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
    assert (await leasing.commit(handle)).endpoints[0].address == "10.99.0.2"
