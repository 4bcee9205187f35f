"""How much of a kind of work is done at once, and how much may wait for it."""

from __future__ import annotations

from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument

MOST = 1_000_000
LEAST_EVENTS = 100
MOST_DRAIN_SECONDS = 3600


class Bounds(Value):
    """at_once, at_once_per_vch: how many run. at_once_shared: how many of a VCH while another that wants much less is
    about, or has been lately; 0: as many as alone. queued, queued_per_vch: how many may wait; 0: none, who finds no
    room is refused at once. wait_seconds: how long one waits before it is refused."""

    at_once: int
    at_once_per_vch: int
    queued: int
    queued_per_vch: int
    wait_seconds: float = 30.0
    at_once_shared: int = 0


class HttpBounds(Value):
    """connections: how many a server keeps open; beyond, those that idle go. requests: how many it works at, at once; a
    VCH gets half of them, and health, readiness and metrics are told beside them."""

    connections: int = 4096
    requests: int = 2000


class Drain(Value):
    """How a server ends. notice_seconds: how long it says that it is not ready, and answers all the same, so that who
    spreads calls over servers notices. seconds: how long it then waits for what is being changed."""

    notice_seconds: float = 0.0
    seconds: float = 30.0


class Limits(Value):
    """What a port layer takes on at once. commits: at most as many as its drivers profit from (`None`: by the machine).
    imports: long uploads. streams: attachments, outputs, logs, which go on for as long as they like. events: how many
    of a VCH are kept; the oldest go, at the next sweep of the reconciler."""

    commits: Bounds | None = None
    imports: Bounds = Bounds(
        at_once=4, at_once_per_vch=3, queued=64, queued_per_vch=32, wait_seconds=120.0, at_once_shared=1
    )
    streams: Bounds = Bounds(at_once=1000, at_once_per_vch=500, queued=0, queued_per_vch=0)
    http: HttpBounds = HttpBounds()
    events: int = 20_000


def commits_on(cores: int) -> Bounds:
    """Some more than a machine with that many *cores* has work for: who waits for the kernel keeps none busy. A VCH
    leaves a quarter to the others, also where its own commits hang."""
    at_once = max(8, 6 * cores)
    return Bounds(
        at_once=at_once,
        at_once_per_vch=at_once * 3 // 4,
        queued=1000,
        queued_per_vch=250,
        at_once_shared=max(1, cores // 2),
    )


def check_drain(drain: Drain) -> Drain:
    """*drain*; raises InvalidArgument where it is out of all reason."""
    for name in drain.__struct_fields__:
        if not 0 <= getattr(drain, name) <= MOST_DRAIN_SECONDS:
            raise InvalidArgument(f"drain: {name} must be between 0 and {MOST_DRAIN_SECONDS}.")
    return drain


def check_limits(limits: Limits) -> Limits:
    """*limits*; raises InvalidArgument where nothing could ever run, or a number is out of all reason."""
    for kind in ("commits", "imports", "streams", "http"):
        bounds = getattr(limits, kind)
        for name in bounds.__struct_fields__ if bounds is not None else ():
            least = 0 if name.startswith("queued") or name == "at_once_shared" else 1
            if not least <= getattr(bounds, name) <= MOST:
                raise InvalidArgument(f"limits.{kind}: {name} must be between {least} and {MOST}.")
    if not LEAST_EVENTS <= limits.events <= MOST:
        raise InvalidArgument(f"limits: events must be between {LEAST_EVENTS} and {MOST}.")
    if limits.http.connections <= limits.http.requests:
        raise InvalidArgument(
            "limits.http: connections must be more than requests, to leave room for asking for health."
        )
    return limits
