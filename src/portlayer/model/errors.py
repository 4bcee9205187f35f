"""The closed taxonomy of errors. It knows no transport; `rest.problems` maps it to HTTP and back.

PortlayerError
├── InvalidArgument      the request is wrong in itself; `pointer` says where
├── Unauthenticated      who is asking is not known
├── PermissionDenied     who is asking may not
├── NotFound             `kind` and `id` of what is not there
├── AlreadyExists        the name or place is taken
├── InvalidState         not possible in the present state
├── Conflict             another commit changed what this one relied on; `collisions` names it
├── HandleInvalid        a handle that cannot be opened
├── InUse                something still uses it; `users` names some of them
├── ResourceExhausted    out of addresses, quota, disk
├── Unsupported          understood, but not offered here
├── SubstrateFailed      a step on the host failed; `step` names it
├── Unavailable          not now; `retry_after_seconds` says when
└── DeadlineExceeded     the time given was not enough

Every error has a sentence for people (`detail`, with the reason and the next move) and facts for programs.
"""

from __future__ import annotations

from typing import Any, ClassVar


class PortlayerError(Exception):
    """Base of the taxonomy; never raised itself. `facts` are the class's own fields, JSON-ready, the same
    wherever it was raised: what is several is a tuple."""

    fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, detail: str, **facts: Any) -> None:
        unknown = facts.keys() - set(self.fields)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {sorted(unknown)}")
        super().__init__(detail)
        self.detail = detail
        self.facts = {name: _frozen(value) for name, value in facts.items() if value is not None}

    @property
    def code(self) -> str:
        """The class's name, as it stands in problem documents."""
        return type(self).__name__


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class InvalidArgument(PortlayerError):
    """The request is wrong in itself. `pointer` is a JSON pointer into the body, or `?name` of the query."""

    fields = ("pointer",)


class Unauthenticated(PortlayerError):
    """Who is asking is not known."""


class PermissionDenied(PortlayerError):
    """Who is asking may not do this."""


class NotFound(PortlayerError):
    """There is no `kind` called `id` in this VCH."""

    fields = ("kind", "id")


class AlreadyExists(PortlayerError):
    """A `kind` called `id` is there already."""

    fields = ("kind", "id")


class InvalidState(PortlayerError):
    """Not possible in the present `state` of the `kind` called `id`."""

    fields = ("kind", "id", "state")


class Conflict(PortlayerError):
    """Another commit changed what this one changes or relied on. `collisions` lists the facets."""

    fields = ("collisions", "id")


class HandleInvalid(PortlayerError):
    """The handle cannot be opened. Always the same words, whatever is wrong with it."""

    def __init__(self, detail: str = "This handle is not valid here; take a new one.") -> None:
        super().__init__(detail)


class InUse(PortlayerError):
    """The `kind` called `id` is used; `users` lists some that use it."""

    fields = ("kind", "id", "users")


class ResourceExhausted(PortlayerError):
    """There is no more of `resource`. Where a quota says so: its `limit`, what is `used` of it, and what was
    `requested` beside that.
    """

    fields = ("resource", "limit", "used", "requested")


class Unsupported(PortlayerError):
    """Understood, but not offered here. `option` names what."""

    fields = ("option", "pointer")


class SubstrateFailed(PortlayerError):
    """A step on the host failed, and what the commit had done is undone. `step` names it."""

    fields = ("step", "id")


class Unavailable(PortlayerError):
    """Not now. `retry_after_seconds` is the advice when to come again. `refused` is true where nothing was begun, so
    that the same call does no harm a second time, whatever it is."""

    fields = ("retry_after_seconds", "refused")


class DeadlineExceeded(PortlayerError):
    """The time given was not enough; what was waited for goes on."""


TAXONOMY: tuple[type[PortlayerError], ...] = (
    InvalidArgument,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    AlreadyExists,
    InvalidState,
    Conflict,
    HandleInvalid,
    InUse,
    ResourceExhausted,
    Unsupported,
    SubstrateFailed,
    Unavailable,
    DeadlineExceeded,
)
BY_CODE = {error.__name__: error for error in TAXONOMY}
