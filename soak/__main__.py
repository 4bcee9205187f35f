"""`python -m soak`: cycles of mixed work, at once, against a server that is killed at random, and what is left of it.

SOAK_CYCLES, SOAK_KILLS and SOAK_SEED are the defaults of the options. The seed decides all that is chosen: kinds,
values, when the kills come.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from soak import report
from soak.cycles import KINDS
from soak.run import Plan, Soak

CYCLES = 2000
CYCLES_A_KILL = 40
_WIDTH = 120


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    number = os.environ.get
    parser.add_argument("--cycles", type=int, default=int(number("SOAK_CYCLES", CYCLES)), help=f"default: {CYCLES}")
    parser.add_argument("--kills", type=int, default=int(number("SOAK_KILLS", -1)), help="default: one in 40 cycles")
    parser.add_argument("--seed", type=int, default=int(number("SOAK_SEED", secrets.randbelow(10**9))))
    parser.add_argument("--at-once", type=int, default=8, help="default: 8")
    parser.add_argument("--round", type=int, default=0, help="cycles between two looks (default: a twentieth)")
    parser.add_argument("--kind", action="append", default=[], choices=KINDS, help="only this kind; may be repeated")
    parser.add_argument("--json", type=Path, help="where the result is written")
    return parser.parse_args(arguments)


def plan(options: argparse.Namespace) -> Plan:
    """What the command line asks for."""
    kills = options.kills if options.kills >= 0 else options.cycles // CYCLES_A_KILL
    rounds = options.round or max(20, options.cycles // 20)
    return Plan(options.cycles, kills, options.seed, options.at_once, rounds, tuple(options.kind))


async def run(options: argparse.Namespace, directory: Path, console: Console) -> int:
    """0: all went well. 1: something did not, or is left."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("soaking", total=options.cycles)
        soak = Soak(plan(options), directory, lambda _: progress.advance(bar))
        result = await soak.run()
    report.show(result, console)
    if options.json:
        report.write_json(result, options.json)
    if result.wrong():
        console.print(f"again: SOAK_SEED={result.seed} SOAK_CYCLES={result.cycles} python -m soak", highlight=False)
    return 1 if result.wrong() else 0


def main() -> int:
    """The exit code; 130 where it was interrupted."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if os.geteuid() != 0:
        console.print("The soak runs real containers and so needs root.")
        return 1
    options = parse(sys.argv[1:])
    console.print(f"seed {options.seed}", highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="portlayer-soak-"))
    try:
        return asyncio.run(run(options, directory, console))
    except asyncio.CancelledError:
        console.print("[yellow]stopped before its end[/yellow]")
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
