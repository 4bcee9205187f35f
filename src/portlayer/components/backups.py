"""What a backup must not bring back: handles, and places in history, of another world."""

from __future__ import annotations

from portlayer.components import keys
from portlayer.components.membership import Process
from portlayer.components.records import decode
from portlayer.model.errors import InUse
from portlayer.stores.snapshot import Snapshot

GAP = 1_000_000
"""How far the revision skips: beyond what was given between the backup and its restoring, where that cannot be told."""


def rekeyed(snapshot: Snapshot, present: int) -> Snapshot:
    """As `restored`, without the CA besides: nothing in it needs the host's key any more."""
    held = restored(snapshot, present)
    return Snapshot(held.revision, [row for row in held.rows if row.key != keys.CA])


def restored(snapshot: Snapshot, present: int) -> Snapshot:
    """*snapshot*, taken at some time, as it shall be restored where the store was last at revision *present*.

    The key ring stays out: the next start makes another, with another epoch, which refuses all handles of before (410).
    The revision skips, so that cursors and etags of before are not taken for ones of after.
    """
    rows = [row for row in snapshot.rows if row.key != keys.KEY_RING]
    return Snapshot(max(snapshot.revision, present) + GAP, rows)


def check_unserved(snapshot: Snapshot) -> None:
    """Raises InUse where a process lives, by its lease: what it writes from now on would be lost."""
    for row in snapshot.rows:
        if row.key.startswith(keys.PROCESSES):
            part = decode(Process, row.value).part
            raise InUse(
                f"Process {part.name} on host {part.host} uses the store, or died less than a minute ago; stop it, and "
                "try again.",
                kind="process",
                id=part.name,
            )
