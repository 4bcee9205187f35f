"""`portlayer topology`: who runs where, and how healthy it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from portlayer.cli.asking import ask
from portlayer.cli.output import Json, age, print_json, size
from portlayer.client import PortLayer
from portlayer.model.service import HostInfo, Info, ProcessHealth

app = typer.Typer(rich_markup_mode=None)
LATE_SECONDS = 1.0
"""Who takes longer than this to say how it is, is told to be slow."""
_WATCH_SECONDS = 2.0
_CLEAR = "\x1b[H\x1b[J"
Watch = Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until interrupted.")]


@app.command()
def topology(json: Json = False, watch: Watch = False) -> None:
    """Show which process has which components, where, and how it is."""
    while True:
        info, processes = ask(_look)
        if json:
            print_json([_row(one) for one in processes])
        else:
            drawn = "\n".join(_drawn(info, processes))
            typer.echo(_CLEAR + drawn if watch and sys.stdout.isatty() else drawn)
        if not watch:
            return
        time.sleep(_WATCH_SECONDS)


async def _look(pl: PortLayer) -> tuple[Info, tuple[ProcessHealth, ...]]:
    return await pl.service.info(), await pl.service.list_processes()


def _drawn(info: Info, processes: Sequence[ProcessHealth]) -> Iterator[str]:
    """A tree: the port layer, its hosts, their processes."""
    yield f"port layer {info.instance}, store {info.store}"
    hosts = {host.name: host for host in info.hosts}
    names = sorted(hosts.keys() | {one.process.host for one in processes})
    cells = {id(one): _cells(one) for one in processes}
    widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
    for at, name in enumerate(names):
        last = at == len(names) - 1
        yield f"{'└─' if last else '├─'} {_host(name, hosts.get(name))}"
        here = [one for one in processes if one.process.host == name]
        for one in here:
            lead = ("   " if last else "│  ") + ("└─" if one is here[-1] else "├─")
            texts = (cell.ljust(width) for cell, width in zip(cells[id(one)], widths, strict=True))
            yield f"{lead} {'  '.join(texts)}".rstrip()


def _host(name: str, host: HostInfo | None) -> str:
    if host is None:
        return f"host {name}"
    facts = [f"{host.state} for {age(host.since)}" if host.since else host.state]
    if host.containers is not None:
        facts.append(f"{host.containers} container{'' if host.containers == 1 else 's'}")
    if host.cpus is not None and host.memory_bytes is not None:
        taken = f"{host.committed_cpus or 0:g} of {host.cpus:g} cpus"
        facts.append(f"{taken} and {size(host.committed_memory_bytes or 0)} of {size(host.memory_bytes)} given away")
    return f"host {name}: {', '.join(facts)}"


def _cells(one: ProcessHealth) -> tuple[str, ...]:
    process = one.process
    return (
        process.name,
        ", ".join(process.components),
        process.address,
        process.version,
        f"up {age(process.started_at)}",
        f"seen {age(process.seen_at)} ago" if process.seen_at else "",
        f"{one.seconds * 1000:.0f} ms",
        _health(one),
    )


def _health(one: ProcessHealth) -> str:
    wrong = [f"{name}: {said}" for name, said in one.checks.items() if said != "ok"]
    if not one.ready or wrong:
        return "; ".join(wrong) or "not ready"
    return "slow" if one.seconds > LATE_SECONDS else "ready"


def _row(one: ProcessHealth) -> dict[str, Any]:
    process = one.process
    return {
        "host": process.host,
        "name": process.name,
        "components": ", ".join(process.components),
        "address": process.address,
        "version": process.version,
        "startedAt": process.started_at,
        "seenAt": process.seen_at,
        "answerSeconds": round(one.seconds, 6),
        "checks": one.checks,
        "health": _health(one),
    }
