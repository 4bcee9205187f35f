"""What a commit writes down before it touches the substrate, so that whoever finds it can finish or undo it."""

from __future__ import annotations

from typing import Literal

from portlayer.components import keys
from portlayer.components.records import encode, put
from portlayer.interfaces.store import Check, Delete, Put
from portlayer.model.base import Value
from portlayer.model.execution import ContainerSpec, Observed
from portlayer.model.plan import Plan
from portlayer.model.versions import read_whole


class Op(Value):
    """A put, or (value None) a delete, as data."""

    key: str
    value: bytes | None = None
    ttl_seconds: float | None = None

    def live(self) -> Put | Delete:
        return Delete(self.key) if self.value is None else Put(self.key, self.value, self.ttl_seconds)


class Piece(Value):
    """One container's part of a commit.

    old is None for a creation; removal is set for a removal, where new is what is removed.
    kinds: the changes' names, for events. revision, touched and forgotten are of the record to be written.
    bump: a start of our own (restart policy) is no commit: the record stays as it is.
    """

    handle: str
    container: str
    old: ContainerSpec | None
    new: ContainerSpec
    observed: Observed
    plan: Plan
    kinds: tuple[str, ...]
    revision: int
    touched: dict[str, int]
    forgotten: int = 0
    removal: bool = False
    bump: bool = True


class Once(Value):
    """What a commit is remembered by besides its handles: *key* holds a Replay of *request* once it has succeeded."""

    key: str
    request: str


class Intent(Value, tag="intent"):
    """phase prepared: may be undone, or rolled forward where a Stop has done its work. committed: the record has
    changed, `after` remains. undo puts the claims back; freed is let go at the very end. owner: id of the process that
    works on it (see membership); host: where its steps are done, by processes of that host alone.
    """

    id: str
    owner: str
    host: str
    vch: str
    phase: Literal["prepared", "committed"]
    pieces: tuple[Piece, ...]
    frees: tuple[Op, ...] = ()
    undo: tuple[Op, ...] = ()
    finally_free: tuple[Op, ...] = ()
    once: Once | None = None


class Joined(Value, tag="joined"):
    """Lock of a further container of the intent that stands under container `leader`."""

    leader: str


def read_intent(data: bytes) -> Intent | Joined:
    """What stands under a container's intent key. Raises Unavailable where another version means more by it."""
    return read_whole(Intent | Joined, data)  # type: ignore[arg-type]


class Held:
    """An intent whose locks this process holds, as they were written last. revision 0: they are not taken yet."""

    def __init__(self, intent: Intent, revision: int = 0) -> None:
        self.intent = intent
        self.revision = revision

    @property
    def _keys(self) -> list[str]:
        return [keys.entity(self.intent.vch, "intents", piece.container) for piece in self.intent.pieces]

    @property
    def containers(self) -> tuple[str, ...]:
        return tuple(piece.container for piece in self.intent.pieces)

    @property
    def checks(self) -> list[Check]:
        """The demand that nobody has taken them over; none before they are taken."""
        if not self.revision:
            return []
        return [Check(key, self.revision) for key in self._keys]

    def puts(self, intent: Intent) -> list[Put]:
        """Write *intent* under the first container, and that it is there under the others."""
        leader, *others = self._keys
        joined = encode(Joined(leader=keys.last(leader)))
        return [put(leader, intent), *(Put(other, joined) for other in others)]

    def deletes(self) -> list[Delete]:
        return [Delete(key) for key in self._keys]
