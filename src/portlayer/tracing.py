"""Traces: the seam behind which whatever exports them stands, and the identity that crosses processes.

A `Link` is a place in a trace as W3C Trace Context writes it. There always is one while a request is answered, so that
the log has the id of a trace, and the next process gets it, also where nothing is exported.
"""

from __future__ import annotations

import random
import re
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

HEADER = "traceparent"
Kind = Literal["internal", "client", "server"]
Fact = str | int
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Link(NamedTuple):
    """A span of a trace. trace: 32 hexadecimal digits; span: 16; sampled: whether who began it may have recorded it."""

    trace: str
    span: str
    sampled: bool = True

    @property
    def header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace}-{self.span}-{int(self.sampled):02x}"


def read(header: str | None) -> Link | None:
    """The link in a `traceparent`; None for one that is none, which is not an error (W3C: begin a new trace)."""
    found = _FORM.fullmatch(header) if header else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not (int(trace, 16) and int(span, 16)):
        return None
    return Link(trace, span, bool(int(flags, 16) & 1))


def new_link() -> Link:
    """The beginning of a trace."""
    return Link(f"{random.getrandbits(128) or 1:032x}", f"{random.getrandbits(64) or 1:016x}")


_current: ContextVar[Link | None] = ContextVar("portlayer_link", default=None)


def current() -> Link | None:
    """Where in which trace this is; None outside of all."""
    return _current.get()


class entered:  # noqa: N801 - used as a verb, like contextlib's
    """Within it, *link* is where this is."""

    __slots__ = ("_link", "_token")
    _token: Token[Link | None]

    def __init__(self, link: Link | None) -> None:
        self._link = link

    def __enter__(self) -> None:
        self._token = _current.set(self._link)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.reset(self._token)


class Span(Protocol):
    """A part of a trace that is under way."""

    def note(self, name: str, fact: Fact) -> None:
        """Add a *fact* to it: a name, an id or a number, nothing that a caller's body or header said."""


class Tracer(Protocol):
    """Makes spans. Whatever becomes of them, it costs little, waits for nothing and raises nothing.

    silent: they go nowhere, so that who makes many need not.
    """

    silent: bool

    def span(self, name: str, *, kind: Kind = "internal", **facts: Fact) -> AbstractContextManager[Span]:
        """A part of what is done here, which is `current` within. One that an exception leaves has failed."""

    def request(self, name: str, parent: Link | None) -> AbstractContextManager[Span]:
        """What a request that came with *parent* causes; None: it begins a trace, as work of our own does."""

    def close(self) -> None:
        """Send what there still is. Blocks, for seconds at most."""


class _Nothing:
    """A span that goes nowhere."""

    __slots__ = ()

    def note(self, name: str, fact: Fact) -> None: ...

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class _Request(_Nothing):
    """Goes nowhere, but has its place in a trace."""

    __slots__ = ("_entered",)

    def __init__(self, link: Link) -> None:
        self._entered = entered(link)

    def __enter__(self) -> Span:
        self._entered.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.__exit__(kind, error, traceback)


_NOTHING = _Nothing()


class Untraced:
    """The tracer of a process that exports nothing."""

    silent = True

    def span(self, name: str, *, kind: Kind = "internal", **facts: Fact) -> AbstractContextManager[Span]:  # noqa: ARG002
        return _NOTHING

    def request(self, name: str, parent: Link | None) -> AbstractContextManager[Span]:  # noqa: ARG002
        return _Request(parent or new_link())

    def close(self) -> None: ...
