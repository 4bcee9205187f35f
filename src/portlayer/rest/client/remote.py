"""What all components over REST have in common."""

from __future__ import annotations

from portlayer.model.caller import Caller
from portlayer.rest.client.connection import Connection
from portlayer.rest.message import Message


class Remote:
    """A component at the other end of *connection*."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def relay(self, caller: Caller, message: Message) -> bytes:
        """Pass on a call that somebody else has made, as it came; the answer, as it comes."""
        return await self._connection.relay(caller, message)
