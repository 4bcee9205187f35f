"""What a run gives: samples by measure and peer, as they are written to JSON."""

from __future__ import annotations

import msgspec

from bench.stats import Summary, summarize

VERSION = 1


class Measure(msgspec.Struct, frozen=True):
    """A thing measured. Values are in *unit*: ms, containers/s or MB (10^6 bytes)."""

    key: str
    title: str
    unit: str
    lower_is_better: bool = True


EXIT_BRIDGE = Measure("exitBridge", "create -> exit, bridge network", "ms")
EXIT_NONE = Measure("exitNone", "create -> exit, no network", "ms")
LIFE_BRIDGE = Measure("lifeBridge", "create -> removed, bridge network", "ms")
LIFE_NONE = Measure("lifeNone", "create -> removed, no network", "ms")
AHEAD = Measure("ahead", "start -> exit of a container created before", "ms")
RATE_BRIDGE = Measure("rateBridge", "8 at once, bridge network", "containers/s", lower_is_better=False)
RATE_NONE = Measure("rateNone", "8 at once, no network", "containers/s", lower_is_better=False)
IDLE = Measure("idle", "memory of the idle server", "MB")
PER_CONTAINER = Measure("perContainer", "memory of each running container", "MB")
MEASURES = (
    EXIT_BRIDGE,
    LIFE_BRIDGE,
    EXIT_NONE,
    LIFE_NONE,
    AHEAD,
    RATE_BRIDGE,
    RATE_NONE,
    IDLE,
    PER_CONTAINER,
)
# A peer that makes no bridge is compared by what it does make.
WITHOUT_BRIDGE = {EXIT_BRIDGE: EXIT_NONE, LIFE_BRIDGE: LIFE_NONE, RATE_BRIDGE: RATE_NONE}


class Verdict(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One line of the promised numbers. reached: None where a peer is missing."""

    title: str
    at_least: float
    aim: float
    reached: float | None
    lower_is_better: bool

    def meets(self, bound: float) -> bool | None:
        """Whether *reached* is as good as *bound*."""
        if self.reached is None:
            return None
        return self.reached <= bound if self.lower_is_better else self.reached >= bound


class Results(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """One run. samples: by measure's key, then by peer's name. skipped: peers that could not run, with the reason."""

    started_at: str
    rounds: int
    host: dict[str, str]
    versions: dict[str, str] = {}
    skipped: dict[str, str] = {}
    samples: dict[str, dict[str, list[float]]] = {}
    verdicts: list[Verdict] = []
    version: int = VERSION

    def add(self, measure: Measure, peer: str, value: float) -> None:
        """Add one sample."""
        self.samples.setdefault(measure.key, {}).setdefault(peer, []).append(value)

    def summary(self, measure: Measure, peer: str) -> Summary | None:
        """Of *peer*'s samples; without a bridge where it makes none. None where nothing was measured."""
        for candidate in (measure, WITHOUT_BRIDGE.get(measure, measure)):
            if values := self.samples.get(candidate.key, {}).get(peer):
                return summarize(values)
        return None

    def median(self, measure: Measure, peer: str) -> float | None:
        """As summary, its median."""
        found = self.summary(measure, peer)
        return found.median if found else None
