"""What every substrate's NetworkDriver keeps of interfaces/substrate.py."""

from __future__ import annotations

import ipaddress

import builders
import pytest

from conformance.substrate_bench import Bench, Started
from portlayer.interfaces.substrate import Link, Missing
from portlayer.model.errors import SubstrateFailed
from portlayer.model.execution import replace
from portlayer.model.names import new_id
from portlayer.model.network import EndpointSpec, NetworkSpec, Port


async def plugged(bench: Bench, network: NetworkSpec, *hosts: int) -> list[tuple[Started, EndpointSpec]]:
    """Running containers with an endpoint each in *network*, which is made."""
    await bench.substrate.network.make_network(network)
    result = []
    for host in hosts:
        endpoint = builders.endpoint(network, host)
        started = await bench.prepared("sleep", "100", endpoints=[endpoint], networks={network.id: network})
        await bench.substrate.network.plug(*started.ids, endpoint, network)
        assert await started.release() is None
        result.append((started, endpoint))
    return result


async def named(bench: Bench, network: NetworkSpec, host: int, name: str, *aliases: str) -> Started:
    """A running container *name* in *network*, which is made."""
    endpoint = builders.endpoint(network, host, aliases=aliases)
    return await entered(bench, await bench.prepared("sleep", "100", name=name, endpoints=[endpoint]), network)


async def entered(bench: Bench, prepared: Started, *networks: NetworkSpec) -> Started:
    """*prepared*, plugged into *networks*, and let go."""
    for network in networks:
        await bench.substrate.network.make_network(network)
        await bench.substrate.network.plug(*prepared.ids, prepared.spec.endpoints[network.id], network)
    assert await prepared.release() is None
    return prepared


async def resolved(bench: Bench, name: str, *networks: NetworkSpec, host: int = 200) -> set[str]:
    """What a container in *networks*, at address *host* of each, is told of *name*: addresses or names."""
    endpoints = [builders.endpoint(network, host) for network in networks]
    asking = await entered(bench, await bench.prepared("nslookup", name, endpoints=endpoints), *networks)
    ran = await bench.ended(asking)
    await asking.remove()
    lines = ran.stdout.decode().partition("\n\n")[2].splitlines()
    found = {line.split()[-1] for line in lines if line.startswith("Address") or "name = " in line}
    assert (ran.exit_code == 0) == bool(found), ran
    return found


class NetworkSuite:
    async def test_the_life_of_a_network(self, bench: Bench) -> None:
        driver = bench.substrate.network
        network = builders.network()
        for _ in range(2):
            await driver.make_network(network)
        assert await driver.networks() == [network.id]
        await bench.restart()
        driver = bench.substrate.network
        assert await driver.networks() == [network.id]
        for _ in range(2):
            await driver.remove_network(network.id)
        assert await driver.networks() == []

    async def test_containers_of_a_network_reach_each_other(self, bench: Bench) -> None:
        (first, one), (second, other) = await plugged(bench, builders.network(), 2, 3)
        assert await bench.reaches(first, other.address)
        assert await bench.reaches(second, one.address)
        assert await bench.reaches(first, one.gateway)

    async def test_a_prepared_process_is_reachable(self, bench: Bench) -> None:
        network = builders.network()
        ((running, _),) = await plugged(bench, network, 2)
        endpoint = builders.endpoint(network, 3)
        prepared = await bench.prepared("true", endpoints=[endpoint], networks={network.id: network})
        assert not await bench.reaches(running, builders.endpoint(network, 4).address)
        await bench.substrate.network.plug(*prepared.ids, endpoint, network)
        assert await bench.reaches(running, endpoint.address)
        assert (await prepared.observe()).state == "prepared"

    async def test_both_kinds_of_address_are_reached(self, bench: Bench) -> None:
        network = builders.network("10.213.1.0/24", "fd00:213:1::/64")
        (first, one), (second, other) = await plugged(bench, network, 2, 3)
        assert (one.address6, one.gateway6) == ("fd00:213:1::2", "fd00:213:1::1")
        for address in (other.address6, other.address, one.gateway6, one.gateway):
            assert await bench.reaches(first, address)
        assert await bench.reaches(second, one.address6)
        assert not await bench.reaches(first, "fd00:213:1::9")

    async def test_an_ipv6_address_comes_and_goes_with_its_link(self, bench: Bench) -> None:
        network = builders.network("10.213.1.0/24", "fd00:213:1::/64")
        (first, _), (second, other) = await plugged(bench, network, 2, 3)
        driver = bench.substrate.network
        await driver.unplug(*second.ids, other.id)
        assert not await bench.reaches(first, other.address6)
        for _ in range(2):
            await driver.plug(*second.ids, other, network)
        assert await bench.reaches(first, other.address6)
        await bench.restart()
        assert await bench.reaches(first, other.address6)
        moved = replace(other, address6="fd00:213:1:0:dead::1")
        await bench.substrate.network.plug(*second.ids, moved, network)
        assert await bench.reaches(first, moved.address6)
        assert not await bench.reaches(first, other.address6)

    async def test_a_link_without_ipv6_reaches_none(self, bench: Bench) -> None:
        plain, dual = builders.network("10.213.1.0/24"), builders.network("10.213.2.0/24", "fd00:213:2::/64")
        ((alone, _),) = await plugged(bench, plain, 2)
        ((_, other),) = await plugged(bench, dual, 2)
        assert not await bench.reaches(alone, other.address6)
        assert not await bench.reaches(alone, other.gateway6)
        await bench.substrate.network.plug(*alone.ids, builders.endpoint(dual, 9), dual)
        assert await bench.reaches(alone, other.address6)

    async def test_without_a_link_nothing_is_reached(self, bench: Bench) -> None:
        network = builders.network()
        ((_, endpoint),) = await plugged(bench, network, 2)
        alone = await bench.started("sleep", "100", endpoints=[builders.endpoint(network, 3)])
        assert not await bench.reaches(alone, endpoint.address)
        assert not await bench.reaches(alone, endpoint.gateway)

    async def test_plug_and_unplug_while_it_runs(self, bench: Bench) -> None:
        network = builders.network()
        (first, _), (second, endpoint) = await plugged(bench, network, 2, 3)
        driver = bench.substrate.network
        for _ in range(2):
            await driver.unplug(*second.ids, endpoint.id)
        assert not await bench.reaches(first, endpoint.address)
        for _ in range(2):
            await driver.plug(*second.ids, endpoint, network)
        assert await bench.reaches(first, endpoint.address)
        await bench.restart()
        assert await bench.reaches(first, endpoint.address)
        await bench.substrate.network.unplug(*second.ids, endpoint.id)
        assert not await bench.reaches(first, endpoint.address)

    async def test_plug_a_paused_one(self, bench: Bench) -> None:
        network = builders.network()
        ((first, _),) = await plugged(bench, network, 2)
        second = await bench.started("sleep", "100")
        await bench.substrate.execution.pause(*second.ids)
        endpoint = builders.endpoint(network, 3)
        await bench.substrate.network.plug(*second.ids, endpoint, network)
        assert await bench.reaches(first, endpoint.address)
        assert (await second.observe()).state == "paused"

    async def test_networks_are_apart(self, bench: Bench) -> None:
        ((first, one),) = await plugged(bench, builders.network("10.213.1.0/24", "fd00:213:1::/64"), 2)
        ((second, other),) = await plugged(bench, builders.network("10.213.2.0/24", "fd00:213:2::/64"), 2)
        for address, stranger in zip(one.addresses, other.addresses, strict=True):
            assert not await bench.reaches(first, stranger)
            assert not await bench.reaches(second, address)

    async def test_one_container_in_two_networks(self, bench: Bench) -> None:
        left, right = builders.network("10.213.1.0/24"), builders.network("10.213.2.0/24")
        ((first, one),) = await plugged(bench, left, 2)
        ((second, other),) = await plugged(bench, right, 2)
        middle = await bench.prepared("sleep", "100")
        for network in (left, right):
            await bench.substrate.network.plug(*middle.ids, builders.endpoint(network, 9), network)
        await middle.release()
        assert await bench.reaches(middle, one.address)
        assert await bench.reaches(middle, other.address)
        assert await bench.reaches(first, "10.213.1.9")
        assert await bench.reaches(second, "10.213.2.9")
        assert not await bench.reaches(first, other.address)

    async def test_internal_networks_connect_their_own(self, bench: Bench) -> None:
        (first, _), (_, other) = await plugged(bench, builders.network(internal=True), 2, 3)
        assert await bench.reaches(first, other.address)

    async def test_the_end_of_an_incarnation_frees_its_address(self, bench: Bench) -> None:
        network = builders.network()
        (first, _), (second, endpoint) = await plugged(bench, network, 2, 3)
        await second.remove()

        async def unreachable() -> bool:
            return not await bench.reaches(first, endpoint.address)

        await bench.until(unreachable)
        third = await bench.started("sleep", "100")
        await bench.substrate.network.plug(*third.ids, endpoint, network)
        assert await bench.reaches(first, endpoint.address)

    async def test_removing_a_network_cuts_its_links(self, bench: Bench) -> None:
        network = builders.network()
        (first, _), (_, other) = await plugged(bench, network, 2, 3)
        await bench.substrate.network.remove_network(network.id)
        assert not await bench.reaches(first, other.address)
        assert (await first.observe()).state == "running"

    async def test_what_is_missing_is_told_and_comes_back(self, bench: Bench) -> None:
        network = builders.network()
        both = await plugged(bench, network, 2, 3)
        (first, one), (second, other) = both
        wanted = [Link(container=each.spec.id, incarnation=each.incarnation, endpoint=end) for each, end in both]
        for again in (False, True):
            driver = bench.substrate.network
            assert await driver.missing([network], wanted) == Missing()
            await bench.lose_link(second, other)
            assert await driver.missing([network], wanted) == Missing(links=(other.id,))
            assert not await bench.reaches(first, other.address)
            await driver.plug(*second.ids, other, network)
            assert await driver.missing([network], wanted) == Missing()
            await bench.lose_network(network)
            assert (await driver.missing([network], ())).networks == (network.id,)
            await driver.make_network(network)
            assert await driver.missing([network], wanted) == Missing(links=(one.id, other.id))
            for started, endpoint in both:
                await driver.plug(*started.ids, endpoint, network)
            assert await driver.missing([network], wanted) == Missing()
            assert await bench.reaches(first, other.address)
            assert await bench.reaches(second, one.gateway)
            if not again:
                await bench.restart()

    async def test_an_ended_incarnation_has_no_links(self, bench: Bench) -> None:
        network = builders.network()
        ((started, endpoint),) = await plugged(bench, network, 2)
        link = Link(container=started.spec.id, incarnation=started.incarnation, endpoint=endpoint)
        await started.remove()

        async def gone() -> bool:
            return (await bench.substrate.network.missing([network], [link])).links == (endpoint.id,)

        await bench.until(gone)

    async def test_undoing_what_was_never_done(self, bench: Bench) -> None:
        await bench.substrate.network.unplug(new_id(), new_id(), new_id())
        await bench.substrate.network.unpublish(new_id(), new_id())
        await bench.substrate.network.remove_network(new_id())
        alone = await bench.started("sleep", "100")
        await bench.substrate.network.unplug(*alone.ids, new_id())

    async def test_ports_are_published_for_themselves(self, bench: Bench) -> None:
        network = builders.network()
        await bench.substrate.network.make_network(network)
        ports = (Port(container_port=80, host_port=18097), Port(container_port=53, host_port=18097, protocol="udp"))
        endpoint = builders.endpoint(network, 2, ports=ports)
        started = await bench.started("sleep", "100", endpoints=[endpoint], networks={network.id: network})
        for _ in range(2):
            await bench.substrate.network.plug(*started.ids, endpoint, network)
        assert await bench.published() == set()
        for _ in range(2):
            await bench.substrate.network.publish(started.spec.id, endpoint)
        await bench.restart()
        assert await bench.published() == {endpoint.id}
        for _ in range(2):
            await bench.substrate.network.unpublish(started.spec.id, endpoint.id)
        assert await bench.published() == set()

    async def test_what_is_published_goes_with_its_link_and_its_address(self, bench: Bench) -> None:
        network = builders.network()
        await bench.substrate.network.make_network(network)
        endpoint = builders.endpoint(network, 2, ports=(Port(container_port=80, host_port=18097),))
        for way in ("unplug", "heir", "network"):
            started = await bench.started("sleep", "100", endpoints=[endpoint], networks={network.id: network})
            await bench.substrate.network.plug(*started.ids, endpoint, network)
            await bench.substrate.network.publish(started.spec.id, endpoint)
            assert await bench.published() == {endpoint.id}
            if way == "unplug":
                await bench.substrate.network.unplug(*started.ids, endpoint.id)
            await started.remove()
            assert await bench.published() == (set() if way == "unplug" else {endpoint.id})
            if way == "heir":
                heir = await bench.started("sleep", "100")
                await bench.substrate.network.plug(*heir.ids, replace(endpoint, id=new_id(), ports=()), network)
                await heir.remove()
                assert await bench.published() == set()
        await bench.substrate.network.remove_network(network.id)
        assert await bench.published() == set()

    async def test_a_link_needs_its_process_and_its_network(self, bench: Bench) -> None:
        network = builders.network()
        endpoint = builders.endpoint(network, 2)
        started = await bench.started("sleep", "100")
        with pytest.raises(SubstrateFailed):
            await bench.substrate.network.plug(*started.ids, endpoint, network)
        await bench.substrate.network.make_network(network)
        with pytest.raises(SubstrateFailed):
            await bench.substrate.network.plug(new_id(), new_id(), endpoint, network)

    async def test_the_files_that_name_the_network(self, bench: Bench) -> None:
        network = builders.network("10.213.1.0/24", "fd00:213:1::/64", dns=("192.0.2.53",))
        endpoint = builders.endpoint(network, 2)
        script = "cat; cat /etc/hosts; echo ---; cat /etc/resolv.conf; echo ---; cat /etc/hostname"
        started = await bench.started(
            "sh", "-c", script, stdin=True, hostname="gibson", endpoints=[endpoint], networks={network.id: network}
        )
        await started.close_stdin()
        hosts, resolv, hostname = (await bench.ended(started)).stdout.decode().split("---\n")
        entries = [line.split() for line in hosts.splitlines() if line and not line.startswith("#")]
        assert any(address == "127.0.0.1" and "localhost" in names for address, *names in entries)
        for own in endpoint.addresses:
            assert any(address == own and "gibson" in names for address, *names in entries)
        assert f"nameserver {endpoint.gateway}" in resolv.splitlines()
        assert hostname == "gibson\n"

    async def test_the_files_follow_the_endpoints_while_it_runs(self, bench: Bench) -> None:
        network = builders.network(dns=("192.0.2.53",))
        started = await bench.started(
            "sh", "-c", "echo up; cat; cat /etc/hosts /etc/resolv.conf", stdin=True, hostname="gibson"
        )
        await started.printed(b"up")
        endpoint = builders.endpoint(network, 7)
        changed = replace(started.spec, endpoints={network.id: endpoint})
        for _ in range(2):
            await bench.substrate.network.rewrite_files(changed, started.incarnation, {network.id: network})
        await started.close_stdin()
        printed = (await bench.ended(started)).stdout.decode()
        assert endpoint.address in printed
        assert f"nameserver {endpoint.gateway}" in printed.splitlines()

    async def test_reserved_subnets_are_subnets(self, bench: Bench) -> None:
        for subnet in await bench.substrate.network.reserved_subnets():
            ipaddress.ip_network(subnet)

    async def test_a_host_says_whether_it_has_ipv6(self, bench: Bench) -> None:
        assert await bench.substrate.network.has_ipv6()

    async def test_a_container_is_found_by_all_its_names(self, bench: Bench) -> None:
        network = builders.network()
        web = await named(bench, network, 2, "web_1", "db", "Api.local")
        for name in ("web_1", "WEB_1", "db", "api.local", web.spec.id[:12], f"web_1.{network.name}"):
            assert await resolved(bench, name, network) == {"10.213.1.2"}, name
        assert await resolved(bench, "10.213.1.2", network) == {f"web_1.{network.name}"}

    async def test_a_name_has_addresses_of_both_families(self, bench: Bench) -> None:
        network = builders.network("10.213.1.0/24", "fd00:213:1::/64")
        await named(bench, network, 2, "web")
        assert await resolved(bench, "web", network) == {"10.213.1.2", "fd00:213:1::2"}
        assert await resolved(bench, "fd00:213:1::2", network) == {f"web.{network.name}"}

    async def test_an_alias_of_several_names_all_of_them(self, bench: Bench) -> None:
        network = builders.network()
        first = await named(bench, network, 2, "one", "web")
        await named(bench, network, 3, "two", "web")
        assert await resolved(bench, "web", network) == {"10.213.1.2", "10.213.1.3"}
        await first.remove()
        assert await resolved(bench, "web", network) == {"10.213.1.3"}

    async def test_what_does_not_run_is_not_found(self, bench: Bench) -> None:
        network = builders.network()
        endpoint = builders.endpoint(network, 2)
        await bench.substrate.network.make_network(network)
        prepared = await bench.prepared("cat", name="web", stdin=True, endpoints=[endpoint])
        await bench.substrate.network.plug(*prepared.ids, endpoint, network)
        assert await resolved(bench, "web", network) == set()
        assert await prepared.release() is None
        assert await resolved(bench, "web", network) == {"10.213.1.2"}
        await bench.substrate.execution.pause(*prepared.ids)
        assert await resolved(bench, "web", network) == {"10.213.1.2"}
        await bench.substrate.execution.resume(*prepared.ids)
        await prepared.close_stdin()
        await prepared.wait()
        assert await resolved(bench, "web", network) == set()
        assert await resolved(bench, "10.213.1.2", network) == set()

    async def test_names_follow_renames_and_endpoints(self, bench: Bench) -> None:
        network = builders.network()
        web = await named(bench, network, 2, "web", "db")
        driver = bench.substrate.network
        renamed = replace(web.spec, name="site")
        await driver.rewrite_files(renamed, web.incarnation, {network.id: network})
        assert await resolved(bench, "web", network) == set()
        assert await resolved(bench, "site", network) == {"10.213.1.2"}
        await driver.unplug(*web.ids, web.spec.endpoints[network.id].id)
        await driver.rewrite_files(replace(renamed, endpoints={}), web.incarnation, {})
        for name in ("site", "db", "10.213.1.2"):
            assert await resolved(bench, name, network) == set()

    async def test_names_of_other_networks_are_not_told(self, bench: Bench) -> None:
        left, right = builders.network("10.213.1.0/24"), builders.network("10.213.2.0/24")
        await named(bench, left, 2, "web", "db")
        await named(bench, right, 2, "other")
        for name in ("web", "db", f"web.{left.name}", "10.213.1.2"):
            assert await resolved(bench, name, right) == set()
        assert await resolved(bench, "other", left) == set()
        for name in ("web", "other"):  # who is in both asks the first one's server, and is told of both
            assert len(await resolved(bench, name, left, right)) == 1

    async def test_names_are_told_in_internal_networks(self, bench: Bench) -> None:
        network = builders.network(internal=True)
        await named(bench, network, 2, "web")
        assert await resolved(bench, "web", network) == {"10.213.1.2"}
        assert await resolved(bench, "unknown", network) == set()

    async def test_names_outlive_our_process(self, bench: Bench) -> None:
        network = builders.network()
        await named(bench, network, 2, "web")
        await bench.restart()
        assert await resolved(bench, "web", network) == {"10.213.1.2"}
