"""Execution over REST: compose, the several mutations of one round trip."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
from aiohttp import web

from portlayer.model.changes import ActivateEndpoint
from portlayer.model.errors import InvalidArgument, PortlayerError, Unavailable
from portlayer.model.execution import Discard, Inspect, Recall
from portlayer.rest.calls import Call, execution, network
from portlayer.rest.calls import compose as calls
from portlayer.rest.server.answers import json_answer
from portlayer.rest.server.exchange import Exchange, Handler

_logger = logging.getLogger(__name__)
_LEASING = ActivateEndpoint.__struct_config__.tag


async def compose(exchange: Exchange) -> web.StreamResponse:
    steps: Sequence[msgspec.Struct] = getattr(exchange.request, "steps", ())
    _check(steps)
    composition = _Composition(exchange, steps)
    return json_answer(await composition.recalled() or await composition.run())


def _call(step: msgspec.Struct) -> Call[Any, Any]:
    return calls.STEPS[str(step.__struct_config__.tag)]


def _check(steps: Sequence[msgspec.Struct]) -> None:
    """What the steps' types cannot say: how handles run through them."""
    if not 1 <= len(steps) <= calls.MAX_STEPS:
        raise InvalidArgument(f"A compose has 1 to {calls.MAX_STEPS} steps.", pointer="/steps")
    for number, step in enumerate(steps):
        call, here = _call(step), f"/steps/{number}"
        given = getattr(step, "handle", None) is not None
        if number == 0 and call is not execution.CREATE and not given:
            raise InvalidArgument("The first step needs a handle, or has to be execution/create.", pointer=here)
        if number > 0 and (given or call is execution.CREATE):
            raise InvalidArgument("A later step goes on with the handle of the one before.", pointer=here)
        if call.name in calls.LAST and number + 1 < len(steps):
            raise InvalidArgument(f"{call.name} gives no handle, so it has to be the last step.", pointer=here)


class _Composition:
    """The run of one compose: the newest handle, and whether there are leases to give back.

    fingerprint: of the steps, where they are to be committed once under the caller's key.
    """

    def __init__(self, exchange: Exchange, steps: Sequence[msgspec.Struct]) -> None:
        self._components = exchange.components
        self._caller = exchange.caller
        self._turns = exchange.shared.turns
        self._steps = steps
        self._handle: str | None = None
        self._leased = False
        self._fingerprint = ""
        if self._caller.idempotency_key is not None and _call(steps[-1]) is execution.COMMIT:
            self._fingerprint = hashlib.sha256(msgspec.json.encode(steps, order="deterministic")).hexdigest()

    async def recalled(self) -> calls.Composed | None:
        """What an earlier compose under the same key has committed."""
        if not self._fingerprint:
            return None
        found = await self._components.execution.recall(self._caller, Recall(fingerprint=self._fingerprint))
        if found.committed is None:
            return None
        return calls.Composed(answers=(*(None for _ in self._steps[1:]), msgspec.to_builtins(found.committed[0])))

    async def run(self) -> calls.Composed:
        answers = []
        for number, step in enumerate(self._steps):
            call = _call(step)
            try:
                answer = await self._step(call, step)
            except PortlayerError as error:
                await self._give_back(getattr(self._steps[0], "handle", None))
                if not isinstance(error, Unavailable) and (first := await self.recalled()) is not None:
                    return first  # it was still under way
                raise _of_step(error, number, call) from error
            answers.append(answer)
            self._handle = getattr(answer, "handle", None)
            self._leased = self._leased or call is network.BIND
        return calls.Composed(answers=tuple(answers), handle=self._handle)

    async def _step(self, call: Call[Any, Any], step: msgspec.Struct) -> Any:
        fields = msgspec.structs.asdict(step)
        if self._handle is not None:
            fields["handle"] = self._handle
        if self._fingerprint and call is execution.COMMIT:
            fields["fingerprint"] = self._fingerprint
        method = getattr(getattr(self._components, call.component), call.method)
        async with self._turns.turn(self._caller.vch) if call.short else nullcontext():
            return await method(self._caller, call.request(**fields))

    async def _give_back(self, first: str | None) -> None:
        """Give the leases back that this compose made, since nobody else has a handle that carries them."""
        if self._handle is None or not self._leased:
            return
        try:
            if first is None or not await self._has_leases(first):
                await self._components.execution.discard(self._caller, Discard(handle=self._handle))
        except PortlayerError as error:
            _logger.debug("the leases of a failed compose are left to expire: %s", error.detail)

    async def _has_leases(self, handle: str) -> bool:
        """Whether the caller's own *handle* brought leases: those are in the newest handle too, and must stay."""
        inspected = await self._components.execution.inspect(self._caller, Inspect(handle=handle))
        return any(change.get("change") == _LEASING for change in inspected.changes)


def _of_step(error: PortlayerError, number: int, call: Call[Any, Any]) -> PortlayerError:
    """The same error, telling which step it was."""
    facts = dict(error.facts)
    if "pointer" in error.fields:
        facts["pointer"] = f"/steps/{number}{facts.get('pointer', '')}"
    return type(error)(f"step {number} ({call.name}): {error.detail}", **facts)


HANDLERS: dict[Call[Any, Any], Handler] = {calls.COMPOSE: compose}
