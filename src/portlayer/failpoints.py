"""Named places where a test makes the process fail, wait or die: the seams of the commit protocol.

A failpoint does nothing unless it is armed. `PORTLAYER_FAILPOINTS="commit.before.Plug=kill;commit.record=raise"` arms
some from the environment: `kill` is SIGKILL to ourselves, `raise` fails the step, `raise-once` the first time alone,
`hang` never returns, `log` tells the log. `*` is every name that is not armed itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable

from portlayer.model.errors import InvalidArgument, SubstrateFailed

Action = Callable[[str], Awaitable[None]]
EVERY = "*"
ONCE = "raise-once"
_log = logging.getLogger(__name__)


async def _kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def _raise(name: str) -> None:
    raise SubstrateFailed(f"Failpoint {name} was armed.", step=name)


async def _hang(_: str) -> None:
    await asyncio.Event().wait()


async def _tell(name: str) -> None:
    _log.info(name)


ACTIONS: dict[str, Action] = {"kill": _kill, "raise": _raise, "hang": _hang, "log": _tell}


class Failpoints:
    """The armed failpoints of one process. `seen` collects the names that were passed, for those who list them."""

    def __init__(self) -> None:
        self._armed: dict[str, Action] = {}
        self._once: set[str] = set()
        self.seen: list[str] = []

    @classmethod
    def from_text(cls, text: str) -> Failpoints:
        """Parse `name=action;name=action`; raises InvalidArgument for an unknown action."""
        points = cls()
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, _, action = part.partition("=")
            if action == ONCE:
                points.arm(name, _raise)
                points._once.add(name)
            elif action in ACTIONS:
                points.arm(name, ACTIONS[action])
            else:
                known = ", ".join((*ACTIONS, ONCE))
                raise InvalidArgument(f"Failpoint {name} has no action {action!r}; use {known}.")
        return points

    def arm(self, name: str, action: Action) -> None:
        """Run *action* whenever *name* is passed; EVERY is all names that are not armed themselves."""
        self._armed[name] = action

    def disarm(self) -> None:
        """Forget all armed ones and what was seen."""
        self._armed.clear()
        self.seen.clear()

    async def hit(self, name: str) -> None:
        """Pass the place called *name*."""
        if len(self.seen) < 10_000:
            self.seen.append(name)
        action = self._armed.get(name) or self._armed.get(EVERY)
        if name in self._once:
            self._once.discard(name)
            del self._armed[name]
        if action is not None:
            await action(name)
