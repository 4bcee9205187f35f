"""What a process knows of the hosts, and tells the others of its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager

from portlayer.components.commit.room import Room
from portlayer.components.hosts import HostBook, HostRecord, Presence
from portlayer.components.membership import Membership
from portlayer.components.placing import Placing
from portlayer.compose.settings import Settings
from portlayer.interfaces.store import Store
from portlayer.interfaces.substrate import Substrate
from portlayer.model.errors import Unsupported
from portlayer.model.hosts import HostRules
from portlayer.model.topology import Part


class Landscape:
    """The hosts, as the process that is *part* sees them, and its own, where it has execution."""

    def __init__(
        self,
        store: Store,
        substrate: Substrate,
        features: Mapping[str, str],
        settings: Settings,
        part: Part,
        membership: Membership,
    ) -> None:
        rules = settings.hosts.get(part.host, HostRules())
        facts = functools.partial(_facts, substrate, features, part.host, rules)
        self.book = HostBook(store)
        self.placing = Placing(store, self.book)
        self.room = Room(store, self.book, part.host)
        self._presence = Presence(store, self.book, part.host, facts if "execution" in part.components else None)
        self._membership = membership

    @contextlib.asynccontextmanager
    async def joined(self, *, alone: bool) -> AsyncIterator[None]:
        """This process lives, and knows who else does. alone: see Membership."""
        await self._presence.arrive()
        await self._membership.join(alone=alone)
        try:
            async with self.book.followed():
                yield
        finally:
            await self._membership.leave()

    def kept(self, reconciled: Callable[[], Awaitable[None]]) -> AbstractAsyncContextManager[None]:
        """The others are told of this host, and it is seen which of them are away."""
        return self._presence.kept(reconciled)


async def _facts(substrate: Substrate, features: Mapping[str, str], host: str, rules: HostRules) -> HostRecord:
    """What others may know of this host, as it is now."""
    lack = ""
    try:
        await substrate.storage.check_capacity()
    except Unsupported as error:
        lack = error.detail
    return HostRecord(
        name=host,
        substrate=substrate.name,
        features=dict(features),
        has=await substrate.capacity(),
        rules=rules,
        subnets=tuple(await substrate.network.reserved_subnets()),
        ipv6=await substrate.network.has_ipv6(),
        lacks_capacity=lack,
    )
