"""A port layer somewhere else, behind the same Protocols as one in this process."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from portlayer.interfaces.components import Components
from portlayer.rest.client.connection import Connection, Contexts
from portlayer.rest.client.execution import RestExecution
from portlayer.rest.client.interaction import RestInteraction
from portlayer.rest.client.network import RestNetwork
from portlayer.rest.client.service import RestService
from portlayer.rest.client.storage import RestStorage
from portlayer.rest.passport import Passport


class RestClient:
    """The components behind *address*: `unix:///path/of/socket` or `https://host:port`. Connects at the first call.

    contexts, passport, name, retries, token: see Connection. No retries here, since a caller in front of us has its own
    patience. components: the same, as the bundle that a server or another layer takes.
    """

    def __init__(
        self,
        address: str,
        contexts: Contexts | None = None,
        *,
        passport: Passport | None = None,
        name: str | None = None,
        retries: int = 0,
        token: str | None = None,
    ) -> None:
        self._connection = Connection(address, contexts, passport=passport, name=name, retries=retries, token=token)
        self.service = RestService(self._connection)
        self.storage = RestStorage(self._connection)
        self.execution = RestExecution(self._connection)
        self.network = RestNetwork(self._connection)
        self.interaction = RestInteraction(self._connection)
        self.components = Components(self.service, self.storage, self.execution, self.network, self.interaction)

    def give_up(self) -> None:
        """Wait no longer for what was asked: the other end is known to be gone. Streams go on."""
        self._connection.give_up()

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
