"""Real port layers: a store and the Linux substrate, wired as the settings say."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from portlayer.compose.assembly import Assembled, assemble
from portlayer.compose.settings import Settings
from portlayer.compose.tracing import open_tracer
from portlayer.interfaces.substrate import Substrate
from portlayer.model.errors import Unavailable
from portlayer.stores.choice import open_store
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.substrate import LinuxSubstrate


def make_paths(settings: Settings) -> Paths:
    """The directories of this port layer; made, with the id of the instance kept in the first."""
    state, run = Path(settings.state).absolute(), Path(settings.run).absolute()
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o711)
        run.mkdir(parents=True, exist_ok=True, mode=0o711)
    except OSError as error:
        raise Unavailable(
            f"{error.filename} cannot be made: {error.strerror}; choose PORTLAYER_STATE and _RUN."
        ) from None
    file = state / "instance"
    if not file.exists():
        _make_instance(file)
    return Paths(state=state, run=run, instance=file.read_text().strip())


def _make_instance(file: Path) -> None:
    """Several processes may start at once: whoever links first wins, and none reads a file that is half written."""
    ident = secrets.token_hex(4)
    fresh = file.with_suffix(f".{ident}")
    fresh.write_text(ident)
    with contextlib.suppress(FileExistsError):
        os.link(fresh, file)
    fresh.unlink()


@contextlib.asynccontextmanager
async def open_local(settings: Settings, name: str | None = None) -> AsyncIterator[Assembled]:
    """The process called *name* of the topology (None: the only one), on the Linux substrate.

    The caller holds the lock of the directories, so that what another process of this name has begun is finished or
    undone at once, without waiting for its lease.

    Raises:
        Unavailable: the store or the host is not fit; the reason says how to mend it.
        Unsupported: traces are wanted, and what exports them is not installed.
    """
    paths, part = make_paths(settings), settings.part(name)
    async with contextlib.AsyncExitStack() as closing:
        tracer = open_tracer(settings.tracing, part, paths.instance)
        closing.callback(tracer.close)
        store = await open_store(settings.store, paths.state)
        closing.push_async_callback(store.close)
        substrate = LinuxSubstrate(paths, runtime=settings.runtime or None, runtime_seconds=settings.runtime_seconds)
        features = await substrate.start(frozenset(part.components))
        closing.push_async_callback(substrate.close)
        whole = (store, substrate, features, paths.state, paths.instance, settings)
        yield await closing.enter_async_context(assemble(*whole, part=part, tracer=tracer))


@contextlib.asynccontextmanager
async def open_host(settings: Settings) -> AsyncIterator[Substrate]:
    """The substrate of this instance, for looking and removing alone: it is not started, so it makes nothing new."""
    substrate = LinuxSubstrate(make_paths(settings))
    try:
        yield substrate
    finally:
        await substrate.close()
