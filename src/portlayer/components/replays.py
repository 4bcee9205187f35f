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

    def answer_to(self, request: str, answer_type: type[A]) -> A:
        """The answer of the first time. Raises InvalidArgument where that was another request."""
        if self.request != request:
            raise InvalidArgument("This Idempotency-Key was used for another request; choose a new one.")
        return decode(answer_type, self.answer)


def digest_of(kind: str, request: Value, body: bytes = b"") -> str:
    """What tells one request from another. body: the digest of what came with it."""
    return hashlib.sha256(kind.encode() + encode(request) + body).hexdigest()


class Replays:
    """Runs creations, each in one transaction with its answer."""

    def __init__(self, store: Store, failpoints: Failpoints) -> None:
        self._store = store
        self._failpoints = failpoints

    async def find(self, caller: Caller, kind: str) -> Replay | None:
        """What the caller's key was used for before, if it has one."""
        key = replay_key(caller, kind)
        record = None if key is None else await self._store.get(key)
        return None if record is None else decode(Replay, record.value)

    def keep(self, caller: Caller, kind: str, request: str, answer: Value) -> tuple[list[Check], list[Put]]:
        """What has to be in the transaction of the creation; nothing where the caller has no key."""
        key = replay_key(caller, kind)
        if key is None:
            return [], []
        return [Check(key, 0)], [put(key, Replay(request=request, answer=encode(answer)), REPLAY_SECONDS)]

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
        digest = digest_of(kind, request)
        for _ in range(ATTEMPTS):
            replay = await self.find(caller, kind)
            if replay is not None:
                return replay.answer_to(digest, answer_type)
            answer, checks, puts = await create(caller, request)
            await self._failpoints.hit(f"creation.{kind}")
            kept = self.keep(caller, kind, digest, answer)
            try:
                await self._store.apply(Transaction([*checks, *kept[0]], [*puts, *kept[1]]))
            except CheckFailed:
                continue
            await self._failpoints.hit(f"created.{kind}")
            return answer
        raise Unavailable("Too many others create at the same time; try again.", retry_after_seconds=1)


def replay_key(caller: Caller, kind: str) -> str | None:
    """Where the answer is kept that the caller's key stands for; None where it has none."""
    if caller.idempotency_key is None:
        return None
    name = hashlib.sha256(f"{kind}\0{caller.idempotency_key}".encode()).hexdigest()
    return keys.entity(caller.vch, "idempotency", name)
