"""`python -m bench`: runs the comparison, prints it, and writes bench/results/."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bench import host, measure, report, targets
from bench.apart import figures as apart
from bench.apart.run import run as run_apart
from bench.peers import Engine, Peer, PeerUnavailable
from bench.peers.containerd import Containerd
from bench.peers.docker import Docker
from bench.peers.oci import Oci
from bench.peers.podman import Podman
from bench.peers.portlayer import Portlayer, SeparateCalls
from bench.results import Results

RESULTS = Path(__file__).parent / "results"
WIDTH = 120


def all_peers(directory: Path) -> list[Peer]:
    """Every peer, in the order in which they are opened."""
    us = Portlayer(directory / "portlayer", targets.US)
    docker = Docker(directory / "dockerd")
    return [
        us,
        SeparateCalls(us),
        Portlayer(directory / "portlayer-runc", targets.US_ON_RUNC, "runc"),
        docker,
        Podman(directory / "podman"),
        Containerd(directory / "ctr"),
        Oci(directory / "crun", targets.CRUN, docker),
        Oci(directory / "runc", targets.RUNC, docker),
    ]


async def open_peers(wanted: Sequence[Peer], results: Results, stack: AsyncExitStack, console: Console) -> list[Peer]:
    """Those that can run here; why the others cannot goes into *results*."""
    opened = []
    for peer in wanted:
        stack.push_async_callback(peer.close)
        with console.status(f"starting {peer.name}"):
            try:
                results.versions[peer.name] = await peer.open()
                await measure.warm_up([peer], 1)
            except (PeerUnavailable, OSError, EOFError, RuntimeError) as error:
                results.versions.pop(peer.name, None)
                results.skipped[peer.name] = str(error)
                console.print(f"[yellow]{peer.name} is left out[/yellow]: {escape(str(error))}", highlight=False)
            else:
                opened.append(peer)
    return opened


async def run(options: argparse.Namespace, directory: Path, console: Console) -> Results:
    """Measure everything; every server is gone when this returns or raises."""
    results = Results(datetime.now(UTC).isoformat(timespec="seconds"), options.rounds, host.facts())
    async with AsyncExitStack() as stack:
        peers = await open_peers(chosen_peers(all_peers(directory), options.peers), results, stack, console)
        engines = [peer for peer in peers if isinstance(peer, Engine)]
        with console.status("warming up") as status:
            await measure.warm_up(peers, options.warm_up)
            await measure.memory(engines, results, options.batches, status.update)
            await measure.one_at_a_time(peers, engines, results, options.rounds, status.update)
            await measure.at_once(peers, results, options.batches, options.lives, status.update)
    results.verdicts = targets.verdicts(results)
    return results


def chosen_peers(peers: Sequence[Peer], names: str) -> list[Peer]:
    """Those named, separated by commas; all where *names* is empty. Raises SystemExit for an unknown name."""
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    if unknown := wanted - {peer.name for peer in peers}:
        raise SystemExit(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in peers)}")
    return [peer for peer in peers if not wanted or peer.name in wanted]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of one life for each peer (default: 30)")
    parser.add_argument(
        "--batches", type=int, default=3, help="batches at 8 at once, and rounds of memory (default: 3)"
    )
    parser.add_argument("--lives", type=int, default=48, help="containers in a batch (default: 48)")
    parser.add_argument("--warm-up", type=int, default=3, help="rounds that do not count (default: 3)")
    parser.add_argument("--quick", action="store_true", help="5 rounds and one batch of 16, to see that it works")
    parser.add_argument("--only", choices=("comparison", "apart"), help="one of the two tables")
    parser.add_argument("--peers", default="", help="only these, separated by commas")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.batches, options.lives, options.warm_up = 5, 1, 16, 1
    return options


async def cancellable(
    options: argparse.Namespace, directory: Path, console: Console
) -> tuple[Results | None, apart.Samples | None]:
    """As measured, ended in order by SIGTERM too."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await measured(options, directory, console)


async def measured(
    options: argparse.Namespace, directory: Path, console: Console
) -> tuple[Results | None, apart.Samples | None]:
    """The comparison, and what it costs to be apart; None for what is not asked for."""
    compared = await run(options, directory, console) if options.only != "apart" else None
    split = await run_apart(directory, console, options.rounds) if options.only != "comparison" else None
    return compared, split


def main(arguments: Sequence[str]) -> int:
    """0: everything ran. 1: we did not, or something was left behind."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if os.geteuid() != 0:
        console.print("The benchmark starts container engines: run it as root.")
        return 1
    options = parse(arguments)
    directory = Path(tempfile.mkdtemp(prefix="portlayer-bench-"))
    try:
        compared, split = asyncio.run(cancellable(options, directory, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("[yellow]stopped before its end[/yellow]")
        return 130
    finally:
        left = host.leftovers(directory)
        shutil.rmtree(directory, ignore_errors=True)
        for line in left:
            console.print(f"[red]left behind:[/red] {escape(line)}", highlight=False)
    missing = write_comparison(compared, console) if compared else []
    if split:
        apart.show(split, console)
        path = RESULTS / f"{split.started_at.replace(':', '')}-apart.json"
        apart.write_json(split, path)
        console.print(f"written: {os.path.relpath(path)}")
    return 1 if left or missing else 0


def write_comparison(results: Results, console: Console) -> list[str]:
    """Print it, write its files; those of ours that could not take part."""
    report.show(results, console)
    path = RESULTS / f"{results.started_at.replace(':', '')}.json"
    report.write_json(results, path)
    report.write_plot(results, path.with_suffix(".png"))
    console.print(f"written: {os.path.relpath(path)}")
    return [name for name in results.skipped if name.startswith(targets.US)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
