"""The one table of the REST API. Server, client and OpenAPI document are made from it, so they cannot disagree."""

from __future__ import annotations

from typing import Any

from portlayer.rest.calls import compose, execution, interaction, network, service, storage
from portlayer.rest.calls.call import Call, Place

CALLS: tuple[Call[Any, Any], ...] = (
    *service.CALLS,
    *storage.CALLS,
    *execution.CALLS,
    *compose.CALLS,
    *network.CALLS,
    *interaction.CALLS,
)

__all__ = ["CALLS", "Call", "Place"]
