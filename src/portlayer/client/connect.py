"""The way to a port layer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from portlayer.client.execution import Execution
from portlayer.client.interaction import Interaction
from portlayer.client.network import Network
from portlayer.client.service import Service
from portlayer.client.storage import Storage
from portlayer.interfaces.components import Components
from portlayer.model.caller import DEFAULT_VCH, Caller
from portlayer.rest.client import RestClient

DEFAULT_RUN = "/run/portlayer"
RETRIES = 3


class PortLayer:
    """The four components, and the service that they make up, as a caller holds them."""

    def __init__(self, components: Components, caller: Caller | None = None) -> None:
        caller = caller or Caller()
        self.service = Service(components, caller)
        self.storage = Storage(components, caller)
        self.execution = Execution(components, caller)
        self.network = Network(components, caller)
        self.interaction = Interaction(components, caller)


@asynccontextmanager
async def connect(
    components: Components | None = None,
    *,
    host: str | None = None,
    vch: str | None = None,
    retries: int = RETRIES,
    token: str | None = None,
) -> AsyncIterator[PortLayer]:
    """A port layer: the one at *host*, or *components* that are in this process.

    host: `unix:///path` or `https://host:port`; without, what the environment says (see `default_host`). Nothing is
    sent before the first call. vch: the tenant to speak for; without, PORTLAYER_VCH or `default`. retries: how many
    times a call that does no harm twice (reads, mutations of handles, commits of a handle, what was refused before it
    began) is sent again where the server says when to come again; 0: such a call raises Unavailable at once.
    token: proves who calls; without, PORTLAYER_TOKEN, or none.
    """
    caller = Caller(vch=vch or os.environ.get("PORTLAYER_VCH") or DEFAULT_VCH)
    if components is not None:
        yield PortLayer(components, caller)
        return
    token = token or os.environ.get("PORTLAYER_TOKEN") or None
    async with RestClient(host or default_host(os.environ), retries=retries, token=token) as client:
        yield PortLayer(client.components, caller)


def default_host(environment: Mapping[str, str]) -> str:
    """PORTLAYER_HOST; else the socket in PORTLAYER_RUN; else the one of a port layer with its defaults."""
    run = environment.get("PORTLAYER_RUN") or DEFAULT_RUN
    return environment.get("PORTLAYER_HOST") or f"unix://{Path(run).absolute()}/portlayer.sock"
