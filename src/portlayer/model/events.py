"""What happened: rows written in the transaction that made it so."""

from __future__ import annotations

from portlayer.model.base import Value

LAST_EVENT = "vch.removed"
"""The type of the last event of a VCH; nothing follows it."""

MISSED = "events.missed"
"""The type of an event that is in no history, but tells one reader that events behind its cursor may not be kept any
more: who follows what there is has to look anew."""


class Event(Value):
    """`type` is `<kind>.<what>`, such as `container.started`; `id` and `name` tell of what."""

    type: str
    kind: str
    id: str
    name: str
    time: str
    attributes: dict[str, str] = {}


class NumberedEvent(Value):
    """An event with its place in history: `cursor` is its revision, or `revision.index` where others of it follow."""

    cursor: str
    event: Event
