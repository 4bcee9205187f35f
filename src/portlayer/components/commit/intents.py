"""What a commit writes down before it touches the substrate, so that whoever finds it can finish or undo it."""

from __future__ import annotations

from typing import Literal

import msgspec

from portlayer.interfaces.store import Delete, Put
from portlayer.model.base import Value
from portlayer.model.execution import ContainerSpec, Observed
from portlayer.model.plan import Plan


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
    kinds: the changes' names, for events. revision and touched are of the record to be written.
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
    removal: bool = False
    bump: bool = True


class Intent(Value, tag="intent"):
    """phase prepared: may be undone, or rolled forward where a Stop has done its work. committed: the record has
    changed, `after` remains. undo puts the claims back; freed is let go at the very end.
    """

    id: str
    vch: str
    phase: Literal["prepared", "committed"]
    pieces: tuple[Piece, ...]
    frees: tuple[Op, ...] = ()
    undo: tuple[Op, ...] = ()
    finally_free: tuple[Op, ...] = ()


class Joined(Value, tag="joined"):
    """Lock of a further container of the intent that stands under container `leader`."""

    leader: str


_decoder: msgspec.json.Decoder[Intent | Joined] = msgspec.json.Decoder(Intent | Joined)


def read_intent(data: bytes) -> Intent | Joined:
    """What stands under a container's intent key."""
    return _decoder.decode(data)
