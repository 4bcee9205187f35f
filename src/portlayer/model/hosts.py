"""Hosts: what each has, and which of them a new container goes to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument, ResourceExhausted
from portlayer.model.execution import Placement, Resources


class Capacity(Value):
    """What there is of a host, or is taken of it: cores, and bytes of memory."""

    cpus: float = 0
    memory_bytes: int = 0


class HostRules(Value):
    """What the configuration says of a host, as `[hosts.<name>]`. labels: for placement. cpus, memory_bytes: the most
    that the limits of its containers may come to, and every commit holds to it; None: what the machine has, which
    commits hold to for containers that asked for a placement."""

    labels: dict[str, str] = {}
    cpus: float | None = None
    memory_bytes: int | None = None


class Candidate(Value):
    """A host that a container may go to. room: for the limits of its containers; taken: of that; containers: how many
    it has."""

    name: str
    labels: dict[str, str]
    room: Capacity
    taken: Capacity
    containers: int


def has_labels(labels: dict[str, str], wanted: dict[str, str]) -> bool:
    """Whether all that is *wanted* is among *labels*."""
    return all(labels.get(key) == value for key, value in wanted.items())


def check_size(resources: Resources, rooms: Iterable[Capacity], where: str) -> None:
    """Raises InvalidArgument where *resources* are more than any of *rooms*, even of an empty host. where: as in
    `host west has`."""
    most = list(rooms)
    for wanted, biggest, name in (
        (resources.cpus, max(room.cpus for room in most), "cpus"),
        (resources.memory_bytes, max(room.memory_bytes for room in most), "memoryBytes"),
    ):
        if wanted is not None and wanted > biggest:
            raise InvalidArgument(f"{where} {biggest:.12g} {name}; ask for less.", pointer=f"/resources/{name}")


def fits(resources: Resources, room: Capacity, taken: Capacity) -> bool:
    """Whether *resources* have room beside what is *taken*; what has no limit always has."""
    cpus = resources.cpus is None or round(taken.cpus + resources.cpus, 6) <= room.cpus
    memory = resources.memory_bytes is None or taken.memory_bytes + resources.memory_bytes <= room.memory_bytes
    return cpus and memory


def choose(placement: Placement, resources: Resources, hosts: Sequence[Candidate]) -> list[str]:
    """The hosts that are equally good for a container with *resources*; there is at least one.

    spread: those with the fewest containers. pack: the fullest that have room, then those with the most containers.

    Raises:
        ResourceExhausted: none has room.
    """
    fitting = [host for host in hosts if fits(resources, host.room, host.taken)]
    if not fitting:
        raise no_room(resources, "None of the hosts has", "remove something, or ask for less")
    rank = _fullness if placement.strategy == "pack" else _emptiness
    best = max(rank(host) for host in fitting)
    return [host.name for host in fitting if rank(host) == best]


def no_room(resources: Resources, where: str, remedy: str) -> ResourceExhausted:
    """The refusal: what was asked for; what others have is not told."""
    wanted = [f"{resources.cpus:g} cpus"] if resources.cpus is not None else []
    if resources.memory_bytes is not None:
        wanted.append(f"{resources.memory_bytes} bytes of memory")
    return ResourceExhausted(f"{where} room left for {' and '.join(wanted)}; {remedy}.", resource="room")


def _emptiness(host: Candidate) -> tuple[float, ...]:
    return (-host.containers,)


def _fullness(host: Candidate) -> tuple[float, ...]:
    shares = (host.taken.cpus / host.room.cpus, host.taken.memory_bytes / host.room.memory_bytes)
    return (max(shares), host.containers)
