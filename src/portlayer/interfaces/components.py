"""The bundle that is passed around: one of each component, local or remote."""

from __future__ import annotations

from dataclasses import dataclass

from portlayer.interfaces.execution import Execution
from portlayer.interfaces.interaction import Interaction
from portlayer.interfaces.network import Network
from portlayer.interfaces.service import Service
from portlayer.interfaces.storage import Storage


@dataclass(frozen=True)
class Components:
    """The four components, and the service that they make up. Any of them may live in another process."""

    service: Service
    storage: Storage
    execution: Execution
    network: Network
    interaction: Interaction
