"""The bundle that is passed around: one of each component, local or remote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from portlayer.interfaces.execution import Execution
from portlayer.interfaces.interaction import Interaction
from portlayer.interfaces.network import Network
from portlayer.interfaces.service import Service
from portlayer.interfaces.storage import Storage
from portlayer.model.caller import Caller

AT_THE_CONTAINER: Mapping[str, frozenset[str]] = {
    "execution": frozenset({"commit", "delete_container", "signal"}),
    "interaction": frozenset({"attach", "output", "write_stdin", "close_stdin", "resize", "logs"}),
}
"""The calls that are answered on the container's host alone, by component."""


class Relay(Protocol):
    """Passes a call on as it came to a process that answers it; gives the answer as it comes from there.

    method: of the component, for whoever wants to know what it is. message: in the form of whoever sends and reads it.
    """

    async def __call__(self, caller: Caller, method: str, message: Any, /) -> bytes: ...


@dataclass(frozen=True)
class Components:
    """The four components, and the service that they make up. Any of them may live in another process.

    relays: of the components that another process has: a call to them, unless it is AT_THE_CONTAINER, need not be
    written anew for that.
    """

    service: Service
    storage: Storage
    execution: Execution
    network: Network
    interaction: Interaction
    relays: Mapping[str, Relay] = field(default_factory=dict)
