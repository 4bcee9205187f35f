"""One run of all of it; every server is gone when it returns or raises."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from bench import host
from bench.apart import figures as f
from bench.apart import measure
from bench.apart.flood import flood
from bench.apart.layouts import Apart, Together
from bench.jail import Jail
from bench.peers import PeerUnavailable


async def run(directory: Path, console: Console, rounds: int) -> f.Samples:
    """Measure. rounds: of starts; the rest follows from it."""
    result = f.Samples(datetime.now(UTC).isoformat(timespec="seconds"), host.facts())
    few = max(1, rounds // 8)
    async with AsyncExitStack() as stack:
        together, apart = Together(directory / "colocated"), Apart(directory / "apart")
        for layout in (together, apart):
            stack.push_async_callback(layout.close)
            with console.status(f"starting {layout.name}"):
                await layout.open()
        layouts = (together, apart, apart.entered_at("network"))
        with console.status("starts"):
            await measure.starts(f.Samples("", {}), layouts, 2)
            await measure.starts(result, layouts, rounds)
        with console.status("handle calls"):
            await measure.joins(result, together, apart, few)
        with console.status("a flood"):
            await flood(result, together, few)
    for kind in f.STORES:
        with console.status(f"commits over {kind}"):
            await commits(result, kind, directory)
    return result


async def commits(result: f.Samples, kind: str, directory: Path) -> None:
    """Of one store, by a process of its own."""
    jail = Jail(directory / f"commits-{kind}")
    try:
        await jail.start((sys.executable, "-m", "bench.apart.commits", kind, str(jail.directory)))
        await jail.ended(120)
        rates = msgspec.json.decode((jail.directory / "result.json").read_bytes(), type=dict[str, list[float]])
        for figure in (f.COMMITS, f.COMMITS_ONE):
            result.add(figure, kind, *rates[figure.key])
    except (PeerUnavailable, OSError) as error:
        result.skipped[f"commits over {kind}"] = str(error)
    finally:
        await jail.kill()
