"""Creations without a handle happen once for an Idempotency-Key: the answer is kept with what was created."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from portlayer.components import keys
from portlayer.components.records import decode, encode, put
from portlayer.failpoints import Failpoints
from portlayer.interfaces.store import Check, CheckFailed, Put, Store, Transaction
from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.errors import InvalidArgument, Unavailable

R = TypeVar("R", bound=Value)
A = TypeVar("A", bound=Value)
REPLAY_SECONDS = 24 * 3600.0
ATTEMPTS = 50


class Replay(Value):
    """request: digest of what was asked; answer: as it was given."""

    request: str
    answer: bytes


class Replays:
    """Runs creations, each in one transaction with its answer."""

    def __init__(self, store: Store, failpoints: Failpoints) -> None:
        self._store = store
        self._failpoints = failpoints

    async def once(
        self,
        caller: Caller,
        kind: str,
        request: R,
        answer_type: type[A],
        create: Callable[[Caller, R], Awaitable[tuple[A, list[Check], list[Put]]]],
    ) -> A:
        """The answer of *create*, whose checks and puts are applied with it; or the answer of the first time.

        create is called again where its checks fail: it says what is wrong then.

        Raises:
            InvalidArgument: the key was used for another request.
        """
        digest = hashlib.sha256(kind.encode() + encode(request)).hexdigest()
        key = None
        if caller.idempotency_key is not None:
            name = hashlib.sha256(f"{kind}\0{caller.idempotency_key}".encode()).hexdigest()
            key = keys.entity(caller.vch, "idempotency", name)
        for _ in range(ATTEMPTS):
            if key is not None and (record := await self._store.get(key)) is not None:
                replay = decode(Replay, record.value)
                if replay.request != digest:
                    raise InvalidArgument("This Idempotency-Key was used for another request; choose a new one.")
                return decode(answer_type, replay.answer)
            answer, checks, puts = await create(caller, request)
            await self._failpoints.hit(f"creation.{kind}")
            if key is not None:
                checks = [*checks, Check(key, 0)]
                puts = [*puts, put(key, Replay(request=digest, answer=encode(answer)), REPLAY_SECONDS)]
            try:
                await self._store.apply(Transaction(checks, puts))
            except CheckFailed:
                continue
            await self._failpoints.hit(f"created.{kind}")
            return answer
        raise Unavailable("Too many others create at the same time; try again.", retry_after_seconds=1)
