"""The components of one process, over any store and substrate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from portlayer.components.addresses import Pool
from portlayer.components.admission import Gate, metrics
from portlayer.components.commit.engine import Engine
from portlayer.components.departures import Departures
from portlayer.components.drafts import Drafts
from portlayer.components.execution import LocalExecution
from portlayer.components.handles import Sealer
from portlayer.components.interaction import LocalInteraction
from portlayer.components.membership import Clock, Membership, boot_seconds
from portlayer.components.network import LocalNetwork
from portlayer.components.observer import Observer
from portlayer.components.ports import Ports
from portlayer.components.quota import Quotas
from portlayer.components.reconciler import Reconciler
from portlayer.components.records import Records
from portlayer.components.replays import Replays
from portlayer.components.service import LocalService
from portlayer.components.storage import LocalStorage
from portlayer.components.vchs import Vchs, ensure_vch
from portlayer.compose.settings import Settings
from portlayer.failpoints import Failpoints
from portlayer.interfaces.components import Components
from portlayer.interfaces.store import Store
from portlayer.interfaces.substrate import Substrate
from portlayer.model.base import now
from portlayer.model.bounds import commits_on
from portlayer.model.caller import DEFAULT_VCH
from portlayer.model.topology import LOCAL_HOST


@contextlib.asynccontextmanager
async def assemble(
    store: Store,
    substrate: Substrate,
    features: Mapping[str, str],
    state: Path,
    instance: str,
    settings: Settings,
    failpoints: Failpoints | None = None,
    *,
    host: str = LOCAL_HOST,
    alone: bool = True,
    clock: Clock = boot_seconds,
) -> AsyncIterator[Components]:
    """The components over any store and substrate. state: directory for the host's key and for uploads.

    host: whose substrate it is. alone: no other process of this host lives; what such a one has left is swept. clock:
    seconds by which this process keeps its lease.
    """
    records = Records(store)
    await ensure_vch(records, DEFAULT_VCH, now())
    sealer = await Sealer.open(store, state / "host.key")
    failpoints = failpoints or Failpoints.from_text(settings.failpoints)
    drafts = Drafts(records, sealer)
    quotas = Quotas(store, records.tenants)
    pool = Pool(store, quotas, settings.lease_seconds)
    replays = Replays(store, failpoints)
    limits = settings.limits
    commits = Gate("commits", limits.commits or commits_on(len(os.sched_getaffinity(0))))
    imports, streams = Gate("imports", limits.imports), Gate("streams", limits.streams)
    membership = Membership(store, host, clock)
    engine = Engine(records, quotas, substrate, membership, failpoints, settings.lease_seconds, commits)
    observer = Observer(records, engine, host)
    reconciler = Reconciler(records, engine, observer, settings.reconcile_seconds)
    execution = LocalExecution(drafts, pool, engine, observer, reconciler)
    storage = LocalStorage(drafts, quotas, replays, substrate.storage, state / "uploads", failpoints, imports)
    network = LocalNetwork(drafts, pool, quotas, Ports(store, host), replays, substrate.network, failpoints)
    vchs = Vchs(records, quotas, replays, failpoints)
    parts = {
        "containers": execution.forget_vch,
        "networks": network.forget_vch,
        "storage": storage.forget_vch,
        "rest": vchs.forget_vch,
    }
    await execution.start(alone=alone)
    if alone:
        await storage.start()
    try:
        async with Departures(records.tenants, failpoints, parts).attended():
            yield Components(
                service=LocalService(
                    *(records, vchs, instance, {substrate.name: features}, substrate.execution.present),
                    engine.recovery.abandoned,
                    lambda: [*reconciler.metrics(), *metrics((commits, imports, streams))],
                ),
                storage=storage,
                execution=execution,
                network=network,
                interaction=LocalInteraction(drafts, substrate.interaction, streams),
            )
    finally:
        await storage.close()
        await execution.close()
