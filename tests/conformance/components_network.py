"""What network keeps of interfaces/network.py, wherever it is."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest
from driver import Driver

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model.errors import (
    AlreadyExists,
    HandleInvalid,
    InUse,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from portlayer.model.execution import replace

RACERS = 12


class NetworkSuite:
    async def test_the_life_of_a_network(self, driver: Driver) -> None:
        network, me = driver.pl.network, driver.me
        made = await driver.network("lan", labels={"a": "1"}, internal=True)
        for ref in ("lan", made.id):
            assert await network.get_network(me, n.NetworkRef(ref=ref)) == made
        with pytest.raises(AlreadyExists):
            await driver.network("lan")
        await driver.network("wan")
        assert (await network.list_networks(me, n.ListNetworks(label=("a",)))).networks == (made,)
        page = await network.list_networks(me, n.ListNetworks(limit=1))
        rest = await network.list_networks(me, n.ListNetworks(limit=1, after=page.next))
        assert {each.name for each in (*page.networks, *rest.networks)} == {"lan", "wan"}
        await network.delete_network(me, n.NetworkRef(ref="lan"))
        with pytest.raises(NotFound):
            await network.get_network(me, n.NetworkRef(ref="lan"))

    async def test_the_same_key_gives_the_same_network(self, driver: Driver) -> None:
        caller = replace(driver.me, idempotency_key="k")
        first = await driver.pl.network.create_network(caller, n.CreateNetwork(name="lan"))
        assert await driver.pl.network.create_network(caller, n.CreateNetwork(name="lan")) == first

    async def test_a_subnet_is_what_was_asked_for_and_is_had_once(self, driver: Driver) -> None:
        free = (await driver.network("free")).subnets[0].subnet
        await driver.pl.network.delete_network(driver.me, n.NetworkRef(ref="free"))
        made = await driver.network("lan", subnets=(n.Subnet(subnet=free),))
        assert made.subnets[0].subnet == free
        with pytest.raises(AlreadyExists):
            await driver.network("other", subnets=(n.Subnet(subnet=free),))
        with pytest.raises(InvalidArgument):
            await driver.network("wrong", subnets=(n.Subnet(subnet="10.1.2.3/24"),))

    async def test_an_address_is_leased_and_then_had(self, driver: Driver) -> None:
        await driver.image()
        made = await driver.network()
        handle = await driver.draft(name="one", network=made.name)
        network, me = driver.pl.network, driver.me
        (leased,) = (await network.bind(me, n.BindNetwork(handle=handle))).endpoints
        assert ipaddress.ip_address(leased.address) in ipaddress.ip_network(made.subnets[0].subnet)
        assert (await network.network_endpoints(me, n.ListEndpoints(ref=made.name))).endpoints == ()
        done = await driver.commit(handle)
        assert [each.address for each in done.endpoints] == [leased.address]
        for listed in (
            await network.network_endpoints(me, n.ListEndpoints(ref=made.name)),
            await network.container_endpoints(me, n.ListEndpoints(ref="one")),
        ):
            assert [each.address for each in listed.endpoints] == [leased.address]
        with pytest.raises(InUse):
            await network.delete_network(me, n.NetworkRef(ref=made.name))

    async def test_no_two_have_an_address(self, driver: Driver) -> None:
        await driver.image()
        made = await driver.network()
        handles = [await driver.draft(name=f"c{number}") for number in range(RACERS)]

        async def bind(handle: str) -> str:
            joined = await driver.pl.network.join(driver.me, n.JoinNetwork(handle=handle, network=made.name))
            bound = await driver.pl.network.bind(driver.me, n.BindNetwork(handle=joined.handle))
            return bound.endpoints[0].address

        assert len(set(await asyncio.gather(*map(bind, handles)))) == RACERS

    async def test_one_may_ask_for_an_address(self, driver: Driver) -> None:
        await driver.image()
        made = await driver.network()
        wanted = str(ipaddress.ip_network(made.subnets[0].subnet)[77])
        network, me = driver.pl.network, driver.me
        joins = [
            n.JoinNetwork(handle=await driver.draft(), network=made.name, address=wanted, aliases=("web",))
            for _ in range(2)
        ]
        first, second = [(await network.join(me, join)).handle for join in joins]
        bound = await network.bind(me, n.BindNetwork(handle=first))
        (endpoint,) = bound.endpoints
        assert (endpoint.address, endpoint.aliases) == (wanted, ("web",))
        with pytest.raises(AlreadyExists):
            await network.bind(me, n.BindNetwork(handle=second))
        await driver.pl.execution.discard(me, e.Discard(handle=bound.handle))
        assert (await network.bind(me, n.BindNetwork(handle=second))).endpoints[0].address == wanted

    async def test_a_small_network_runs_out(self, driver: Driver) -> None:
        await driver.image()
        free = ipaddress.ip_network((await driver.network("free")).subnets[0].subnet)
        await driver.pl.network.delete_network(driver.me, n.NetworkRef(ref="free"))
        small = str(next(free.subnets(new_prefix=30)))
        await driver.network("small", subnets=(n.Subnet(subnet=small),))
        await driver.commit(await driver.draft(network="small"))
        with pytest.raises(ResourceExhausted):
            await driver.draft(network="small")

    async def test_unbinding_and_leaving(self, driver: Driver) -> None:
        await driver.image()
        made = await driver.network()
        network, me = driver.pl.network, driver.me
        await driver.commit(await driver.draft(name="one", network=made.name))
        unbound = await network.unbind(me, n.BindNetwork(handle=await driver.handle("one")))
        await driver.commit(unbound.handle)
        (endpoint,) = (await network.container_endpoints(me, n.ListEndpoints(ref="one"))).endpoints
        assert (endpoint.address, endpoint.state) == ("", "joined")
        left = await network.leave(me, n.LeaveNetwork(handle=await driver.handle("one"), network=made.name))
        await driver.commit(left.handle)
        assert (await network.get_network(me, n.NetworkRef(ref=made.name))).allocated_addresses == 0
        await network.delete_network(me, n.NetworkRef(ref=made.name))

    async def test_a_handle_is_pinned_to_its_network(self, driver: Driver) -> None:
        await driver.image()
        network, me = driver.pl.network, driver.me
        await driver.network("lan")
        pin = (await network.handle(me, n.NetworkRef(ref="lan"))).handle
        await network.join(me, n.JoinNetwork(handle=await driver.draft(), network=pin))
        await network.delete_network(me, n.NetworkRef(ref="lan"))
        await driver.network("lan")
        with pytest.raises(NotFound):
            await network.join(me, n.JoinNetwork(handle=await driver.draft(), network=pin))

    async def test_what_cannot_be_joined(self, driver: Driver) -> None:
        await driver.image()
        made = await driver.network()
        handle = await driver.draft(network=made.name)
        for wrong, error in (
            (n.JoinNetwork(handle=handle, network=made.name), AlreadyExists),
            (n.JoinNetwork(handle=handle, network="absent"), NotFound),
            (n.JoinNetwork(handle="nonsense", network=made.name), HandleInvalid),
        ):
            with pytest.raises(error):
                await driver.pl.network.join(driver.me, wrong)

    async def test_a_host_port_is_had_once(self, driver: Driver) -> None:
        await driver.image()
        made = await driver.network()
        ports = (n.Port(container_port=80, host_port=8080),)
        await driver.run(name="one", network=made.name, ports=ports)
        host = (await driver.inspect("one")).host
        with pytest.raises(AlreadyExists):
            await driver.run(name="two", network=made.name, ports=ports, host=host)
        await driver.remove("one", force=True)
        await driver.run(name="two", network=made.name, ports=ports, host=host)
        await driver.remove("two", force=True)
