"""How many refusals of one caller the audit log has each for itself; the others it has as a number.

Else whoever gets nothing, and has to be nobody for that, could fill the log until what others did is gone from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from portlayer.model.access import Identity
from portlayer.model.base import now

BURST = 100
REFILL_SECONDS = 12.0
SUM_SECONDS = 60.0


@dataclass
class _Allowance:
    """left: lines that the caller may still cause, as of *at*. untold: refusals that had none; since: the first."""

    left: float = BURST
    at: float = field(default_factory=time.monotonic)
    untold: int = 0
    since: str = ""

    def take(self) -> bool:
        """Whether this refusal has a line of its own."""
        moment = time.monotonic()
        self.left = min(BURST, self.left + (moment - self.at) / REFILL_SECONDS)
        self.at = moment
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Refusals:
    """Callers who are not known count as one. told: takes the sum of a minute: who, how many, since when."""

    def __init__(self, told: Callable[[Identity | None, int, str], None]) -> None:
        self._told = told
        self._allowances: dict[Identity | None, _Allowance] = {}
        self._timer: asyncio.TimerHandle | None = None

    def has_line(self, identity: Identity | None) -> bool:
        """Whether a refusal of *identity* that happens now has a line of its own; else it is in the next sum."""
        allowance = self._allowances.setdefault(identity, _Allowance())
        self._timer = self._timer or asyncio.get_running_loop().call_later(SUM_SECONDS, self.sum_up)
        if allowance.take():
            return True
        allowance.since = allowance.since if allowance.untold else now()
        allowance.untold += 1
        return False

    def sum_up(self) -> None:
        """Tell what was not told, and forget who has been quiet for long."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for identity, allowance in list(self._allowances.items()):
            if allowance.untold:
                self._told(identity, allowance.untold, allowance.since)
                allowance.untold = 0
            elif time.monotonic() - allowance.at > BURST * REFILL_SECONDS:
                del self._allowances[identity]
