"""Who runs where: the processes that make up one port layer.

One file says it for all of them, and each is started with its own name:

    [processes.west]
    host = "west"                              # default: "local"
    components = ["execution", "interaction"]
    address = "https://10.0.0.2:7443"          # where the others reach it; default: its unix socket
    listen = "https://0.0.0.0:7443"            # where it listens, if that is not its address

Execution and interaction touch a host's processes: a host has one of each, or neither. There is one storage. Network
needs the store alone, so any number of processes may have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from portlayer.model.base import Value
from portlayer.model.errors import InvalidArgument
from portlayer.model.names import check_name

COMPONENTS = ("storage", "execution", "network", "interaction")
LOCAL_HOST = "local"
HTTPS = "https://"
ON_HOSTS = ("execution", "interaction")
"""Components of which each host has its own."""


class Part(Value):
    """One process. host: name of the machine whose substrate it shares. address: `unix:///path` or `https://host:port`;
    empty means the socket in its run directory, which it has in any case. listen: for an https address, `https://` with
    what it listens at; empty means the address."""

    name: str = "main"
    host: str = LOCAL_HOST
    components: tuple[str, ...] = COMPONENTS
    address: str = ""
    listen: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether it is reached over TLS."""
        return self.address.startswith(HTTPS)


class _Entry(Value):
    host: str = LOCAL_HOST
    components: tuple[str, ...] = COMPONENTS
    address: str = ""
    listen: str = ""


class Topology(Value):
    """All processes, by name."""

    parts: tuple[Part, ...] = (Part(),)

    def part(self, name: str | None) -> Part:
        """The process called *name*; the only one where there is one alone and no name is given."""
        if name is None and len(self.parts) == 1:
            return self.parts[0]
        known = ", ".join(part.name for part in self.parts)
        if name is None:
            raise InvalidArgument(f"The topology has the processes {known}; say which one this is.")
        for part in self.parts:
            if part.name == name:
                return part
        raise InvalidArgument(f"The topology has no process {name!r}; it has {known}.")

    @property
    def has_several(self) -> bool:
        """Whether there is more than one process."""
        return len(self.parts) > 1

    @property
    def has_remote(self) -> bool:
        """Whether some process is reached over TLS."""
        return any(part.is_remote for part in self.parts)

    @property
    def hosts(self) -> frozenset[str]:
        """The machines."""
        return frozenset(part.host for part in self.parts)


def place(address: str) -> tuple[str, int] | None:
    """Host and port of `https://host:port`; None where it is no such thing."""
    if not address.startswith(HTTPS) or not address.isascii():
        return None
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    whole = parts.netloc + parts.path + parts.query + parts.fragment
    return (host, port) if host and port and whole.rstrip("/") == parts.netloc and "@" not in whole else None


def read_topology(processes: Any) -> Topology:
    """The topology in the table `processes` of a TOML file. Raises InvalidArgument, which says what does not fit."""
    try:
        entries = msgspec.convert(processes, dict[str, _Entry])
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"The topology cannot be read: {error}.") from None
    parts = tuple(
        Part(name=check_name(name), **msgspec.structs.asdict(entry)) for name, entry in sorted(entries.items())
    )
    for problem in _problems(parts):
        raise InvalidArgument(f"The topology does not work: {problem}.")
    return Topology(parts=parts)


def _problems(parts: tuple[Part, ...]) -> Iterator[str]:
    if not parts:
        yield "it has no process"
    for part in parts:
        check_name(part.host)
        unknown = set(part.components) - set(COMPONENTS)
        if unknown or len(set(part.components)) < len(part.components):
            yield f"process {part.name} must have each of {', '.join(COMPONENTS)} once at the most"
        if part.address and not part.address.startswith("unix:///") and place(part.address) is None:
            yield f"address {part.address!r} of process {part.name} is neither unix:///path nor https://host:port"
        if part.listen and (not part.is_remote or place(part.listen) is None):
            yield f"listen of process {part.name} goes with an https address, and is https://host:port itself"
    everywhere = Counter(component for part in parts for component in part.components)
    for component in COMPONENTS:
        if not everywhere[component]:
            yield f"no process has {component}"
    if everywhere["storage"] > 1:
        yield "two processes have storage, whose layers are in one place"
    here = Counter((part.host, component) for part in parts for component in part.components if component in ON_HOSTS)
    for (host, component), count in sorted(here.items()):
        if count > 1:
            yield f"host {host} has {component} twice"
        if any(not here[host, other] for other in ON_HOSTS):
            yield f"host {host} has {component} without the other of {' and '.join(ON_HOSTS)}"
    if len({part.host for part in parts}) > 1:
        for part in parts:
            if part.address.startswith("unix:") or not part.address:
                yield f"process {part.name} needs an https address, for there are several hosts"
