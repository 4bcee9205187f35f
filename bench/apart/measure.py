"""The measuring: variants in turn and shuffled, so that a slow minute of the machine is everyone's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from bench.apart import figures as f
from bench.apart.layouts import Apart, Together
from bench.http import Client
from bench.peers import TRUE
from bench.peers.portlayer import NETWORK, VCH, Portlayer

CALLERS = 32
HOPS = 200


async def starts(run: f.Samples, layouts: Sequence[Portlayer], rounds: int) -> None:
    """Lives, and starts of containers that were created before, with a bridge network."""
    for _ in range(rounds):
        for layout in random.sample(list(layouts), len(layouts)):
            run.add(f.EXIT, layout.name, (await layout.life(bridge=True)).exited * 1000)
            container = await layout.create(TRUE, bridge=True)
            began = time.perf_counter()
            await layout.start(container)
            run.add(f.START, layout.name, (time.perf_counter() - began) * 1000)
            await layout.remove(container)


async def joins(run: f.Samples, together: Together, apart: Apart, rounds: int, seconds: float = 1.0) -> None:
    """Joins of CALLERS at once, then of one: in one process, at the network process, and one hop before it."""
    ways: list[tuple[str, Together, Client]] = [
        (f.COLOCATED, together, together.http),
        (f.APART, apart, apart.clients["network"]),
        (f.ELSEWHERE, apart, apart.clients["execution"]),
    ]
    for _ in range(rounds):
        for name, layout, client in random.sample(ways, len(ways)):
            body = await _join(client)
            with layout.on_one_core():
                await _calls(client, body, HOPS // 10)
                took, elapsed = await _at_once(client, body, seconds)
                run.add(f.JOIN, name, *took)
                run.add(f.RATE, name, len(took) / elapsed)
                run.add(f.HOP, name, *await _calls(client, body, HOPS))


async def _join(client: Client) -> dict[str, Any]:
    """A call of network/join."""
    created = await client.call("POST", f"{VCH}/execution/create", {"image": "busybox"})
    return {"handle": created["handle"], "network": NETWORK}


async def _calls(client: Client, body: dict[str, Any], count: int) -> list[float]:
    """Milliseconds of each of *count* calls, one after the other."""
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await client.call("POST", f"{VCH}/network/join", body)
        took.append((time.perf_counter() - began) * 1000)
    return took


async def _at_once(client: Client, body: dict[str, Any], seconds: float) -> tuple[list[float], float]:
    """Milliseconds of each call of CALLERS in *seconds*, and the seconds that they all took."""
    took: list[float] = []
    began = time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - began < seconds:
            took.extend(await _calls(client, body, 1))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return took, time.perf_counter() - began
