"""What the four drivers in memory share: their world, and the hooks around every step."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from portlayer.model.errors import SubstrateFailed
from portlayer.substrates.memory.process import Incarnation
from portlayer.substrates.memory.world import Step, World

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound="Driver")


class Driver:
    """A driver over a world. room: the driver's name, as it stands in the names of its steps."""

    room: ClassVar[str]

    def __init__(self, world: World) -> None:
        self.world = world

    def find(self, container: str, incarnation: str) -> Incarnation | None:
        """The incarnation in whatever state; None where nothing is known of it."""
        found = self.world.incarnations.get(incarnation)
        return found if found is not None and found.spec.id == container else None

    def live(self, container: str, incarnation: str, step: str) -> Incarnation:
        """The incarnation, prepared, running or paused; raises SubstrateFailed."""
        found = self.find(container, incarnation)
        if found is None or not found.live:
            raise SubstrateFailed(
                f"{step}: the process of container {container} is gone; start it again.", step=step, id=container
            )
        return found


def step(method: Callable[Concatenate[D, P], Awaitable[R]]) -> Callable[Concatenate[D, P], Coroutine[Any, Any, R]]:
    """Let the world's hooks see the call, and others run meanwhile, as with any real host."""

    async def run(self: D, /, *args: P.args, **kwargs: P.kwargs) -> R:
        ids = tuple(arg if isinstance(arg, str) else getattr(arg, "id", "") for arg in (*args, *kwargs.values()))
        now = Step(name=f"{self.room}.{method.__name__}", ids=tuple(one for one in ids if one))
        await asyncio.sleep(0)
        await self.world.entering(now)
        result = await method(self, *args, **kwargs)
        await self.world.leaving(now)
        return result

    functools.update_wrapper(run, method)
    return run
