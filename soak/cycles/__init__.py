"""The kinds of cycles, by component. A new kind is a coroutine of a Scene, named in KINDS of its module."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from soak.cycles import commits, execution, interaction, network, storage
from soak.scene import Scene

Kind = Callable[[Scene], Awaitable[None]]
KINDS: dict[str, Kind] = {
    f"{module.__name__.rpartition('.')[2]}.{kind.__name__}": kind
    for module in (execution, commits, interaction, network, storage)
    for kind in module.KINDS
}
