"""Stand-ins for the components: they say what they are told to, and remember what they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from portlayer.interfaces.components import Components
from portlayer.interfaces.interaction import Control, Output
from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.rest.calls import CALLS

KNOWN = {"execution": "cookie_monster", "interaction": "cookie_monster", "network": "lan", "storage": "jar"}
"""Names of what is there for schemathesis to find, by component."""

Behaviour = Callable[..., Awaitable[Any]]


@dataclass
class Component:
    """Any of the components. `behaviours` are its methods; those that are not there answer a sample of their type."""

    name: str
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    asked: list[tuple[str, Caller, Value]] = field(default_factory=list)

    def __getattr__(self, method: str) -> Behaviour:
        if method.startswith("_"):
            raise AttributeError(method)

        async def call(caller: Caller, request: Value, *more: Any) -> Any:
            self.asked.append((method, caller, request))
            if method in self.behaviours:
                return await self.behaviours[method](caller, request, *more)
            return sample(ANSWERS[self.name, method])

        return call


class World:
    """All five stand-ins."""

    def __init__(self) -> None:
        self.service = Component("service")
        self.storage = Component("storage")
        self.execution = Component("execution")
        self.network = Component("network")
        self.interaction = Component("interaction")

    @property
    def components(self) -> Components:
        return Components(self.service, self.storage, self.execution, self.network, self.interaction)

    def answer(self, component: str, method: str, value: Any) -> None:
        """Let a method answer *value*, or raise it where it is an error."""

        async def behaviour(*_: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        getattr(self, component).behaviours[method] = behaviour

    def behave(self, component: str, method: str, behaviour: Behaviour) -> None:
        getattr(self, component).behaviours[method] = behaviour


ANSWERS = {(call.component, call.method): call.answer for call in CALLS if call.method}


def sample(kind: Any) -> Any:
    """A small value of type *kind*."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is type(None) or kind is None:
        return None
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind(**{info.name: sample(info.type) for info in msgspec.structs.fields(kind) if info.required})
    if origin in {Union, UnionType}:
        return sample(arguments[0])
    if origin is Literal:
        return arguments[0]
    if origin is tuple:
        return (sample(arguments[0]),)
    return (origin or kind)()


async def flow(*items: Any) -> AsyncIterator[Any]:
    """*items*, one at a time; an exception among them is raised."""
    for item in items:
        await asyncio.sleep(0)
        if isinstance(item, Exception):
            raise item
        yield item


class Dialogue:
    """An Attachment that says what is put in `output` (None ends it), and keeps what it is told in `heard`."""

    def __init__(self) -> None:
        self.output: asyncio.Queue[Output | Control | Exception | None] = asyncio.Queue()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.refusing: Exception | None = None
        self.refused = asyncio.Event()
        self.detachable = True

    async def __aiter__(self) -> AsyncIterator[Output | Control]:
        while (item := await self.output.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    async def write(self, data: bytes) -> None:
        if self.refusing:
            self.refused.set()
            raise self.refusing
        await self.heard.put(data)

    async def close_stdin(self) -> None:
        await self.heard.put("close")

    async def resize(self, width: int, height: int) -> None:
        if self.refusing:
            raise self.refusing
        await self.heard.put((width, height))

    async def detach(self) -> None:
        if self.detachable:
            self.output.put_nowait(Control(kind="detached", fields={"cursor": "42"}))
            self.output.put_nowait(None)

    async def close(self) -> None:
        self.closed.set()
