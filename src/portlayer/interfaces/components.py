"""The bundle that is passed around: one of each component, local or remote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from portlayer.interfaces.execution import Execution
from portlayer.interfaces.interaction import Interaction
from portlayer.interfaces.network import Network
from portlayer.interfaces.service import Service
from portlayer.interfaces.storage import Storage
from portlayer.model.caller import Caller


class Composer(Protocol):
    """Carries out the *steps* of a whole compose, and gives what it answers."""

    async def __call__(self, caller: Caller, steps: Sequence[Mapping[str, Any]], /) -> Any: ...


@dataclass(frozen=True)
class Components:
    """The four components, and the service that they make up. Any of them may live in another process.

    composer: of a process to which composes are passed on whole; None: their steps are asked one by one from here.
    """

    service: Service
    storage: Storage
    execution: Execution
    network: Network
    interaction: Interaction
    composer: Composer | None = None
