"""The components of one process, over any store and substrate.

A process has all four, or some: then the others are in other processes, and only what is wired here knows that.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from portlayer.company import Company
from portlayer.components.addresses import Pool
from portlayer.components.admission import Gate, tell_of
from portlayer.components.commit.engine import Engine
from portlayer.components.commit.figures import Figures
from portlayer.components.departures import Departures
from portlayer.components.drafts import Drafts
from portlayer.components.execution import LocalExecution
from portlayer.components.handles import HOST_KEY, Sealer, host_key
from portlayer.components.interaction import LocalInteraction
from portlayer.components.layers import Layers
from portlayer.components.making import Making
from portlayer.components.membership import Clock, Membership, boot_seconds
from portlayer.components.network import LocalNetwork
from portlayer.components.observer import Observer
from portlayer.components.ports import Ports
from portlayer.components.proofs import Proofs
from portlayer.components.quota import Quotas
from portlayer.components.reconciler import Reconciler
from portlayer.components.records import Records
from portlayer.components.replays import Replays
from portlayer.components.routing import Hosts, missing, routed
from portlayer.components.service import LocalService
from portlayer.components.storage import LocalStorage
from portlayer.components.vchs import Vchs, ensure_vch
from portlayer.components.written import Meter
from portlayer.compose.landscape import Landscape
from portlayer.compose.layers import StorageLayers
from portlayer.compose.peers import Peers
from portlayer.compose.process import tell_of_process
from portlayer.compose.settings import Settings
from portlayer.compose.tls import Certificates
from portlayer.compose.trust import Trust
from portlayer.failpoints import Failpoints
from portlayer.interfaces.authority import Authority
from portlayer.interfaces.components import Components
from portlayer.interfaces.store import Store
from portlayer.interfaces.substrate import Substrate
from portlayer.metrics import Metrics
from portlayer.model.base import now
from portlayer.model.bounds import Limits, commits_on
from portlayer.model.caller import DEFAULT_VCH
from portlayer.model.topology import Part
from portlayer.rest.passport import Passport
from portlayer.stores.measured import MeasuredStore
from portlayer.tracing import Tracer, Untraced


@dataclass(frozen=True)
class Assembled:
    """components: the whole port layer, as seen from this process. here: what of it this process has, for what others
    forward to it, and have vouched for with *passport*. authority: knows tokens and certificates. metrics, tracer:
    where all of this process tells what it does. certificates: its own, where some process has an https address."""

    components: Components
    here: Components
    passport: Passport
    authority: Authority
    metrics: Metrics
    tracer: Tracer
    certificates: Certificates | None = None


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
    part: Part = Part(),  # noqa: B008 - a frozen value
    alone: bool = True,
    clock: Clock = boot_seconds,
    tracer: Tracer = Untraced(),  # noqa: B008 - it has no state
) -> AsyncIterator[Assembled]:
    """The components of *part* over any store and substrate. state: directory for the host's key and for uploads.

    alone: no other process of this name lives; what such a one has left is swept. clock: seconds by which this process
    keeps its lease.
    """
    tell_of_process(metrics := Metrics())
    store = MeasuredStore(store, metrics)
    records = Records(store)
    await ensure_vch(records, DEFAULT_VCH, now())
    sealer = await Sealer.open(store, state / HOST_KEY)
    trust = Trust(store, host_key(state / HOST_KEY), part, settings)
    failpoints = failpoints or Failpoints.from_text(settings.failpoints)
    drafts = Drafts(records, sealer)
    quotas = Quotas(store, records.tenants)
    pool = Pool(store, quotas, settings.lease_seconds)
    making = Making(records, quotas, Replays(store, failpoints), failpoints)
    commits, imports, streams = _gates(settings.limits, metrics)
    membership = Membership(store, part, clock, settings.process_seconds)
    landscape = Landscape(store, substrate, features, settings, part, membership)
    figures, source = Figures(metrics, tracer), StorageLayers(part.host)
    layers = Layers(
        *(store, substrate.storage, source, state / "fetching", landscape.book, part.host, failpoints, metrics)
    )
    engine = Engine(
        *(
            records,
            quotas,
            substrate,
            membership,
            failpoints,
            settings.lease_seconds,
            commits,
            figures,
            landscape.room,
            layers,
        )
    )
    observer = Observer(records, engine, part.host)
    reconciler = Reconciler(records, engine, observer, settings.reconcile_seconds, events=settings.limits.events)
    reconciler.tell(metrics)
    execution = LocalExecution(
        *(drafts, pool, engine, observer, reconciler, landscape.book, landscape.placing),
        Meter(store, substrate.storage, part.host, settings.measure_seconds),
    )
    storage = LocalStorage(
        *(drafts, making, substrate.storage, state, imports, streams, landscape.placing),
        membership,
        settings.reconcile_seconds,
    )
    network = LocalNetwork(drafts, making, pool, Ports(store), substrate.network, landscape.book)
    proofs = Proofs(records, making.replays, trust.ca, settings.tls.clients, trust.secret)
    vchs = Vchs(making, proofs.grants)
    peers = Peers(store, part, trust.passport, trust.calling)
    have = frozenset(part.components)
    here = Components(
        service=LocalService(
            *(records, vchs, proofs, instance, part, {substrate.name: features}),
            substrate.execution.present if "execution" in have else store.revision,
            engine.recovery.abandoned,
            *(metrics, landscape.book, peers.service),
        ),
        storage=storage if "storage" in have else missing("storage"),
        execution=execution if "execution" in have else missing("execution"),
        network=network if "network" in have else missing("network"),
        interaction=LocalInteraction(drafts, substrate.interaction, streams, membership)
        if "interaction" in have
        else missing("interaction"),
    )
    parts = {
        "containers": ("execution", execution.forget_vch),
        "networks": ("network", network.forget_vch),
        "storage": ("storage", storage.forget_vch),
        "rest": ("storage", vchs.forget_vch),
    }
    departures = Departures(
        records.tenants, failpoints, {name: forget for name, (component, forget) in parts.items() if component in have}
    )
    async with contextlib.AsyncExitStack() as closing:
        await closing.enter_async_context(trust.kept())
        await closing.enter_async_context(landscape.joined(alone=alone))
        components = here
        closing.push_async_callback(peers.close)
        if settings.topology.has_several:
            await closing.enter_async_context(peers.followed())
            where = Hosts(records, sealer) if len(settings.topology.hosts) > 1 else None
            components = routed(here, have, part.host, where, peers, tracer)
        source.storage = components.storage
        if "execution" in have:
            closing.push_async_callback(execution.close)
            await execution.start(alone=alone)
        if "storage" in have:
            closing.push_async_callback(storage.close)
            await storage.start(alone=alone)
        await closing.enter_async_context(landscape.kept(reconciler.swept))
        await closing.enter_async_context(departures.attended())
        yield Assembled(components, here, trust.passport, proofs, metrics, tracer, trust.certificates)


def _gates(limits: Limits, metrics: Metrics) -> tuple[Gate, Gate, Gate]:
    """Of commits, imports and streams."""
    company = Company()
    commits = Gate("commits", limits.commits or commits_on(len(os.sched_getaffinity(0))), company)
    gates = commits, Gate("imports", limits.imports, company), Gate("streams", limits.streams)
    tell_of(gates, metrics)
    return gates
