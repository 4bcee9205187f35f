"""`execution/compose`: several mutations in one round trip, each on the handle that the one before gave.

    {"steps": [{"call": "execution/create", "image": "busybox"}, {"call": "network/join", "network": "lan"}, ...]}

A step is its mutation's request without `handle`, told apart by `call`. Only the first step may have a `handle`,
and has to, unless it is `execution/create`; commit and discard come last or not at all.

One that ends with a commit and has an Idempotency-Key may be sent again: what was committed then is answered.
"""

from __future__ import annotations

from typing import Any, Union

import msgspec

from portlayer.model.base import Value
from portlayer.rest.calls import execution, interaction, network, storage
from portlayer.rest.calls.call import BODY_CONFIG, Call, Table, derived

MAX_STEPS = 64
STEPS: dict[str, Call[Any, Any]] = {
    call.name: call for call in (*execution.CALLS, *storage.CALLS, *network.CALLS, *interaction.CALLS) if call.mutation
}
LAST = frozenset({execution.COMMIT.name, execution.DISCARD.name})


class Composed(Value):
    """The answer of each step, and the last handle unless it was committed or discarded. What was committed before,
    under the same Idempotency-Key, is answered in place of the last step, and null for those before it.
    """

    answers: tuple[dict[str, Any] | None, ...]
    handle: str | None = None


def _step(call: Call[Any, Any]) -> type[msgspec.Struct]:
    own = tuple(info for name, info in call.fields.items() if name not in {"handle", "handles", "fingerprint"})
    title = "".join(word.capitalize() for word in call.name.replace("/", "-").split("-"))
    step = derived(f"Step{title}", own, tag_field="call", tag=call.name)
    if "handle" not in call.fields:
        return step
    handle: list[tuple[str, Any, Any]] = [("handle", str | None, None)]
    return msgspec.defstruct(step.__name__, handle, bases=(step,), **BODY_CONFIG, tag_field="call", tag=call.name)


# The steps come from the table, so their union is only known now.
_ANY_STEP: Any = Union[tuple(_step(call) for call in STEPS.values())]  # noqa: UP007
Compose: Any = msgspec.defstruct("Compose", [("steps", tuple[_ANY_STEP, ...])], **BODY_CONFIG)

_table = Table("execution")
COMPOSE: Call[Any, Composed] = _table.post(
    "compose",
    "compose",
    Compose,
    Composed,
    method="",
    leaves=True,
    creates=True,
    summary="Several mutations in one round trip.",
)
CALLS = _table.calls
