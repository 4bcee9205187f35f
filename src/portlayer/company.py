"""Who is about, and how much each wants at once: what tells a VCH that floods from one that is merely busy."""

from __future__ import annotations

import asyncio

ABOUT_SECONDS = 5.0
"""How long after it last wanted something a VCH is taken to be about, and its most at once is remembered."""
MUCH = 2
"""How many times as much as another a VCH wants for that one to be spared."""


class _Seen:
    """wanted: how much now; most: how much at once lately, at the time since; last: when it wanted something."""

    __slots__ = ("last", "most", "since", "wanted")

    def __init__(self) -> None:
        self.wanted = 0
        self.most = 0
        self.since = 0.0
        self.last = 0.0

    def most_lately(self, now: float, about_seconds: float) -> int:
        if now - self.since > about_seconds:
            self.most, self.since = max(1, self.wanted), now
        return self.most


class Company:
    """The VCHs that want something, or wanted it a moment ago, of one machine."""

    def __init__(self, about_seconds: float = ABOUT_SECONDS) -> None:
        self.about_seconds = about_seconds
        self._seen: dict[str, _Seen] = {}

    def come(self, vch: str) -> None:
        """It wants one thing more."""
        now = asyncio.get_running_loop().time()
        if vch not in self._seen:
            self._forget(now)
            self._seen[vch] = _Seen()
        seen = self._seen[vch]
        seen.wanted += 1
        seen.last = now
        if seen.wanted >= seen.most_lately(now, self.about_seconds):
            seen.most, seen.since = seen.wanted, now

    def gone(self, vch: str) -> None:
        """It has it, or does not want it any more."""
        seen = self._seen[vch]
        seen.wanted -= 1
        seen.last = asyncio.get_running_loop().time()

    def least(self) -> int:
        """The most at once of the VCH that wants least of those that are about; 0 where nobody is."""
        now = asyncio.get_running_loop().time()
        self._forget(now)
        return min((seen.most_lately(now, self.about_seconds) for seen in self._seen.values()), default=0)

    def _forget(self, now: float) -> None:
        """Those that are not about any more."""
        for vch, seen in list(self._seen.items()):
            if not seen.wanted and now - seen.last > self.about_seconds:
                del self._seen[vch]

    def spares(self, vch: str, least: int) -> bool:
        """Whether *vch* shall hold back, for it wants much more than the one that wants *least*."""
        seen, now = self._seen.get(vch), asyncio.get_running_loop().time()
        return seen is not None and 0 < least * MUCH <= seen.most_lately(now, self.about_seconds)
