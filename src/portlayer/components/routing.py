"""The way to a component that may be elsewhere: in this process, in another one, or one on each host.

A caller cannot tell, nor can the component's code. Most calls any process with the component can answer, for they need
the store alone; what touches a container's process goes to where that container is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from portlayer.components import keys
from portlayer.components.handles import Draft, Sealer
from portlayer.components.records import Records
from portlayer.interfaces.components import AT_THE_CONTAINER, Components, Relay
from portlayer.model.caller import Caller
from portlayer.model.changes import CreateContainer, fold
from portlayer.model.errors import InvalidArgument, NotFound, Unavailable
from portlayer.model.topology import COMPONENTS
from portlayer.tracing import Tracer

Method = Callable[..., Awaitable[Any]]

STREAMING_IN = frozenset({"import_image", "write_stdin"})
"""The calls with a body, which is there once."""


class Directory(Protocol):
    """Who else runs which component."""

    def find(self, component: str, host: str | None = None, besides: object = None) -> Components | None:
        """Some process that has *component*, on *host* where that is given, but not the one that *besides* leads to;
        None where none is known now."""

    async def refresh(self) -> None:
        """Look again who there is: what is known comes by itself, and may be a moment old."""


class Hosts:
    """Tells on which host a request's container is."""

    def __init__(self, records: Records, sealer: Sealer) -> None:
        self._records = records
        self._sealer = sealer

    async def of(self, caller: Caller, request: Any) -> str | None:
        """The host; None where any will do, for the container is not there any more. Raises what the component would
        for a reference or a handle that is no good."""
        reference = getattr(request, "ref", None)
        if reference is not None:
            record, _ = await self._records.find_container(caller.vch, reference)
            return record.spec.host
        tenant = await self._records.check_vch(caller.vch)
        handles = request.handles if request.handle is None else (request.handle,)
        drafts = [await self._sealer.open_draft(tenant.id, handle) for handle in handles]
        found = {host for draft in drafts if (host := await self._of_draft(caller.vch, draft)) is not None}
        if len(found) > 1:
            raise InvalidArgument(
                f"These containers are on the hosts {', '.join(sorted(found))}, and one commit is for one host: commit "
                "those of each host by themselves, or create all of them with the same `host`.",
                pointer="/handles",
            )
        return next(iter(found), None)

    async def named(self, host: str) -> str:
        """How an error names *host*. Raises NotFound for one that has been removed: nobody will answer for it."""
        if await self._records.store.get(keys.host(host)) is None:
            raise NotFound(f"Host {host} has been removed; create the container again.", kind="host", id=host)
        return f" on host {host}"

    async def _of_draft(self, vch: str, draft: Draft) -> str | None:
        if any(isinstance(change, CreateContainer) for change in draft.changes):
            return fold(None, draft.changes).host
        found = await self._records.container(vch, draft.container)
        return found[0].spec.host if found else None


class Routed:
    """A component by its name, with the methods of its Protocol, each `(caller, request, ...)`.

    local: the one in this process, on *host*, where there is one.
    """

    def __init__(
        self,
        component: str,
        local: object | None,
        host: str,
        hosts: Hosts | None,
        directory: Directory,
        tracer: Tracer,
    ) -> None:
        self._component = component
        self._local = local
        self._host = host
        self._hosts = hosts
        self._directory = directory
        self._tracer = tracer
        self._bound_to_hosts = AT_THE_CONTAINER.get(component, frozenset())

    def __getattr__(self, method: str) -> Method:
        async def routed(caller: Caller, request: Any, *more: Any) -> Any:
            hosts = self._hosts if method in self._bound_to_hosts else None
            host = None if hosts is None else await hosts.of(caller, request)
            return await self._asked(host, method, method, caller, request, *more)

        return routed

    async def relay(self, caller: Caller, method: str, message: Any) -> bytes:
        """Implements interfaces.components.Relay, where there is no local one."""
        answer: bytes = await self._asked(None, method, "relay", caller, message)
        return answer

    async def _asked(self, host: str | None, method: str, how: str, *what: Any) -> Any:
        """The answer of who answers for *host*. how: the name of the function to call there; method: what it does."""
        there = await self._at(host)
        try:
            return await self._ask(there, method, how, *what)
        except Unavailable as error:
            moved = error.facts.get("refused") and method not in STREAMING_IN and await self._moved(host, there)
            if not moved:
                await self._name_host(host, error)
                raise
        return await self._ask(moved, method, how, *what)

    async def _name_host(self, host: str | None, error: Unavailable) -> None:
        """Raise *error* anew, telling where the container is, if that is another host that nobody answers for; or
        NotFound for one that has been removed."""
        if host is not None and host != self._host and error.facts.get("refused"):
            where = await self._where(host)
            raise Unavailable(f"{error.detail} The container is{where}.", **error.facts) from error

    async def _where(self, host: str | None) -> str:
        return await self._hosts.named(host) if self._hosts is not None and host is not None else ""

    async def _ask(self, there: object, method: str, how: str, *what: Any) -> Any:
        ask = getattr(there, how)
        if there is self._local:
            return await ask(*what)
        with self._tracer.span(f"forward {self._component}/{method}", kind="client"):
            return await ask(*what)

    async def _at(self, host: str | None) -> object:
        """Who answers for *host*."""
        there = self._known(host)
        if there is None:
            await self._directory.refresh()
            there = self._known(host)
        if there is None:
            where = await self._where(host)
            raise Unavailable(f"No process runs {self._component}{where} now.", retry_after_seconds=1, refused=True)
        return there

    async def _moved(self, host: str | None, before: object) -> object | None:
        """Who answers now that *before* has refused; None where nobody else does. It may be dead, and still have its
        lease: what needs the store alone another one answers."""
        if before is self._local:
            return None
        await self._directory.refresh()
        return self._known(host, besides=before)

    def _known(self, host: str | None, besides: object = None) -> object | None:
        if self._local is not None and host in (None, self._host):
            return self._local
        there = self._directory.find(self._component, host, besides)
        return None if there is None else getattr(there, self._component)


class Elsewhere:
    """A component that this process does not have, for calls that another one forwarded in vain: there is one hop."""

    def __init__(self, component: str) -> None:
        self._component = component

    def __getattr__(self, method: str) -> Method:
        async def refuse(*_: Any) -> Any:
            raise Unavailable(f"{self._component} has just moved; come again.", retry_after_seconds=1, refused=True)

        return refuse


def routed(
    local: Components, have: frozenset[str], host: str, hosts: Hosts | None, directory: Directory, tracer: Tracer
) -> Components:
    """The four components of the whole port layer, as seen from a process that *have* some of them.

    hosts: None where there is one alone, so that nobody need look where a container is.
    """

    def way(component: str) -> Any:
        here = getattr(local, component) if component in have else None
        if here is not None and (hosts is None or component not in AT_THE_CONTAINER):
            return here
        return Routed(component, here, host, hosts, directory, tracer)

    ways = {component: way(component) for component in COMPONENTS}
    relays: dict[str, Relay] = {component: ways[component].relay for component in COMPONENTS if component not in have}
    return Components(service=local.service, **ways, relays=relays)


def missing(component: str) -> Any:
    """Stands for *component* in the bundle of a process that does not have it."""
    return cast("Any", Elsewhere(component))
