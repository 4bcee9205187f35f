"""Networks, endpoints, addresses, published ports."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from portlayer.client import Steps
from portlayer.model.errors import AlreadyExists, InUse, NotFound, ResourceExhausted
from portlayer.model.execution import Committed
from portlayer.model.network import Port
from soak.scene import Scene, same

SHOW = ("ip", "-4", "-o", "addr", "show", "scope", "global")
_TRIES = 300


async def bound(scene: Scene) -> None:
    """The container has the addresses that its commit told, and no other."""
    networks = scene.networks()
    steps = scene.container(*SHOW)
    for network in networks:
        steps = steps.join_network(network)
    one = await scene.commit(steps.bind_network().set_state("running"))
    same("networks", sorted(endpoint.network for endpoint in one.endpoints), sorted(networks))
    same("exit code", await scene.ended(one.id), 0)
    await _has_addresses(scene, one)
    await scene.remove(one.id)


async def at_rest(scene: Scene) -> None:
    """Joined, bound, unbound and left again before it ever runs."""
    first, second = scene.rng.sample(scene.ledger.standing, 2)
    one = await scene.commit(scene.container(*SHOW).join_network(first).bind_network())
    await scene.commit(Steps(await scene.handle(one.id)).join_network(second))
    seen = await scene.commit(Steps(await scene.handle(one.id)).unbind_network(first).bind_network(second))
    same("bound", {each.network: each.state for each in seen.endpoints}, {first: "joined", second: "bound"})
    seen = await scene.commit(Steps(await scene.handle(one.id)).leave_network(first).set_state("running"))
    same("networks", [endpoint.network for endpoint in seen.endpoints], [second])
    same("exit code", await scene.ended(one.id), 0)
    await _has_addresses(scene, seen)
    await scene.remove(one.id)


async def while_it_runs(scene: Scene) -> None:
    """A server that is plugged in is reached at its address; unplugged, it has none."""
    words = f"served by {scene.number}"
    one = await scene.commit(scene.container("sh", "-c", _serving(words)).set_state("running"))
    for network in scene.networks(2):
        plugged = await scene.commit(Steps(await scene.handle(one.id)).join_network(network).bind_network(network))
        (endpoint,) = (each for each in plugged.endpoints if each.network == network)
        same("what it serves", await _fetched(endpoint.address, 80), words)
        await scene.commit(Steps(await scene.handle(one.id)).unbind_network(network))
        if scene.rng.random() < 0.5:
            await scene.commit(Steps(await scene.handle(one.id)).leave_network(network))
    endpoints = await scene.sure(lambda: scene.pl.network.container_endpoints(one.id))
    same("addresses", {endpoint.address for endpoint in endpoints} - {""}, set())
    await scene.remove(one.id, force=True)


async def published(scene: Scene) -> None:
    """What is published answers on the host; two cannot publish one port."""
    network, words = scene.networks(1)[0], f"published by {scene.number}"
    port = Port(container_port=80, host_port=scene.rng.choice([0, 20000 + scene.number % 10000]))
    steps = scene.container("sh", "-c", _serving(words)).join_network(network, ports=[port]).bind_network()
    one = await scene.commit(steps.set_state("running"))
    (endpoint,) = one.endpoints
    number = endpoint.ports[0].host_port
    same("what it serves", await _fetched("127.0.0.1", number), words)
    taken = [Port(container_port=80, host_port=number)]
    other = scene.container("true", name=scene.name("d")).join_network(network, ports=taken).bind_network()
    await scene.refused(AlreadyExists, lambda: scene.commit(other))
    await scene.remove(one.id, force=True)


async def crowded(scene: Scene) -> None:
    """A small network gives each of its addresses once, then says that there is none, and takes one back."""
    name, subnet = scene.name("crowded"), f"10.{200 + scene.number // 256 % 50}.{scene.number % 256}.0/29"
    await scene.sure(lambda: scene.pl.network.create_network(name, subnets=[subnet], idempotency_key=name))
    before, leases = scene.repeated, {}
    joined = [await scene.staged(scene.container("true").join_network(name)) for _ in range(6)]
    for draft in joined[:5]:
        one = await scene.sure(partial(scene.pl.network.bind, draft))
        leases[one.endpoints[0].address] = one
    if scene.repeated == before:  # else an answer may have taken so long that leases have ended
        same("different addresses", len(leases), 5)
        await scene.refused(ResourceExhausted, lambda: scene.pl.network.bind(joined[5]))
        address, given_back = leases.popitem()
        await scene.again(lambda: scene.pl.execution.discard(given_back))
        last = await scene.sure(lambda: scene.pl.network.bind(joined[5]))
        if scene.repeated == before:
            same("the address that was given back", last.endpoints[0].address, address)
        leases[address] = last
    for handle in leases.values():
        await scene.again(partial(scene.pl.execution.discard, handle))
    await scene.unused(lambda: scene.pl.network.remove(name))


async def networks(scene: Scene) -> None:
    """A network of its own comes, is used, and goes."""
    name = scene.name("net")
    internal = scene.rng.random() < 0.5
    made = await scene.sure(lambda: scene.pl.network.create_network(name, internal=internal, idempotency_key=name))
    scene.ledger.subnets[name] = made.subnets[0].subnet
    one = await scene.commit(scene.container(*SHOW).join_network(name).bind_network().set_state("running"))
    same("gateway", one.endpoints[0].gateway, "" if internal else made.subnets[0].gateway)
    same("exit code", await scene.ended(one.id), 0)
    await scene.refused(InUse, lambda: scene.pl.network.remove(name))
    await _has_addresses(scene, one)
    await scene.remove(one.id)
    await scene.unused(lambda: scene.pl.network.remove(name))
    await scene.refused(NotFound, lambda: scene.pl.network.inspect_network(name))


def _serving(words: str) -> str:
    return f"mkdir /www; echo -n '{words}' > /www/index.html; exec httpd -f -p 80 -h /www"


async def _has_addresses(scene: Scene, one: Committed) -> None:
    """What the container has seen of its addresses is what the port layer says."""
    out, _ = await scene.log(one.id)
    wanted = {f"{each.address}/{each.prefix_length}" for each in one.endpoints if each.state == "bound"}
    same("addresses inside", {line.split()[3] for line in out.splitlines()}, wanted)


async def _fetched(address: str, port: int) -> str:
    """What a web server says, once it listens."""
    for left in reversed(range(_TRIES)):
        try:
            async with asyncio.timeout(10):
                reader, writer = await asyncio.open_connection(address, port)
                with contextlib.closing(writer):
                    writer.write(b"GET / HTTP/1.0\r\n\r\n")
                    return (await reader.read()).decode().partition("\r\n\r\n")[2]
        except OSError:
            if not left:
                raise
            await asyncio.sleep(0.02)
    raise AssertionError


KINDS = (bound, at_rest, while_it_runs, published, crowded, networks)
