"""All of a port layer's store out, in, and over to another kind."""

from __future__ import annotations

import contextlib
from pathlib import Path

from portlayer.components import backups
from portlayer.components.handles import HOST_KEY
from portlayer.compose.settings import Settings
from portlayer.model.errors import InvalidArgument, Unavailable
from portlayer.stores import choice, snapshot
from portlayer.stores.choice import StoreChoice


async def back_up(settings: Settings, file: Path) -> int:
    """Write all that the store holds to *file*; how many records. The server may go on.

    Raises:
        Unavailable: the store cannot be read, or the file cannot be written.
    """
    held = await choice.dump(settings.store, Path(settings.state))
    snapshot.save(held, file)
    return len(held.rows)


async def restore(settings: Settings, file: Path, *, replace: bool) -> int:
    """Make the store hold what *file* does, without the handles of before; how many records. No server may run.

    Raises:
        InvalidArgument: the file is no backup. InUse: the store is there, and not *replace*; or a server runs.
    """
    state = Path(settings.state)
    await _refuse_served(settings.store, state)
    present = await choice.present_revision(settings.store, state)
    held = backups.restored(snapshot.read(file), present)
    await choice.load(settings.store, state, held, replace=replace)
    return len(held.rows)


async def rekey(settings: Settings) -> None:
    """Forget the host's key and all that it opens: the keys of handles, and the CA. No server may run.

    Raises:
        InUse: a server runs. Unavailable: the store cannot be used.
    """
    state = Path(settings.state)
    await _refuse_served(settings.store, state)
    held = await choice.dump(settings.store, state)
    await choice.load(settings.store, state, backups.rekeyed(held, held.revision), replace=True)
    (state / HOST_KEY).unlink(missing_ok=True)


async def migrate_store(settings: Settings, to: str, *, replace: bool) -> int:
    """Copy the store into the one that *to* names; how many records. No server may run.

    Raises:
        InvalidArgument: *to* is no other store. InUse: it is there, and not *replace*; or a server runs on either.
        Unavailable: either cannot be used.
    """
    state = Path(settings.state)
    target = choice.parse_url(to)
    if target == settings.store:
        raise InvalidArgument(f"The store is there already: {target.where}.")
    for each in (settings.store, target):
        await _refuse_served(each, state)
    held = await choice.dump(settings.store, state)
    await choice.load(target, state, held, replace=replace)
    return len(held.rows)


async def _refuse_served(store: StoreChoice, state: Path) -> None:
    """Raises InUse where a process has *store* open, which may be on another host. Of SQLite, a lock has told."""
    if store.kind == "sqlite" or not await choice.present_revision(store, state):
        return
    with contextlib.suppress(Unavailable):  # it is no whole store, so nobody has it open
        backups.check_unserved(await choice.dump(store, state))
