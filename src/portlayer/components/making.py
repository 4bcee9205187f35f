"""What makes that which has a name in a VCH: once for an Idempotency-Key, within the quota."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from portlayer.components import keys
from portlayer.components.quota import Quotas
from portlayer.components.records import Records
from portlayer.components.replays import Replays
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Check, Put
from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.errors import AlreadyExists

R = TypeVar("R", bound=Value)
A = TypeVar("A", bound=Value)


class Making(NamedTuple):
    """What it takes, whatever is made."""

    records: Records
    quotas: Quotas
    replays: Replays
    failpoints: Failpoints

    async def once(
        self,
        caller: Caller,
        kind: str,
        request: R,
        answer_type: type[A],
        create: Callable[[Caller, R], Awaitable[tuple[A, list[Check], list[Put]]]],
    ) -> A:
        """As `Replays.once`, in a VCH that is there."""
        await self.records.check_vch(caller.vch)
        return await self.replays.once(caller, kind, request, answer_type, create)

    async def check_name(self, vch: str, kind: str, name: str) -> str:
        """The key of *name*, which nothing of its *kind* has, `network` or `volume`. Raises AlreadyExists."""
        key = keys.name(vch, f"{kind}s", name)
        if await self.records.store.get(key) is not None:
            raise AlreadyExists(f"A {kind} called {name} is there already.", kind=kind, id=name)
        return key
