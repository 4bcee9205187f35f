"""IPv6 on a Linux host, as those see it who send packets."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from linux import netlab
from linux.netlab import Machine, network, plug, until

from portlayer.model.errors import Unsupported
from portlayer.model.execution import replace
from portlayer.model.network import Port
from portlayer.substrates.linux import host, links, sysctls
from portlayer.substrates.linux.netlink import Netlink
from portlayer.substrates.linux.network import LinuxNetwork

SYSCTL = Path("/proc/sys/net/ipv6/conf")
FAR = "2001:db8::2"
HOST = "2001:db8::1"


def dual(third: int = 1, **fields):
    return network(third, ipv6=True, **fields)


def client(patience: float = netlab.PATIENCE) -> socket.socket:
    return netlab.client(patience, "::")


def closed(address: str, port: int) -> bool:
    """Whether the host itself cannot get there."""
    return netlab.fails_to_reach(client(netlab.IMPATIENCE), address, port)


def setting(machine: Machine, link: str, name: str) -> str:
    return machine.inside(lambda: (SYSCTL / link / name).read_text().strip())


def tentative(machine: Machine) -> bool:
    """Whether the kernel has yet to come to an address of eth0: also where it asks nobody for it."""
    return any(one.get("tentative") for one in machine.link("eth0")["addr_info"])


def takes_in(machine: Machine, address: str) -> bool:
    """Whether packets to *address* are for the machine."""

    def there() -> bool:
        with Netlink() as netlink:
            return links.is_local(netlink.run([links.get_route(ip_address(address))])[0])

    return machine.inside(there)


def advertise_router(machine: Machine, link: str) -> None:
    """All on *link* hear from *machine* that it leads everywhere."""

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(link))
            raw.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0))

    machine.inside(send)


def ways_out() -> list[str]:
    """The links that the host's default routes go through."""
    return [route["dev"] for route in netlab.ip("-6", "route", "show", "default")]


class TestLinks:
    async def test_containers_reach_each_other_at_once_by_both(self, lab, driver):
        net, a, b = dual(), lab.machine(), lab.machine()
        await plug(driver, a, net, 2)
        await plug(driver, b, net, 3)
        with b.listen(80, "::") as server:
            assert a.reach(server, "fd00:210:1::3", 80) == "fd00:210:1::2"
        with b.listen(80) as server:
            assert a.reach(server, "10.210.1.3", 80) == "10.210.1.2"

    async def test_a_link_is_as_its_endpoint_says(self, lab, driver):
        a = lab.machine()
        await plug(driver, a, dual(), 2)
        ours = [one for one in a.link("eth0")["addr_info"] if one["scope"] == "global"]
        assert [(one["local"], one["prefixlen"]) for one in ours] == [("10.210.1.2", 24), ("fd00:210:1::2", 64)]
        assert not any(one.get("tentative") for one in ours)
        until(lambda: not tentative(a))
        assert [route["gateway"] for route in a.ip("-6", "route", "show", "default")] == ["fd00:210:1::1"]
        assert setting(a, "eth0", "accept_ra") == "0"

    async def test_packets_to_an_address_are_taken_in_at_once(self, lab, driver):
        net, a = dual(), lab.machine()
        made = await plug(driver, a, net, 2)
        for last in range(3, 53):
            address = f"fd00:210:1::{last}"
            await driver.plug(a.id, a.incarnation, replace(made, address6=address), net)
            assert takes_in(a, address), address

    async def test_each_link_has_ipv6_or_not_as_its_network(self, lab, driver):
        a = lab.machine()
        for net in (network(1), dual(2), network(3)):
            await plug(driver, a, net, 2)
        assert [setting(a, link, "disable_ipv6") for link in ("eth0", "eth1", "eth2", "lo")] == ["1", "0", "1", "0"]
        assert not any(one["family"] == "inet6" for one in a.link("eth0")["addr_info"])

    async def test_a_host_whose_links_are_without_ipv6_still_gives_it(self, lab, driver):
        (SYSCTL / "all/disable_ipv6").write_text("1")
        net, a = dual(), lab.machine()
        await plug(driver, a, net, 2)
        with netlab.listen(80, "fd00:210:1::1") as server:
            assert a.reach(server, "fd00:210:1::1", 80) == "fd00:210:1::2"

    async def test_plugging_twice_changes_nothing_and_another_address_moves_it(self, lab, driver):
        net, a, b = dual(), lab.machine(), lab.machine()
        made = await plug(driver, a, net, 2)
        until(lambda: not tentative(a))
        before = a.link("eth0")
        await driver.plug(a.id, a.incarnation, made, net)
        assert a.link("eth0") == before
        await driver.plug(a.id, a.incarnation, replace(made, address6="fd00:210:1::9"), net)
        await plug(driver, b, net, 3)
        ours = [one["local"] for one in a.link("eth0")["addr_info"] if one["scope"] == "global"]
        assert ours == ["10.210.1.2", "fd00:210:1::9"]
        with a.listen(80, "::") as server:
            b.reach(server, "fd00:210:1::9", 80)

    async def test_the_default_route_moves_on_when_its_link_goes(self, lab, driver):
        first, second, a = dual(1), dual(2), lab.machine()
        one = await plug(driver, a, first, 2)
        await plug(driver, a, second, 2)
        assert a.ip("-6", "route", "get", FAR)[0]["gateway"] == "fd00:210:1::1"
        await driver.unplug(a.id, a.incarnation, one.id)
        assert a.ip("-6", "route", "get", FAR)[0]["gateway"] == "fd00:210:2::1"

    async def test_an_address_can_change_hands_while_others_talk_to_it(self, lab, driver):
        net, old, new, peer = dual(), lab.machine(), lab.machine(), lab.machine()
        first = await plug(driver, old, net, 2)
        await plug(driver, peer, net, 3)
        with old.listen(80, "::") as server:
            peer.reach(server, "fd00:210:1::2", 80)
            netlab.reach(server, client(), "fd00:210:1::2", 80)
        await driver.unplug(old.id, old.incarnation, first.id)
        await plug(driver, new, net, 2)
        with new.listen(80, "::") as server:
            peer.reach(server, "fd00:210:1::2", 80)
            netlab.reach(server, client(), "fd00:210:1::2", 80)


class TestNetworks:
    async def test_networks_are_isolated_from_each_other(self, lab, driver):
        first, second, a, b = dual(1), dual(2), lab.machine(), lab.machine()
        await plug(driver, a, first, 2)
        await plug(driver, b, second, 2)
        with b.listen(80, "::"):
            assert a.fails_to_reach("fd00:210:2::2", 80)

    async def test_and_from_those_of_another_port_layer(self, lab, driver):
        async with netlab.driver_of(lab, "7e57ab02") as other:
            a, b = lab.machine(), lab.machine()
            await plug(driver, a, dual(1), 2)
            await plug(other, b, dual(2), 2)
            with a.listen(80, "::"), b.listen(80, "::"):
                assert a.fails_to_reach("fd00:210:2::2", 80)
                assert b.fails_to_reach("fd00:210:1::2", 80)

    async def test_the_way_out_shows_the_hosts_address(self, lab, driver):
        a, outside = lab.machine(), lab.outside()
        await plug(driver, a, dual(), 2)
        with outside.listen(80, "::") as server:
            assert a.reach(server, FAR, 80) == HOST

    async def test_nobody_comes_in_who_was_not_let_in(self, lab, driver):
        a, outside = lab.machine(), lab.outside()
        await plug(driver, a, dual(), 2)
        outside.ip("-6", "route", "add", "fd00:210:1::/64", "via", HOST)
        with a.listen(80, "::"):
            assert outside.fails_to_reach("fd00:210:1::2", 80)

    async def test_an_internal_network_has_no_way_out(self, lab, driver):
        net, a, b, outside = dual(internal=True), lab.machine(), lab.machine(), lab.outside()
        await driver.make_network(dual(2))
        await plug(driver, a, net, 2)
        await plug(driver, b, net, 3)
        assert a.ip("-6", "route", "show", "default") == []
        a.ip("-6", "route", "add", "default", "via", "fd00:210:1::1")
        outside.ip("-6", "route", "add", "fd00:210:1::/64", "via", HOST)
        with outside.listen(80, "::"), b.listen(80, "::") as server:
            assert a.fails_to_reach(FAR, 80)
            a.reach(server, "fd00:210:1::3", 80)

    async def test_an_internal_network_makes_no_router_of_the_host(self, lab, driver):
        await plug(driver, lab.machine(), dual(internal=True), 2)
        await plug(driver, lab.machine(), network(2), 2)
        assert (SYSCTL / "all/forwarding").read_text() == "0\n"

    async def test_a_host_keeps_hearing_its_routers(self, lab, driver):
        outside = lab.outside()
        outside.ip("addr", "add", "fe80::2/64", "dev", "up0", "nodad")
        (SYSCTL / "uplink/accept_ra").write_text("1")

        def hears() -> bool:
            """A router says it again and again, and a link that just came up may miss one."""
            advertise_router(outside, "up0")
            return ways_out() == ["uplink"]

        until(hears)
        await driver.make_network(dual())
        assert (SYSCTL / "all/forwarding").read_text() == "1\n"
        assert ways_out() == ["uplink"]
        netlab.ip("-6", "route", "del", "default")
        until(hears)

    async def test_a_host_that_hears_no_routers_is_left_so(self, lab, driver):
        lab.outside()
        (SYSCTL / "uplink/accept_ra").write_text("0")
        await driver.make_network(dual())
        assert (SYSCTL / "uplink/accept_ra").read_text() == "0\n"

    async def test_a_container_is_no_router_of_the_host(self, lab, driver):
        a = lab.machine()
        await plug(driver, a, dual(internal=True), 2)
        with netlab.listen(80, "fd00:210:1::1") as server:
            a.reach(server, "fd00:210:1::1", 80)
            advertise_router(a, "eth0")
            a.reach(server, "fd00:210:1::1", 80)  # comes after what was sent before it
        assert ways_out() == []

    async def test_what_the_host_uses_is_reserved(self, lab, driver):
        lab.outside()
        netlab.ip("-6", "route", "add", "2001:db8:9::/48", "via", FAR)
        netlab.ip("-6", "route", "add", "default", "via", FAR)
        await driver.make_network(dual())
        reserved = [cidr for cidr in await driver.reserved_subnets() if ":" in cidr]
        assert reserved == ["::1/128", "2001:db8::/64", "2001:db8:9::/48", "fd00:210:1::/64"]

    async def test_a_host_without_it_says_so_and_does_the_rest(self, lab, monkeypatch):
        monkeypatch.setattr(sysctls, "_IPV6", Path("/nonexistent"))
        (check,) = (check for check in host.checks() if check.name == "IPv6")
        assert (check.ok, check.needed) == (False, False)
        assert "refused" in check.found
        async with netlab.driver_of(lab) as driver:
            assert not await driver.has_ipv6()
            assert (await driver.start())["ipv6"].startswith("no")
            with pytest.raises(Unsupported, match="off in this host's kernel"):
                await driver.make_network(dual())
            net, a, b = network(), lab.machine(), lab.machine()
            await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
            await plug(driver, b, net, 3)
            assert "ip6" not in netlab.nft("list ruleset")
            with a.listen(80) as server:
                b.reach(server, "10.210.1.2", 80)
                netlab.reach(server, netlab.client(), "127.0.0.1", 8080)


class TestPublishedPorts:
    async def test_from_everywhere(self, lab, driver):
        net, a, neighbour = dual(1), lab.machine(), lab.machine()
        stranger, outside = lab.machine(), lab.outside()
        await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        await plug(driver, neighbour, net, 3)
        await plug(driver, stranger, dual(2), 2)
        with a.listen(80, "::") as server:
            assert outside.reach(server, HOST, 8080) == FAR
            assert netlab.reach(server, client(), "fd00:210:1::1", 8080) == "fd00:210:1::1"
            with pytest.raises(ConnectionRefusedError), client() as trying:
                trying.connect(("::1", 8080))  # no answer could come back there, so nobody waits for one
            netlab.reach(server, client(), HOST, 8080)
            neighbour.reach(server, HOST, 8080)
            neighbour.reach(server, "fd00:210:1::1", 8080)
            stranger.reach(server, HOST, 8080)
            a.reach(server, HOST, 8080)
        with a.listen(80) as server:
            assert outside.reach(server, "198.51.100.1", 8080) == "198.51.100.2"

    async def test_of_one_kind_only(self, lab, driver):
        a = lab.machine()
        ports = (
            Port(container_port=80, host_port=8086, host_address="::"),
            Port(container_port=80, host_port=8084, host_address="0.0.0.0"),
        )
        await plug(driver, a, dual(), 2, *ports)
        with a.listen(80, "::") as server:
            netlab.reach(server, client(), "fd00:210:1::1", 8086)
            assert closed("fd00:210:1::1", 8084)
        with a.listen(80) as server:
            netlab.reach(server, netlab.client(), "127.0.0.1", 8084)
            assert netlab.fails_to_reach(netlab.client(netlab.IMPATIENCE), "127.0.0.1", 8086)

    async def test_on_one_address_only(self, lab, driver):
        a, outside = lab.machine(), lab.outside()
        netlab.ip("addr", "add", "2001:db8::9/64", "dev", "uplink", "nodad")
        await plug(driver, a, dual(), 2, Port(container_port=80, host_port=8080, host_address="2001:DB8:0::9"))
        with a.listen(80, "::") as server:
            outside.reach(server, "2001:db8::9", 8080)
            assert outside.fails_to_reach(HOST, 8080)

    async def test_a_protocol_for_itself(self, lab, driver):
        a = lab.machine()
        await plug(driver, a, dual(), 2, Port(container_port=53, host_port=5353, protocol="udp"))
        with a.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as server:
            server.settimeout(netlab.PATIENCE)
            server.bind(("::", 53))
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"!", ("fd00:210:1::1", 5353))
                assert server.recv(1) == b"!"

    async def test_none_outlives_its_endpoint_or_its_network(self, lab, driver):
        net, a = dual(), lab.machine()
        made = await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        await driver.unplug(a.id, a.incarnation, made.id)
        await plug(driver, a, net, 2)
        with a.listen(80, "::"):
            assert closed("fd00:210:1::1", 8080)
        await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        await driver.remove_network(net.id)
        await driver.make_network(dual(2))
        assert "8080" not in netlab.nft("list ruleset")
        assert "fd00:210:1:" not in netlab.nft("list ruleset")

    async def test_where_there_is_no_ipv6_none_can_be_published(self, lab, driver):
        with pytest.raises(Unsupported, match="no IPv6"):
            await plug(driver, lab.machine(), network(), 2, Port(container_port=80, host_port=80, host_address="::"))

    async def test_another_process_sees_and_undoes_all(self, lab, driver):
        net, a = dual(), lab.machine()
        one = Port(container_port=80, host_port=8081, host_address="fd00:210:1::1")
        made = await plug(driver, a, net, 2, Port(container_port=80, host_port=8080), one)
        table = netlab.nft("list ruleset")
        after = LinuxNetwork(lab.paths)
        await after.start()
        await after.make_network(net)
        await after.plug(a.id, a.incarnation, made, net)
        await after.publish(a.id, made)
        assert netlab.nft("list ruleset") == table
        await after.unplug(a.id, a.incarnation, made.id)
        with a.listen(80, "::"):
            assert closed("fd00:210:1::1", 8080)
            assert closed("fd00:210:1::1", 8081)
        await after.remove_network(net.id)
        await after.close()
        assert netlab.nft("list tables") == ""
