"""The measuring itself: everything interleaved, so that a slow minute of the machine is everyone's."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import results as r
from bench.jail import engine_pss
from bench.peers import SLEEP, TRUE, Engine, Peer
from bench.results import Results

WORKERS = 8
SLEEPERS = 10
QUIET = 0.5
SETTLING, MOST_SETTLING, CALM = 0.2, 25, 0.1
"""Seconds that are looked at together, how often at most, and the share of them that may be busy."""
Say = Callable[[str], None]


async def memory(engines: Sequence[Engine], results: Results, rounds: int, progress: Say) -> None:
    """The idle server, then what it grows by with each container that sleeps, the container's processes aside."""
    for number in range(rounds):
        for engine in engines:
            progress(f"memory, round {number + 1} of {rounds}: {engine.name}")
            idle = await _pss(engine)
            sleepers = []
            for _ in range(SLEEPERS):
                sleepers.append(await engine.create(SLEEP, bridge=engine.bridged))
                await engine.start(sleepers[-1])
            grown = await _pss(engine) - idle
            results.add(r.IDLE, engine.name, idle / 1e6)
            results.add(r.PER_CONTAINER, engine.name, grown / SLEEPERS / 1e6)
            for container in sleepers:
                await engine.remove(container)


async def one_at_a_time(
    peers: Sequence[Peer], engines: Sequence[Engine], results: Results, rounds: int, progress: Say
) -> None:
    """*rounds* of one life of each kind for each peer, in shuffled order."""
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        jobs = [_timed_life(peer, results, bridge=bridge) for peer in peers for bridge in _kinds(peer)]
        jobs += [_timed_start(engine, results) for engine in engines]
        random.shuffle(jobs)
        for job in jobs:
            await job


async def at_once(peers: Sequence[Peer], results: Results, batches: int, lives: int, progress: Say) -> None:
    """*batches* of *lives* containers for each peer and kind, WORKERS at a time, in shuffled order."""
    for number in range(batches):
        kinds = [(peer, bridge) for peer in peers for bridge in _kinds(peer)]
        random.shuffle(kinds)
        for peer, bridge in kinds:
            progress(f"8 at once, batch {number + 1} of {batches}: {peer.name}")
            await _settled()
            rate = await _rate(peer, lives, bridge=bridge)
            results.add(r.RATE_BRIDGE if bridge else r.RATE_NONE, peer.name, rate)


async def warm_up(peers: Sequence[Peer], rounds: int) -> None:
    """Lives that do not count."""
    for _ in range(rounds):
        for peer in peers:
            for bridge in _kinds(peer):
                await peer.life(bridge=bridge)


def _kinds(peer: Peer) -> tuple[bool, ...]:
    return (True, False) if peer.bridged else (False,)


async def _timed_life(peer: Peer, results: Results, *, bridge: bool) -> None:
    life = await peer.life(bridge=bridge)
    results.add(r.EXIT_BRIDGE if bridge else r.EXIT_NONE, peer.name, life.exited * 1000)
    results.add(r.LIFE_BRIDGE if bridge else r.LIFE_NONE, peer.name, life.removed * 1000)


async def _timed_start(engine: Engine, results: Results) -> None:
    container = await engine.create(TRUE, bridge=engine.bridged)
    began = time.perf_counter()
    await engine.start_and_wait(container)
    results.add(r.AHEAD, engine.name, (time.perf_counter() - began) * 1000)
    await engine.remove(container)


async def _rate(peer: Peer, lives: int, *, bridge: bool) -> float:
    """Containers a second."""
    todo = iter(range(lives))

    async def worker() -> None:
        for _ in todo:
            await peer.life(bridge=bridge)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(worker())
    return lives / (time.perf_counter() - began)


async def _settled() -> None:
    """Until the machine has little to do: what one peer leaves to be done later is not to count as another's."""
    for _ in range(MOST_SETTLING):
        (busy, all_), _ = _ticks(), await asyncio.sleep(SETTLING)
        later, all_later = _ticks()
        if later - busy < CALM * (all_later - all_):
            return


def _ticks() -> tuple[int, int]:
    """Of all processors since the boot: busy, and all. Source: proc(5), /proc/stat."""
    times = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)


async def _pss(engine: Engine) -> int:
    """Bytes, once no helper has come or gone for QUIET seconds."""
    before, processes = None, engine.processes()
    while processes != before:
        await asyncio.sleep(QUIET)
        before, processes = processes, engine.processes()
    return engine_pss(processes, SLEEP)
