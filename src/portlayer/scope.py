"""What is being done here, in words for the log: the request, the VCH, the container that every line is about.

The fields follow the flow of control, into tasks that are begun inside, too. They are names and ids: never a value that
a caller sent in a body or a header, so that no secret can get into the log this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context, ContextVar, Token
from types import TracebackType

_NONE: dict[str, str] = {}
_fields: ContextVar[dict[str, str]] = ContextVar("portlayer_scope", default=_NONE)


def fields() -> Mapping[str, str]:
    """The fields here, that say something."""
    return {name: text for name, text in _fields.get().items() if text}


def apart(**more: str) -> Context:
    """A context for work that outlives what began it: with *more* fields alone, and of no trace."""
    context = Context()
    context.run(_fields.set, more)
    return context


class scope:  # noqa: N801 - used as a verb, like contextlib's
    """Within it, *more* fields hold; empty ones say nothing."""

    __slots__ = ("_more", "_token")
    _token: Token[dict[str, str]]

    def __init__(self, **more: str) -> None:
        self._more = more

    def __enter__(self) -> None:
        self._token = _fields.set(_fields.get() | self._more)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _fields.reset(self._token)
