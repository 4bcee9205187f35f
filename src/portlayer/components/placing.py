"""Where a new container goes. It is a proposal: nothing is reserved before the commit, which looks again
(commit/room.py).

    /placed/<host>/<vch>/<container>   Capacity: what the container's limits take of the host
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from portlayer.components import keys
from portlayer.components.hosts import HostBook, HostRecord
from portlayer.components.records import decode
from portlayer.interfaces.store import Store
from portlayer.model.errors import InvalidArgument, NotFound, Unavailable, Unsupported
from portlayer.model.execution import ContainerSpec, Create, Placement, Resources
from portlayer.model.hosts import Candidate, Capacity, check_size, choose, fits, has_labels
from portlayer.model.names import check_labels, check_name

AGAIN_SECONDS = 5


class Placing:
    """Chooses hosts, from what *book* knows of them."""

    def __init__(self, store: Store, book: HostBook) -> None:
        self._store = store
        self._book = book

    async def place(self, request: Create) -> HostRecord:
        """The host for a new container.

        Raises:
            NotFound: no such host. Unsupported: no host has this substrate. InvalidArgument: no host is so large, or
            has these labels. ResourceExhausted: none has room. Unavailable: those that would do are away.
        """
        if request.host is not None:
            return self._named(request, request.host)
        placement = request.placement or Placement()
        check_labels(placement.labels, "/placement/labels")
        hosts = self._suitable(request, placement)
        check_size(request.resources, [host.room for host in hosts], "The largest host that would do has")
        living = [host for host in hosts if self._book.state(host.name) != "away"]
        if not living:
            names = ", ".join(host.name for host in hosts)
            raise Unavailable(f"The hosts that would do are away: {names}.", retry_after_seconds=AGAIN_SECONDS)
        name = living[0].name
        if len(living) > 1 or request.placement is not None:
            name = await self._choice(living, request, placement)
        return next(host for host in living if host.name == name)

    async def _choice(self, living: Sequence[HostRecord], request: Create, placement: Placement) -> str:
        """One of those that are equally good, so that callers who ask at once are not all sent to the same."""
        candidates = await self._candidates(living, request.resources, placement)
        if request.placement is None and not any(fits(request.resources, one.room, one.taken) for one in candidates):
            bounded = {host.name for host in living if is_bounded(host)}
            lenient = [one for one in candidates if one.name not in bounded]
            if lenient:  # no room was asked for, and these hold nobody to it
                return random.choice(choose(placement, Resources(), lenient))  # noqa: S311
        return random.choice(choose(placement, request.resources, candidates))  # noqa: S311

    def _named(self, request: Create, name: str) -> HostRecord:
        if request.placement is not None:
            raise InvalidArgument("Give either host or placement.", pointer="/placement")
        host = self.known(check_name(name, "/host"))
        if request.substrate not in (None, host.substrate):
            raise Unsupported(
                f"Substrate {request.substrate!r} is not on host {name}; there is {host.substrate!r}.",
                option="substrate",
                pointer="/substrate",
            )
        check_size(request.resources, [host.room], f"Host {name} has")
        return host

    def known(self, name: str) -> HostRecord:
        """The host called *name*. Raises NotFound, and Unavailable where it is away."""
        host = self._book.get(name)
        if host is None:
            raise NotFound(f"There is no host called {name!r}.", kind="host", id=name)
        if self._book.state(name) == "away":
            raise self._book.away(name)
        return host

    def _suitable(self, request: Create, placement: Placement) -> list[HostRecord]:
        hosts = [host for host in self._book.all() if not host.leaving]
        if not hosts:
            raise Unavailable("No host is known yet.", retry_after_seconds=1)
        having = [host for host in hosts if request.substrate in (None, host.substrate)]
        if not having:
            there = " and ".join(sorted({repr(host.substrate) for host in hosts}))
            raise Unsupported(
                f"Substrate {request.substrate!r} is not configured here; there is {there}.",
                option="substrate",
                pointer="/substrate",
            )
        labelled = [host for host in having if has_labels(host.rules.labels, placement.labels)]
        if not labelled:
            wanted = ", ".join(f"{key}={value}" for key, value in placement.labels.items())
            raise InvalidArgument(f"No host has the labels {wanted}.", pointer="/placement/labels")
        return labelled

    async def _candidates(
        self, hosts: Sequence[HostRecord], resources: Resources, placement: Placement
    ) -> list[Candidate]:
        """What is taken is added up only where it is asked for."""
        adding = placement.strategy == "pack" or share(resources) != Capacity()
        found = []
        for host in hosts:
            taken = await taken_of(self._store, host.name) if adding else Capacity()
            count = await self._store.count(keys.placed(host.name))
            labels = host.rules.labels
            found.append(Candidate(name=host.name, labels=labels, room=host.room, taken=taken, containers=count))
        return found

    def check(self, host: str, resources: Resources) -> None:
        """Raises InvalidArgument where *host* is smaller than that."""
        record = self._book.get(host)
        if record is not None:
            check_size(resources, [record.room], f"Host {host} has")

    def may_go(self, host: str, spec: ContainerSpec) -> bool:
        """Whether *host* would do for a container that was placed elsewhere. Raises NotFound, Unavailable."""
        record = self.known(host)
        wanted = spec.placement.labels if spec.placement else {}
        return record.substrate == spec.substrate and has_labels(record.rules.labels, wanted)

    def is_there(self, host: str) -> bool:
        """Whether *host* is known, and not away."""
        return self._book.get(host) is not None and self._book.state(host) != "away"

    def check_capacity(self, host: str) -> None:
        """Raises Unsupported where volumes on *host* cannot have a capacity."""
        lack = self.known(host).lacks_capacity
        if lack:
            raise Unsupported(f"On host {host}: {lack}", option="capacityBytes", pointer="/capacityBytes")


def is_bounded(host: HostRecord) -> bool:
    """Whether every commit is held to the host's room."""
    return host.rules.cpus is not None or host.rules.memory_bytes is not None


def share(resources: Resources) -> Capacity:
    """What *resources* take of a host."""
    return Capacity(cpus=resources.cpus or 0, memory_bytes=resources.memory_bytes or 0)


async def taken_of(store: Store, host: str, besides: Sequence[str] = ()) -> Capacity:
    """What the containers of *host* take, those of commits under way too."""
    rows = await store.range(keys.placed(host))
    shares = [decode(Capacity, row.value) for row in rows if keys.last(row.key) not in besides]
    return Capacity(cpus=sum(one.cpus for one in shares), memory_bytes=sum(one.memory_bytes for one in shares))
