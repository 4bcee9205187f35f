"""What the client's components have in common: a bundle to ask, and in whose name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

from portlayer.client.handles import ContainerHandle
from portlayer.client.steps import Steps
from portlayer.interfaces.components import Components
from portlayer.model import execution as e
from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.execution import replace

PAGE = 1000


class Page(Protocol):
    """A part of a list."""

    @property
    def next(self) -> str | None: ...


P = TypeVar("P", bound=Page)


class Component:
    """A component of *components*, asked in the name of *caller*."""

    def __init__(self, components: Components, caller: Caller) -> None:
        self._components = components
        self._caller = caller

    def _creating(self, idempotency_key: str | None) -> Caller:
        """The caller of a creation that may be repeated under one key."""
        return replace(self._caller, idempotency_key=idempotency_key) if idempotency_key else self._caller

    async def _answer(self, steps: Steps) -> Any:
        """The answer to the only one of *steps*."""
        ((call, request),) = steps.requests
        return await self._invoke(call, request, steps.handle)

    async def _stage(self, steps: Steps) -> ContainerHandle:
        """The handle that the only one of *steps* gives."""
        answer = await self._answer(steps)
        return ContainerHandle(steps.handle.id if steps.handle else answer.id, answer.handle)

    async def _invoke(
        self, call: str, request: Value, handle: ContainerHandle | None, caller: Caller | None = None
    ) -> Any:
        component, verb = call.split("/")
        method = getattr(getattr(self._components, component), verb.replace("-", "_"))
        return await method(caller or self._caller, e.replace(request, handle=handle.sealed) if handle else request)


async def pages(ask: Callable[[str | None], Awaitable[P]]) -> AsyncIterator[P]:
    """All pages of a list. ask: gives the page after a cursor."""
    page = await ask(None)
    yield page
    while page.next is not None:
        page = await ask(page.next)
        yield page
