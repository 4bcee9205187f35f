"""`portlayer serve`: the server process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Annotated, Literal

import typer

from portlayer import __version__
from portlayer.cli import memory
from portlayer.cli.lock import holding
from portlayer.cli.logs import Form, set_up_logging
from portlayer.cli.manager import feed_watchdog, inherited_sockets, notify
from portlayer.compose import SETTINGS, Certificates, Settings, make_paths, open_local, read_settings
from portlayer.model.topology import Part, place
from portlayer.rest.server import Audit, Server

app = typer.Typer(rich_markup_mode=None)
_log = logging.getLogger(__name__)
Level = Literal["debug", "info", "warning", "error"]


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help=f"A TOML file: {', '.join(SETTINGS)}.")] = None,
    process: Annotated[str | None, typer.Option(help="Which process of the topology this is.")] = None,
    log_level: Annotated[Level, typer.Option(help="What goes to stderr.")] = "info",
    log_format: Annotated[Form | None, typer.Option(help="How; by default text on a terminal, else json.")] = None,
) -> None:
    """Serve the REST API until SIGTERM or SIGINT; containers run on.

    PORTLAYER_STATE and PORTLAYER_RUN say where its directories are.
    """
    memory.keep_little()
    set_up_logging(log_level, log_format)
    asyncio.run(_serve(read_settings(os.environ, config), process))


async def _serve(settings: Settings, process: str | None) -> None:
    stopping = _on_signals()
    _allow_files()
    paths, part = make_paths(settings), settings.part(process)
    several = settings.topology.has_several
    with holding(paths.state, paths.run, name=part.name if several else None):
        async with open_local(settings, process) as assembled:
            server = Server(
                assembled.components,
                assembled.here,
                assembled.passport,
                bounds=settings.limits.http,
                users=settings.users,
                authority=assembled.authority,
                audit=Audit(paths.state / (f"audit-{part.name}.log" if several else "audit.log")),
                metrics=assembled.metrics,
                tracer=assembled.tracer,
            )
            served = await _listen(server, settings, part, assembled.certificates)
            watchdog = asyncio.create_task(feed_watchdog(os.environ))
            try:
                typer.echo(f"portlayer {__version__} serves {', '.join(served)}")
                _log.info("ready", extra={"address": part.address, "part": part.name, "instance": paths.instance})
                notify("READY=1")
                _collect_rarely()
                await stopping.wait()
                notify("STOPPING=1")
                _log.info("draining")
            finally:
                await server.drain(settings.drain.seconds, notice_seconds=settings.drain.notice_seconds)
                watchdog.cancel()
    _log.info("stopped; containers run on")


async def _listen(server: Server, settings: Settings, part: Part, certificates: Certificates | None) -> tuple[str, ...]:
    """Listen at the unix sockets of *part*, and at its address where that is https; what the manager has opened for
    that is taken. Returns the addresses."""
    contexts = certificates.serving if certificates is not None and part.is_remote else None
    inherited = inherited_sockets(os.environ)
    for listening in inherited:
        await server.listen_socket(listening, contexts)
    there = {str(one.getsockname()) for one in inherited if one.family == socket.AF_UNIX}
    sockets = settings.sockets(part)
    for wanted in sockets:
        if str(wanted) not in there:
            await server.listen_unix(wanted, mode=0o666 if settings.users else 0o600)
    at = place(part.listen or part.address)
    if at is not None and contexts is not None and all(one.family == socket.AF_UNIX for one in inherited):
        await server.listen_tls(*at, contexts)
    return tuple(dict.fromkeys([*(f"unix://{each}" for each in sockets), part.address]))


def _allow_files() -> None:
    """As many open files as we may have, not as many as programs that use `select` can bear. Containers have their own
    limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _collect_rarely() -> None:
    """What is there now stays: the collector need not look at it again. A container's life makes few cycles, so that
    looking at every 700th object, as Python does, costs a tenth of the server's time for nothing."""
    gc.collect()
    gc.freeze()
    memory.give_back()
    gc.set_threshold(20_000, 20, 20)


def _on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; a second one does what it does by default."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopping
