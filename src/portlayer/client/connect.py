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
from portlayer.model.errors import InvalidArgument
from portlayer.rest.client import RestClient
from portlayer.rest.client.connection import Contexts
from portlayer.rest.tls import Chain, client_side

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
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
) -> AsyncIterator[PortLayer]:
    """A port layer: the one at *host*, or *components* that are in this process.

    host: `unix:///path` or `https://host:port`; without, what the environment says (see `default_host`). Nothing is
    sent before the first call. vch: the tenant to speak for; without, PORTLAYER_VCH or `default`. retries: how many
    times a call that does no harm twice (reads, mutations of handles, commits of a handle, what was refused before it
    began) is sent again where the server says when to come again; 0: such a call raises Unavailable at once.
    token: proves who calls; without, PORTLAYER_TOKEN, or none. For https, files in PEM: ca, the only CAs to trust;
    without, PORTLAYER_CA, or the system's. cert and key prove who calls, too; without, PORTLAYER_CERT and
    PORTLAYER_KEY, or none; the key may be in the file of the cert.
    """
    caller = Caller(vch=vch or os.environ.get("PORTLAYER_VCH") or DEFAULT_VCH)
    if components is not None:
        yield PortLayer(components, caller)
        return
    token = token or os.environ.get("PORTLAYER_TOKEN") or None
    host = host or default_host(os.environ)
    contexts = _contexts(ca, cert, key) if host.startswith("https://") else None
    async with RestClient(host, contexts, retries=retries, token=token) as client:
        yield PortLayer(client.components, caller)


def _contexts(ca: str | Path | None, cert: str | Path | None, key: str | Path | None) -> Contexts:
    """What connections are opened with. Raises InvalidArgument where a file is not what it should be."""
    ca, cert, key = ca or _file("CA"), cert or _file("CERT"), key or _file("KEY")
    if key and not cert:
        raise InvalidArgument("PORTLAYER_KEY names the key of a certificate; PORTLAYER_CERT has to name that.")
    own = Chain(certificates=_read(cert), key=_read(key) if key else b"") if cert else None
    context = client_side(_read(ca).decode("ascii", "replace") if ca else None, own)
    return lambda: context


def _file(name: str) -> str | None:
    return os.environ.get(f"PORTLAYER_{name}") or None


def _read(file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{file} cannot be read: {error.strerror}.") from None


def default_host(environment: Mapping[str, str]) -> str:
    """PORTLAYER_HOST; else the socket in PORTLAYER_RUN; else the one of a port layer with its defaults."""
    run = environment.get("PORTLAYER_RUN") or DEFAULT_RUN
    return environment.get("PORTLAYER_HOST") or f"unix://{Path(run).absolute()}/portlayer.sock"
