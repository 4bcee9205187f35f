"""The port layer itself: what it is, tenants, events, small values for personas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from portlayer import __version__
from portlayer.components import keys
from portlayer.components.census import census
from portlayer.components.events import History
from portlayer.components.hosts import HostBook, HostRecord
from portlayer.components.lost import LostHosts
from portlayer.components.membership import Process
from portlayer.components.placing import taken_of
from portlayer.components.proofs import Proofs
from portlayer.components.records import Records, cut, decode
from portlayer.components.values import Values
from portlayer.components.vchs import Vchs
from portlayer.interfaces.service import Service
from portlayer.metrics import Family, Metrics, Read, exposition
from portlayer.model import grants as g
from portlayer.model import service as m
from portlayer.model.caller import Caller
from portlayer.model.errors import PortlayerError, Unavailable
from portlayer.model.events import NumberedEvent
from portlayer.model.execution import replace
from portlayer.model.storage import Nothing
from portlayer.model.topology import COMPONENTS, Part

PATIENCE_SECONDS = 5.0
"""For how long another process is asked how it is."""


class LocalService:
    """Implements interfaces.service.Service.

    substrates: features by name. alive: asks the substrate. stuck: counts the commits that are tried again. metrics:
    what the parts of this process have to say. others: the service of another process.
    """

    def __init__(
        self,
        records: Records,
        vchs: Vchs,
        proofs: Proofs,
        instance: str,
        part: Part,
        substrates: Mapping[str, Mapping[str, str]],
        alive: Callable[[], Awaitable[object]],
        stuck: Callable[[], Awaitable[int]],
        metrics: Metrics,
        book: HostBook,
        others: Callable[[Part], Service],
    ) -> None:
        self._records = records
        self._vchs = vchs
        self._tokens = proofs.tokens
        self._certificates = proofs.certificates
        self._store = records.store
        self._instance = instance
        self._part = part
        self._substrates = substrates
        self._alive = alive
        self._stuck = stuck
        self._metrics = metrics
        self._book = book
        self._lost = LostHosts(records)
        self._values = Values(records)
        self._others = others

    async def info(self, caller: Caller, request: Nothing) -> m.Info:  # noqa: ARG002
        processes = await self._processes()
        return m.Info(
            version=__version__,
            api_version="v1",
            instance=self._instance,
            components=tuple(self._where(name, [process.part for process in processes]) for name in COMPONENTS),
            substrates=tuple(
                m.SubstrateInfo(name=name, features=dict(features)) for name, features in self._substrates.items()
            ),
            store=self._store.name,
            hosts=tuple([await self._host(caller, host) for host in self._book.all()]),
            processes=tuple(_shown(process) for process in processes) if caller.role == "operator" else (),
        )

    async def _host(self, caller: Caller, host: HostRecord) -> m.HostInfo:
        state = self._book.state(host.name)
        info = m.HostInfo(name=host.name, state=state, substrate=host.substrate, labels=host.rules.labels)
        if caller.role != "operator":
            return info
        taken = await taken_of(self._store, host.name)
        return replace(
            info,
            cpus=host.room.cpus,
            memory_bytes=host.room.memory_bytes,
            committed_cpus=taken.cpus,
            committed_memory_bytes=taken.memory_bytes,
            containers=await self._store.count(keys.placed(host.name)),
            features=host.features,
            since=host.away_since or host.since,
        )

    async def _processes(self) -> list[Process]:
        """Those that live, by host and name."""
        rows = await self._store.range(keys.PROCESSES)
        return sorted((decode(Process, row.value) for row in rows), key=lambda one: (one.part.host, one.part.name))

    async def list_processes(self, caller: Caller, request: Nothing) -> m.Processes:  # noqa: ARG002
        found = await self._processes()
        return m.Processes(processes=tuple(await asyncio.gather(*(self._health(caller, one) for one in found))))

    async def _health(self, caller: Caller, process: Process) -> m.ProcessHealth:
        asked = self if process.part.name == self._part.name else self._others(process.part)
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                said = await asked.ready(caller, Nothing())
        except PortlayerError as error:
            said = m.Readiness(ready=False, checks={"reached": error.detail})
        except TimeoutError:
            said = m.Readiness(ready=False, checks={"reached": f"no answer in {PATIENCE_SECONDS:g} s"})
        took = time.monotonic() - began
        return m.ProcessHealth(process=_shown(process), ready=said.ready, checks=said.checks, seconds=took)

    def _where(self, component: str, parts: Sequence[Part]) -> m.ComponentInfo:
        having = [part for part in parts if component in part.components]
        places = ["local" if part.name == self._part.name else f"{part.name} on {part.host}" for part in having]
        return m.ComponentInfo(name=component, where=", ".join(places) or "nowhere")

    async def delete_host(self, caller: Caller, request: m.DeleteHost) -> None:  # noqa: ARG002
        await self._lost.remove(request.ref, force=request.force)
        await self._book.forgotten(request.ref)

    async def ready(self, caller: Caller, request: Nothing) -> m.Readiness:  # noqa: ARG002
        checks = {"store": await _said(self._store.revision), "substrate": await _said(self._alive)}
        ready = all(said == "ok" for said in checks.values())
        if checks["store"] == "ok":
            checks["commits"] = await _said(self._look_for_stuck)
        return m.Readiness(ready=ready, checks=checks)

    async def _look_for_stuck(self) -> None:
        if stuck := await self._stuck():
            raise Unavailable(f"{stuck} can neither be finished nor undone yet; see the log")

    async def metrics(self, caller: Caller, request: Nothing) -> str:  # noqa: ARG002
        revision, stuck = await self._store.revision(), await self._stuck()
        names = ("version", "store", "process", "host")
        values = (__version__, self._store.name, self._part.name, self._part.host)
        asked: list[Family] = [
            Read("portlayer_info", "What runs.", "gauge", lambda: [(values, 1)], names),
            Read(
                "portlayer_store_revision",
                "Transactions that the store has seen.",
                "counter",
                lambda: [((), revision)],
            ),
            Read(
                "portlayer_commits_stuck",
                "Commits that can neither be finished nor undone yet.",
                "gauge",
                lambda: [((), stuck)],
            ),
            *await census(self._store),
        ]
        return self._metrics.text() + "".join(exposition(family) for family in asked)

    async def list_vchs(self, caller: Caller, request: m.ListVchs) -> m.Vchs:  # noqa: ARG002
        page, after = cut(await self._vchs.all(), lambda vch: vch.name, request.limit, request.after)
        return m.Vchs(vchs=tuple([await self._vchs.view(record) for record in page]), next=after)

    async def get_vch(self, caller: Caller, request: m.VchRef) -> m.Vch:  # noqa: ARG002
        return await self._vchs.view((await self._vchs.find(request.ref)).record)

    async def create_vch(self, caller: Caller, request: m.CreateVch) -> m.Vch:
        return await self._vchs.create(caller, request)

    async def update_vch(self, caller: Caller, request: m.UpdateVch) -> m.Vch:  # noqa: ARG002
        return await self._vchs.update(request)

    async def delete_vch(self, caller: Caller, request: m.DeleteVch) -> None:  # noqa: ARG002
        await self._vchs.delete(request)

    async def create_token(self, caller: Caller, request: g.CreateToken) -> g.NewToken:
        return await self._tokens.create(caller, request)

    async def list_tokens(self, caller: Caller, request: g.ListGrants) -> g.Tokens:  # noqa: ARG002
        return await self._tokens.page(request)

    async def delete_token(self, caller: Caller, request: g.GrantRef) -> None:  # noqa: ARG002
        await self._tokens.grants.delete(request.id)

    async def create_certificate(self, caller: Caller, request: g.CreateCertificate) -> g.NewCertificate:
        return await self._certificates.create(caller, request)

    async def list_certificates(self, caller: Caller, request: g.ListGrants) -> g.Certificates:  # noqa: ARG002
        return await self._certificates.page(request)

    async def delete_certificate(self, caller: Caller, request: g.GrantRef) -> None:  # noqa: ARG002
        await self._certificates.grants.delete(request.id)

    async def authorities(self, caller: Caller, request: Nothing) -> g.Authorities:  # noqa: ARG002
        return await self._certificates.authorities()

    async def rotate_ca(self, caller: Caller, request: g.RotateCa) -> g.Authorities:  # noqa: ARG002
        return await self._certificates.rotate(request)

    async def events(self, caller: Caller, request: m.Subscribe) -> AsyncIterator[NumberedEvent]:
        tenant = await self._records.check_vch(caller.vch)

        async def there() -> bool:
            found = await self._records.tenants.read(caller.vch)
            return found is not None and found.id == tenant.id

        history = History(self._store, caller.vch, tenant.id, there)
        return history.follow(await history.start(request.since))

    async def get_kv(self, caller: Caller, request: m.KvRef) -> m.KvEntry:
        return await self._values.get(caller, request)

    async def put_kv(self, caller: Caller, request: m.PutKv) -> m.KvEntry:
        return await self._values.put(caller, request)

    async def delete_kv(self, caller: Caller, request: m.DeleteKv) -> None:
        await self._values.delete(caller, request)


async def _said(ask: Callable[[], Awaitable[object]]) -> str:
    """`ok`, or what is wrong."""
    try:
        await ask()
    except PortlayerError as error:
        return error.detail
    return "ok"


def _shown(process: Process) -> m.ProcessInfo:
    part = process.part
    return m.ProcessInfo(
        name=part.name,
        host=part.host,
        components=part.components,
        address=part.address,
        started_at=process.started_at,
        seen_at=process.seen_at,
        version=process.version,
    )
