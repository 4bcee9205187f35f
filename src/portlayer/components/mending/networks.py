"""Networks of this host, and the links of its containers, that somebody has taken away."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from portlayer.components import keys
from portlayer.components.mending.common import Container, Mending
from portlayer.components.observer import LIVE
from portlayer.components.records import event, event_puts
from portlayer.interfaces.store import Transaction
from portlayer.interfaces.substrate import Link
from portlayer.model.errors import PortlayerError
from portlayer.model.network import NetworkSpec

log = logging.getLogger(__name__)


class Networks:
    """Makes them again."""

    def __init__(self, mending: Mending) -> None:
        self._mending = mending
        self._records = mending.records
        self._engine = mending.engine
        self._on = mending.on

    async def check(self, batch: Sequence[Container], checked: set[str]) -> None:
        """Networks and links of the containers in *batch*. checked: networks that this sweep has looked at."""
        wanted: dict[str, tuple[Container, Link]] = {}
        specs: dict[str, NetworkSpec] = {}
        for one in batch:
            bound = [endpoint for endpoint in one.spec.endpoints.values() if endpoint.bound]
            if not one.live or not bound or self._engine.locks.held(one.spec.id):
                continue
            if (await self._on.execution.observe(one.spec.id, one.live)).state in ("exited", "absent"):
                continue
            for endpoint in bound:
                published = endpoint.publishes and one.observed.state in LIVE
                wanted[endpoint.id] = (
                    one,
                    Link(container=one.spec.id, incarnation=one.live, endpoint=endpoint, published=published),
                )
                if endpoint.network not in specs:
                    spec = await self._records.read(NetworkSpec, keys.entity(one.vch, "networks", endpoint.network))
                    if spec is not None:
                        specs[spec.id] = spec
        try:
            await self._check_networks(batch, [spec for spec in specs.values() if spec.id not in checked])
            checked |= specs.keys()
            links = [link for _, link in wanted.values() if link.endpoint.network in specs]
            missing = await self._on.network.missing((), links) if links else None
        except PortlayerError as error:
            log.warning("networks could not be looked at or mended: %s", error)
            return
        for lost in missing.links if missing else ():
            one, link = wanted[lost]
            await self._mending.attempt(one, self._plug_again(one, link, specs[link.endpoint.network]))

    async def _check_networks(self, batch: Sequence[Container], specs: Sequence[NetworkSpec]) -> None:
        if not specs:
            return
        missing = await self._on.network.missing(specs, ())
        for spec in specs:
            if spec.id in missing.networks:
                log.warning("network %s is not whole on this host; it is made again", spec.id)
                await self._on.network.make_network(spec)
                self._mending.repairs["network"] += 1
                told = event("network", "repaired", spec.id, spec.name, host=self._engine.host)
                await self._mending.store.apply(Transaction(ops=event_puts(batch[0].vch, told), durable=False))

    async def _plug_again(self, one: Container, link: Link, network: NetworkSpec) -> None:
        """A new link with the same address."""
        async with self._engine.unless_busy(one.vch, one.spec.id) as found:
            record = found.committed if found is not None else None
            if found is None or record is None or found.observed != one.observed:
                return
            if record.spec.endpoints.get(network.id) != link.endpoint:
                return
            if not (await self._on.network.missing((), [link])).links:
                return
            await self._on.network.plug(one.spec.id, one.live, link.endpoint, network)
            if link.published:
                await self._on.network.publish(one.spec.id, link.endpoint)
        await self._mending.mended(one, "link", network=network.name)
