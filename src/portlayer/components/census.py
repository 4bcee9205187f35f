"""What there is in the whole port layer, counted in the store when somebody asks: every process says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from portlayer.components import keys
from portlayer.interfaces.store import Store
from portlayer.metrics import Family, Labels, Read

MOST_VCHS = 100
"""VCHs, by name, that have figures of their own."""
STATES = ("created", "running", "paused", "stopped")
_PAGE = 1000
_KINDS = ("containers", "networks", "volumes", "images")


class _Seen(msgspec.Struct):
    """As much of Observed as is counted."""

    state: str = "created"


_decoder = msgspec.json.Decoder(_Seen)


async def census(store: Store) -> list[Family]:
    """Figures of VCHs, of what they have, of leases, and of containers by state."""
    vchs = [keys.last(row.key) for row in await store.range(keys.VCHS)]
    families = [_family("vchs", "Tenants.", [((), len(vchs))])]
    for kind in _KINDS:
        text = f"How many {kind} there are, in the first {MOST_VCHS} tenants by name."
        families.append(_family(kind, text, await _counts(store, vchs, kind), "vch"))
    text = f"Endpoints that hold addresses without a commit, in the first {MOST_VCHS} tenants by name."
    families.append(_family("leases", text, await _counts(store, vchs, "leases"), "vch"))
    states: Counter[str] = Counter(dict.fromkeys(STATES, 0))
    for vch in vchs:
        await _count_states(store, vch, states)
    families.append(_family("container_states", "Containers of all tenants by state.", _pairs(states.items()), "state"))
    return families


async def _counts(store: Store, vchs: list[str], kind: str) -> list[tuple[Labels, float]]:
    return [((vch,), await store.count(keys.entities(vch, kind))) for vch in vchs[:MOST_VCHS]]


async def _count_states(store: Store, vch: str, states: Counter[str]) -> None:
    prefix = keys.entities(vch, "observed")
    after = ""
    while rows := await store.range(prefix, after=after, limit=_PAGE):
        states.update(_decoder.decode(row.value).state for row in rows)
        after = rows[-1].key


def _pairs(items: Iterable[tuple[str, int]]) -> list[tuple[Labels, float]]:
    return [((name,), count) for name, count in items]


def _family(name: str, text: str, values: list[tuple[Labels, float]], *labels: str) -> Family:
    return Read(f"portlayer_{name}", text, "gauge", lambda: values, labels)
