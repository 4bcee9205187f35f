"""Networks with IPv6: what creation chooses and refuses, and that a bind gives both addresses or none."""

from __future__ import annotations

import asyncio
import itertools
from ipaddress import IPv6Network
from typing import Any

import pytest
from harness import ME, Harness

from portlayer.interfaces.store import Delete, Transaction
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model.errors import AlreadyExists, Conflict, InvalidArgument, ResourceExhausted, Unsupported

V4, V6 = "10.99.0.0/24", "fd00:99::/64"


def subnet(text: str, **fields: Any) -> n.Subnet:
    return n.Subnet(subnet=text, **fields)


async def joined(harness: Harness, network: str = "lan", **fields: Any) -> str:
    handle = await harness.draft()
    return (await harness.pl.network.join(ME, n.JoinNetwork(handle=handle, network=network, **fields))).handle


async def bind(harness: Harness, handle: str) -> n.BoundNetwork:
    return await harness.pl.network.bind(ME, n.BindNetwork(handle=handle))


async def bound(harness: Harness, **fields: Any) -> tuple[str, n.Endpoint]:
    """A handle to a container with an endpoint in `lan`, and that endpoint."""
    answer = await bind(harness, await joined(harness, **fields))
    return answer.handle, answer.endpoints[0]


async def counts(harness: Harness, network: str = "lan") -> tuple[int, int | None]:
    view = await harness.pl.network.get_network(ME, n.NetworkRef(ref=network))
    return view.allocated_addresses, view.allocated_addresses6


class TestNetworks:
    async def test_subnets_are_chosen_in_one_site_for_good(self, harness: Harness) -> None:
        one, two = await harness.network("one", ipv6=True), await harness.network("two", ipv6=True)
        await harness.pl.network.delete_network(ME, n.NetworkRef(ref="two"))
        await harness.crash()
        three = await harness.network("three", ipv6=True)
        first, second, third = (IPv6Network(net.subnets[1].subnet) for net in (one, two, three))
        site = first.supernet(new_prefix=48)
        assert site.subnet_of(IPv6Network("fd00::/8"))
        assert first.prefixlen == 64
        assert first != second == third
        assert third.subnet_of(site)
        assert one.subnets[1].gateway == str(first[1])
        assert len(one.subnets[0].subnet.split(".")) == 4

    async def test_another_port_layer_has_another_site(self, harness: Harness) -> None:
        one = await harness.network("one", ipv6=True)
        await harness.pl.network.delete_network(ME, n.NetworkRef(ref="one"))
        await harness.store.apply(Transaction((), (Delete("/subnets"),)))
        assert (await harness.network("one", ipv6=True)).subnets[1] != one.subnets[1]

    async def test_an_ipv6_subnet_asks_for_both(self, harness: Harness) -> None:
        asked = subnet(V6, gateway="fd00:99::9", ranges=("fd00:99::100-fd00:99::1ff",))
        net = await harness.network("lan", subnets=(asked,))
        assert net.ipv6
        chosen, given = net.subnets
        assert ":" not in chosen.subnet
        assert given == asked
        assert (net.allocated_addresses6, net.free_addresses6) == (0, 256)
        _, endpoint = await bound(harness)
        assert (endpoint.address6, endpoint.prefix_length6, endpoint.gateway6) == ("fd00:99::100", 64, "fd00:99::9")
        assert endpoint.address

    async def test_what_is_left_is_told_as_a_number_that_everybody_can_read(self, harness: Harness) -> None:
        net = await harness.network("lan", ipv6=True)
        assert net.free_addresses6 == 2**53 - 1
        plain = await harness.network("plain")
        assert (plain.ipv6, plain.allocated_addresses6, plain.free_addresses6) == (False, None, None)

    @pytest.mark.parametrize(
        ("fields", "pointer"),
        [
            ({"subnets": (subnet(V4), subnet("fd00::5/64"))}, "/subnets/1/subnet"),
            ({"subnets": (subnet(V6, gateway="10.99.0.1"),)}, "/subnets/0/gateway"),
            ({"subnets": (subnet(V6, ranges=("fd00:98::1",)),)}, "/subnets/0/ranges/0"),
            ({"ipv6": True, "mtu": 1279}, "/mtu"),
            ({"subnets": (subnet(V6),), "mtu": 1000}, "/mtu"),
        ],
    )
    async def test_what_is_wrong_is_pointed_at(self, harness: Harness, fields: dict[str, Any], pointer: str) -> None:
        with pytest.raises(InvalidArgument) as refusal:
            await harness.network("lan", **fields)
        assert refusal.value.facts["pointer"] == pointer

    async def test_subnets_do_not_overlap(self, harness: Harness) -> None:
        await harness.network("lan", subnets=(subnet(V6),))
        harness.world.reserved_subnets.append("fd00:98::/32")
        for taken in ("fd00:99::/48", "fd00:99:0:0:8000::/65", "fd00:98:1::/64"):
            with pytest.raises(AlreadyExists):
                await harness.network("other", subnets=(subnet(taken),))
        with pytest.raises(AlreadyExists):
            await harness.network("other", subnets=(subnet("fd00:1::/64"), subnet("fd00:1::/80")))

    async def test_a_host_without_ipv6_is_told_apart(self, harness: Harness) -> None:
        harness.world.ipv6 = False
        await harness.crash()  # what a host has is told when its process starts
        for fields, pointer in (
            ({"ipv6": True}, "/ipv6"),
            ({"subnets": (subnet(V4), subnet(V6))}, "/subnets/1/subnet"),
        ):
            with pytest.raises(Unsupported, match="No host has IPv6") as refusal:
                await harness.network("lan", **fields)
            assert refusal.value.facts == {"option": "ipv6", "pointer": pointer}
        await harness.network("lan")

    async def test_a_host_that_lost_it_fails_the_commit_and_keeps_nothing(self, harness: Harness) -> None:
        await harness.network("lan", ipv6=True)
        handle, _ = await bound(harness)
        harness.world.ipv6 = False
        with pytest.raises(Unsupported, match="this host has none"):
            await harness.commit(handle)
        assert not harness.world.incarnations
        harness.world.ipv6 = True
        assert (await harness.commit(handle)).endpoints[0].address6


class TestAddresses:
    async def test_both_are_committed_and_given_back_together(self, harness: Harness) -> None:
        await harness.network("lan", subnets=(subnet(V4), subnet(V6)))
        handle, endpoint = await bound(harness)
        assert await counts(harness) == (1, 1)
        committed = (await harness.commit(handle)).endpoints[0]
        assert (
            (committed.address, committed.address6)
            == (endpoint.address, endpoint.address6)
            == (
                "10.99.0.2",
                "fd00:99::2",
            )
        )
        unbind = await harness.pl.network.unbind(ME, n.BindNetwork(handle=await harness.handle(endpoint.container_id)))
        assert (await harness.commit(unbind.handle)).endpoints[0].address6 == ""
        assert await counts(harness) == (0, 0)
        again = await bind(harness, await harness.handle(endpoint.container_id))
        await harness.commit(again.handle)
        await harness.remove(endpoint.container_id)
        assert await counts(harness) == (0, 0)

    async def test_binding_twice_gives_the_same_and_a_discard_gives_both_back(self, harness: Harness) -> None:
        await harness.network("lan", ipv6=True)
        handle = await joined(harness)
        one, two = await bind(harness, handle), await bind(harness, handle)
        assert one.endpoints[0] == two.endpoints[0]
        await harness.pl.execution.discard(ME, e.Discard(handle=one.handle))
        assert await counts(harness) == (1, 1)
        await harness.pl.execution.discard(ME, e.Discard(handle=two.handle))
        assert await counts(harness) == (0, 0)
        with pytest.raises(Conflict, match=f"{one.endpoints[0].address6} in lan has run out"):
            await harness.commit(two.handle)

    @pytest.mark.parametrize(("small", "large"), [("10.99.0.0/30", V6), (V4, "fd00:99::/126")])
    async def test_out_of_one_kind_none_of_the_other_is_held(self, harness: Harness, small: str, large: str) -> None:
        await harness.network("lan", subnets=(subnet(small), subnet(large)))
        view = await harness.pl.network.get_network(ME, n.NetworkRef(ref="lan"))
        room = min(view.free_addresses, view.free_addresses6 or 0)
        handles = [(await bound(harness))[0] for _ in range(room)]
        with pytest.raises(ResourceExhausted):
            await bound(harness)
        assert await counts(harness) == (room, room)
        await harness.pl.execution.discard(ME, e.Discard(handle=handles[0]))
        await bound(harness)
        assert await counts(harness) == (room, room)

    async def test_both_may_be_asked_for_and_taken(self, harness: Harness) -> None:
        await harness.network("lan", subnets=(subnet(V4), subnet(V6, ranges=("fd00:99::100/120",))))
        _, endpoint = await bound(harness, address6="FD00:99::BEEF", address="10.99.0.77")
        assert (endpoint.address, endpoint.address6) == ("10.99.0.77", "fd00:99::beef")
        with pytest.raises(AlreadyExists, match="fd00:99::beef of lan is taken") as refusal:
            await bound(harness, address6="fd00:99::beef")
        assert refusal.value.facts == {"kind": "address", "id": "fd00:99::beef"}
        with pytest.raises(AlreadyExists, match=r"10\.99\.0\.77"):
            await bound(harness, address="10.99.0.77")
        assert await counts(harness) == (1, 1)

    async def test_an_address_of_the_wrong_place_is_refused_at_join(self, harness: Harness) -> None:
        await harness.network("lan", subnets=(subnet(V4), subnet(V6)))
        await harness.network("plain")
        wrong = [
            ("plain", {"address6": "fd00:99::5"}, "/address6"),
            ("lan", {"address6": "fd00:98::5"}, "/address6"),
            ("lan", {"address6": "fd00:99::1"}, "/address6"),
            ("lan", {"address6": "fd00:99::5%eth0"}, "/address6"),
            ("lan", {"address6": "10.99.0.5"}, "/address6"),
            ("lan", {"address": "fd00:99::5"}, "/address"),
            ("plain", {"ports": (n.Port(container_port=80, host_address="::"),)}, "/ports/0/hostAddress"),
            ("lan", {"ports": (n.Port(container_port=80, host_address="fe80::1%eth0"),)}, "/ports/0/hostAddress"),
        ]
        for network, fields, pointer in wrong:
            with pytest.raises(InvalidArgument) as refusal:
                await joined(harness, network, **fields)
            assert refusal.value.facts["pointer"] == pointer
        with pytest.raises(Unsupported, match="::1"):
            await joined(harness, "lan", ports=(n.Port(container_port=80, host_address="::1"),))

    async def test_many_at_once_never_share_one(self, harness: Harness) -> None:
        await harness.network("lan", subnets=(subnet(V4), subnet(V6)))
        ends = [endpoint for _, endpoint in await asyncio.gather(*(bound(harness) for _ in range(40)))]
        assert len({end.address for end in ends}) == len({end.address6 for end in ends}) == 40
        assert await counts(harness) == (40, 40)

    async def test_a_fixed_one_in_the_way_is_stepped_over(self, harness: Harness) -> None:
        await harness.network("lan", subnets=(subnet(V4), subnet(V6)))
        for last in range(2, 25):
            await bound(harness, address6=f"fd00:99::{last:x}")
        await harness.crash()
        assert (await bound(harness))[1].address6 == f"fd00:99::{25:x}"

    async def test_published_ports_may_be_of_one_kind(self, harness: Harness) -> None:
        await harness.network("lan", subnets=(subnet(V4), subnet(V6)))
        for number, host in zip(itertools.count(8080), ("", "::", "0.0.0.0", "2001:db8::1"), strict=False):
            port = n.Port(container_port=80, host_port=number, host_address=host)
            handle, _ = await bound(harness, ports=(port,))
            assert (await harness.commit(handle)).endpoints[0].ports == (port,)

    async def test_both_stand_in_the_hosts_file_and_reach(self, harness: Harness) -> None:
        await harness.network("lan", ipv6=True)
        handle, endpoint = await bound(harness)
        await harness.commit(await harness.set_state(handle, "running"))
        peer, other = await bound(harness)
        await harness.commit(await harness.set_state(peer, "running"))
        for address in (endpoint.address, endpoint.address6, endpoint.gateway6):
            assert harness.world.reaches(other.container_id, address)
