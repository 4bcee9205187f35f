"""The network driver on a Linux host, as those see it who send packets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import builders
import pytest
from linux import netlab
from linux.netlab import endpoint, network, plug, until

from portlayer.model.errors import SubstrateFailed, Unavailable, Unsupported
from portlayer.model.execution import replace
from portlayer.model.network import Port
from portlayer.substrates.linux import hostfiles
from portlayer.substrates.linux.network import LinuxNetwork


async def test_a_firewall_in_the_way_is_told(lab):
    netlab.nft("add table ip other")
    netlab.nft("add chain ip other passing { type filter hook forward priority 0; policy drop; }")
    driver = LinuxNetwork(lab.paths)
    assert "ip other passing" in (await driver.start())["forwarding"]
    await driver.close()
    netlab.nft("delete table ip other")


async def test_a_driver_that_is_not_started_says_so(lab):
    driver = LinuxNetwork(lab.paths)
    with pytest.raises(Unavailable):
        await driver.networks()
    await driver.close()


class TestLinks:
    async def test_containers_of_a_network_reach_each_other_at_once(self, lab, driver):
        net, a, b = network(), lab.machine(), lab.machine()
        await plug(driver, a, net, 2)
        await plug(driver, b, net, 3)
        with b.listen(80) as server:
            assert a.reach(server, "10.210.1.3", 80) == "10.210.1.2"

    async def test_a_link_is_as_its_endpoint_says(self, lab, driver):
        net, a = network(mtu=1400), lab.machine()
        made = await plug(driver, a, net, 2)
        link = a.link("eth0")
        assert (link["mtu"], link["address"], link["operstate"]) == (1400, made.mac_address, "UP")
        assert [(one["local"], one["prefixlen"]) for one in link["addr_info"]] == [("10.210.1.2", 24)]
        assert a.ip("route", "show", "default")[0]["gateway"] == "10.210.1.1"
        assert a.link("lo")["operstate"] == "UNKNOWN"
        assert "UP" in a.link("lo")["flags"]

    async def test_plugging_twice_changes_nothing(self, lab, driver):
        net, a = network(), lab.machine()
        made = await plug(driver, a, net, 2)
        before = a.link("eth0")
        await driver.plug(a.id, a.incarnation, made, net)
        assert a.link("eth0") == before
        assert a.link("eth1") is None

    async def test_plugging_with_another_address_moves_the_endpoint(self, lab, driver):
        net, a, b = network(), lab.machine(), lab.machine()
        made = await plug(driver, a, net, 2)
        await driver.plug(a.id, a.incarnation, replace(made, address="10.210.1.9"), net)
        await plug(driver, b, net, 3)
        assert [one["local"] for one in a.link("eth0")["addr_info"]] == ["10.210.1.9"]
        with a.listen(80) as server:
            b.reach(server, "10.210.1.9", 80)

    async def test_the_default_route_moves_on_when_its_link_goes(self, lab, driver):
        first, second, a = network(1), network(2), lab.machine()
        one = await plug(driver, a, first, 2)
        await plug(driver, a, second, 2)
        assert a.ip("route", "get", "203.0.113.1")[0]["gateway"] == "10.210.1.1"
        await driver.unplug(a.id, a.incarnation, one.id)
        assert a.link("eth0") is None
        assert a.ip("route", "get", "203.0.113.1")[0]["gateway"] == "10.210.2.1"
        await plug(driver, a, first, 3)
        assert a.link("eth0")["addr_info"][0]["local"] == "10.210.1.3"

    async def test_an_address_can_change_hands_while_others_talk_to_it(self, lab, driver):
        net, old, new, peer = network(), lab.machine(), lab.machine(), lab.machine()
        first = await plug(driver, old, net, 2)
        await plug(driver, peer, net, 3)
        with old.listen(80) as server:
            peer.reach(server, "10.210.1.2", 80)
            netlab.reach(server, netlab.client(), "10.210.1.2", 80)
        await driver.unplug(old.id, old.incarnation, first.id)
        await plug(driver, new, net, 2)
        with new.listen(80) as server:
            peer.reach(server, "10.210.1.2", 80)
            netlab.reach(server, netlab.client(), "10.210.1.2", 80)

    async def test_unplugged_is_gone_and_may_be_said_twice(self, lab, driver):
        net, a = network(), lab.machine()
        made = await plug(driver, a, net, 2)
        await driver.unplug(a.id, a.incarnation, made.id)
        assert a.link("eth0") is None
        await driver.unplug(a.id, a.incarnation, made.id)
        await driver.plug(a.id, a.incarnation, made, net)
        assert a.link("eth0") is not None

    async def test_the_end_of_a_process_takes_its_links_away(self, lab, driver):
        net, a = network(), lab.machine()
        await driver.make_network(net)
        before = netlab.links()
        made = await plug(driver, a, net, 2)
        assert len(netlab.links() - before) == 1
        a.kill()
        until(lambda: netlab.links() == before)
        await driver.unplug(a.id, a.incarnation, made.id)

    async def test_a_process_that_is_gone_cannot_be_plugged(self, lab, driver):
        net, a = network(), lab.machine()
        a.kill()
        with pytest.raises(SubstrateFailed, match="gone") as failure:
            await plug(driver, a, net, 2)
        assert failure.value.facts == {"step": "network.plug", "id": a.id}

    async def test_a_number_that_another_process_has_now_is_not_plugged(self, lab, driver):
        net, a = network(), lab.machine()
        (lab.paths.incarnation(a.incarnation) / "pid").write_text(str(os.getpid()))
        with pytest.raises(SubstrateFailed, match="namespace of its own"):
            await plug(driver, a, net, 2)

    async def test_an_incarnation_that_never_was_cannot_be_plugged(self, driver):
        net = network()
        await driver.make_network(net)
        with pytest.raises(SubstrateFailed, match="names no process"):
            await driver.plug("c", "unknown", endpoint(net, 2), net)

    async def test_a_network_that_never_was_cannot_be_plugged(self, lab, driver):
        net, a = network(), lab.machine()
        with pytest.raises(SubstrateFailed, match="make it first"):
            await driver.plug(a.id, a.incarnation, endpoint(net, 2), net)


class TestNetworks:
    async def test_networks_are_isolated_from_each_other(self, lab, driver):
        first, second, a, b = network(1), network(2), lab.machine(), lab.machine()
        await plug(driver, a, first, 2)
        await plug(driver, b, second, 2)
        with b.listen(80):
            assert a.fails_to_reach("10.210.2.2", 80)

    async def test_the_way_out_shows_the_hosts_address(self, lab, driver):
        net, a, outside = network(), lab.machine(), lab.outside()
        await plug(driver, a, net, 2)
        with outside.listen(80) as server:
            assert a.reach(server, "198.51.100.2", 80) == "198.51.100.1"

    async def test_nobody_comes_in_who_was_not_let_in(self, lab, driver):
        net, a, outside = network(), lab.machine(), lab.outside()
        await plug(driver, a, net, 2)
        outside.ip("route", "add", "10.210.1.0/24", "via", "198.51.100.1")
        with a.listen(80):
            assert outside.fails_to_reach("10.210.1.2", 80)

    async def test_an_internal_network_has_no_way_out(self, lab, driver):
        net, a, b, outside = network(internal=True), lab.machine(), lab.machine(), lab.outside()
        await driver.make_network(network(2))
        await plug(driver, a, net, 2)
        await plug(driver, b, net, 3)
        assert a.ip("route", "show", "default") == []
        a.ip("route", "add", "default", "via", "10.210.1.1")
        outside.ip("route", "add", "10.210.1.0/24", "via", "198.51.100.1")
        with outside.listen(80), b.listen(80) as server:
            assert a.fails_to_reach("198.51.100.2", 80)
            a.reach(server, "10.210.1.3", 80)

    async def test_making_and_removing_may_be_said_twice(self, driver):
        net, other = network(1), network(2)
        for _ in range(2):
            await driver.make_network(net)
            await driver.make_network(other)
        assert sorted(await driver.networks()) == sorted([net.id, other.id])
        for _ in range(2):
            await driver.remove_network(net.id)
        assert await driver.networks() == [other.id]

    async def test_a_removed_network_takes_what_is_plugged_along(self, lab, driver):
        net, a, before = network(), lab.machine(), netlab.links()
        await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        await driver.remove_network(net.id)
        assert netlab.links() == before
        with a.listen(80):
            assert netlab.fails_to_reach(netlab.client(netlab.IMPATIENCE), "127.0.0.1", 8080)

    async def test_a_bridge_that_somebody_removed_is_made_again(self, lab, driver):
        net, a, b = network(), lab.machine(), lab.machine()
        await driver.make_network(net)
        (bridge,) = netlab.links() - {"lo"}
        netlab.ip("link", "del", bridge)
        await plug(driver, a, net, 2)
        await plug(driver, b, net, 3)
        with b.listen(80) as server:
            a.reach(server, "10.210.1.3", 80)

    async def test_a_link_of_others_in_the_way_is_left_alone(self, lab, driver):
        net = network()
        name = f"pl7e57b{net.id[:7]}"
        netlab.ip("link", "add", name, "type", "veth", "peer", "name", "other")
        with pytest.raises(SubstrateFailed, match="is not ours"):
            await driver.make_network(net)
        await driver.remove_network(net.id)
        await driver.purge()
        netlab.ip("link", "del", name)

    async def test_what_the_host_uses_is_reserved(self, lab, driver):
        lab.outside()
        netlab.ip("route", "add", "203.0.113.0/24", "via", "198.51.100.2")
        netlab.ip("route", "add", "default", "via", "198.51.100.2")
        await driver.make_network(network())
        reserved = await driver.reserved_subnets()
        assert reserved == [
            "10.210.1.0/24",
            "127.0.0.0/8",
            "198.51.100.0/30",
            "203.0.113.0/24",
            "::1/128",
            "2001:db8::/64",
        ]
        netlab.ip("link", "del", "uplink")


class TestPublishedPorts:
    async def test_from_everywhere(self, lab, driver):
        first, second = network(1), network(2)
        a, neighbour, stranger, outside = lab.machine(), lab.machine(), lab.machine(), lab.outside()
        await plug(driver, a, first, 2, Port(container_port=80, host_port=8080))
        await plug(driver, neighbour, first, 3)
        await plug(driver, stranger, second, 2)
        with a.listen(80) as server:
            assert outside.reach(server, "198.51.100.1", 8080) == "198.51.100.2"
            assert netlab.reach(server, netlab.client(), "127.0.0.1", 8080) == "10.210.1.1"
            netlab.reach(server, netlab.client(), "198.51.100.1", 8080)
            neighbour.reach(server, "198.51.100.1", 8080)
            neighbour.reach(server, "10.210.1.1", 8080)
            stranger.reach(server, "198.51.100.1", 8080)
            a.reach(server, "198.51.100.1", 8080)

    async def test_on_one_address_only(self, lab, driver):
        net, a, outside = network(), lab.machine(), lab.outside()
        await plug(driver, a, net, 2, Port(container_port=80, host_port=8080, host_address="127.0.0.1"))
        with a.listen(80) as server:
            netlab.reach(server, netlab.client(), "127.0.0.1", 8080)
            assert outside.fails_to_reach("198.51.100.1", 8080)

    async def test_a_protocol_for_itself(self, lab, driver):
        net, a = network(), lab.machine()
        await plug(driver, a, net, 2, Port(container_port=53, host_port=5353, protocol="udp"))
        with a.listen(53):
            assert netlab.fails_to_reach(netlab.client(netlab.IMPATIENCE), "127.0.0.1", 5353)
        server = a.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            server.settimeout(netlab.PATIENCE)
            server.bind(("", 53))
            sender.sendto(b"!", ("127.0.0.1", 5353))
            assert server.recv(1) == b"!"

    async def test_the_hosts_own_loopback_stays_closed(self, lab, driver):
        """Publishing on 127.0.0.1 needs a setting that would let containers in to all that listens there."""
        net, a = network(), lab.machine()
        await plug(driver, a, net, 2)
        a.inside(lambda: Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1"))
        a.ip("addr", "del", "127.0.0.1/8", "dev", "lo")
        a.ip("route", "add", "127.0.0.1", "via", "10.210.1.1", "src", "10.210.1.2")
        with netlab.listen(80, "127.0.0.1"):
            assert a.fails_to_reach("127.0.0.1", 80)

    async def test_none_before_and_after_it_is_published(self, lab, driver):
        net, a = network(), lab.machine()
        made = await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        with a.listen(80) as server:
            netlab.reach(server, netlab.client(), "127.0.0.1", 8080)
            for _ in range(2):
                await driver.unpublish(a.id, made.id)
                assert netlab.fails_to_reach(netlab.client(netlab.IMPATIENCE), "127.0.0.1", 8080)
            await driver.plug(a.id, a.incarnation, made, net)
            assert netlab.fails_to_reach(netlab.client(netlab.IMPATIENCE), "127.0.0.1", 8080)
            for _ in range(2):
                await driver.publish(a.id, made)
                netlab.reach(server, netlab.client(), "127.0.0.1", 8080)

    async def test_none_outlives_its_endpoint(self, lab, driver):
        net, a = network(), lab.machine()
        made = await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        await driver.unplug(a.id, a.incarnation, made.id)
        await plug(driver, a, net, 2)
        with a.listen(80):
            assert netlab.fails_to_reach(netlab.client(netlab.IMPATIENCE), "127.0.0.1", 8080)

    async def test_what_a_dead_container_left_leads_nowhere(self, lab, driver):
        net, dead, heir, other = network(), lab.machine(), lab.machine(), lab.machine()
        ports = Port(container_port=80, host_port=8080), Port(container_port=80, host_port=8081)
        await plug(driver, dead, net, 2, *ports)
        before = len(netlab.links())
        dead.kill()
        until(lambda: len(netlab.links()) < before)
        await plug(driver, heir, net, 2)
        await plug(driver, other, net, 3, ports[0])
        with heir.listen(80), other.listen(80) as server:
            assert netlab.fails_to_reach(netlab.client(netlab.IMPATIENCE), "127.0.0.1", 8081)
            netlab.reach(server, netlab.client(), "127.0.0.1", 8080)

    async def test_what_cannot_be_published_is_refused(self, lab, driver):
        closed, a = network(internal=True), lab.machine()
        with pytest.raises(Unsupported, match="internal"):
            await plug(driver, a, closed, 2, Port(container_port=80, host_port=8080))
        with pytest.raises(Unsupported, match="no IPv6"):
            await plug(driver, a, network(2), 2, Port(container_port=80, host_port=8080, host_address="::1"))


class TestRestart:
    async def test_another_process_sees_and_undoes_all(self, lab, driver):
        net, a, before = network(), lab.machine(), netlab.links()
        made = await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        after = LinuxNetwork(lab.paths)
        await after.start()
        assert await after.networks() == [net.id]
        await after.make_network(net)
        await after.plug(a.id, a.incarnation, made, net)
        await after.publish(a.id, made)
        with a.listen(80) as server:
            netlab.reach(server, netlab.client(), "127.0.0.1", 8080)
            await after.unplug(a.id, a.incarnation, made.id)
        await plug(after, a, net, 2)
        with a.listen(80):
            assert netlab.fails_to_reach(netlab.client(netlab.IMPATIENCE), "127.0.0.1", 8080)
        await after.remove_network(net.id)
        assert netlab.links() == before
        await after.close()

    async def test_a_firewall_that_somebody_changed_is_read_again(self, lab, driver):
        net, a, b = network(), lab.machine(), lab.machine()
        made = await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        other = LinuxNetwork(lab.paths)
        await other.start()
        await other.unplug(a.id, a.incarnation, made.id)
        await other.close()
        await plug(driver, b, net, 2, Port(container_port=81, host_port=8080))
        with b.listen(81) as server:
            netlab.reach(server, netlab.client(), "127.0.0.1", 8080)

    async def test_purge_leaves_nothing_of_ours_and_all_of_others(self, lab, driver):
        others = LinuxNetwork(replace(lab.paths, instance="7e57ab02"))
        await others.start()
        theirs, net, a = network(2), network(1), lab.machine()
        await others.make_network(theirs)
        before = netlab.links()
        await plug(driver, a, net, 2, Port(container_port=80, host_port=8080))
        assert len(await driver.leftovers()) == 4
        await driver.purge()
        assert await driver.leftovers() == []
        assert netlab.links() == before
        assert await others.networks() == [theirs.id]
        await others.purge()
        await others.close()


async def test_files_are_rewritten_in_place(lab, driver):
    a, net = lab.machine(), network(dns=("192.0.2.53",))
    hosts, resolv = (lab.paths.host_file(a.id, a.incarnation, name) for name in (hostfiles.HOSTS, hostfiles.RESOLV))
    hosts.parent.mkdir(parents=True)
    for file in (hosts, resolv):
        file.write_text("x" * 10_000)
    inode = hosts.stat().st_ino
    made = endpoint(net, 2)
    container = replace(builders.container(name="monster", hostname="cookie", endpoints=[made]), id=a.id)
    await driver.rewrite_files(container, a.incarnation, {net.id: net})
    assert hosts.stat().st_ino == inode
    assert hosts.read_text().endswith("10.210.1.2\tcookie monster\n")
    assert "nameserver 10.210.1.1\n" in resolv.read_text()
    await driver.rewrite_files(replace(container, endpoints={}), a.incarnation, {})
    assert "10.210.1.2" not in hosts.read_text()
    with pytest.raises(SubstrateFailed):
        await driver.rewrite_files(container, "unknown", {net.id: net})
