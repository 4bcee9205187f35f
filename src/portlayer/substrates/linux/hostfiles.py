"""What makes a container's names known to it, the hosts and resolv.conf files, and to others, the places of its names:
pure functions over its spec. And writing files in place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from portlayer.model.execution import ContainerSpec
from portlayer.model.names import SHORT_ID
from portlayer.model.network import EndpointSpec
from portlayer.substrates.linux import files
from portlayer.substrates.linux.names.records import Place

HOSTS, RESOLV, HOSTNAME = NAMES = "hosts", "resolv.conf", "hostname"
"""What they are called, below /etc in the container."""
RESOLV_CONF = Path("/etc/resolv.conf")
_UPSTREAM = Path("/run/systemd/resolve/resolv.conf")

_LOCAL = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def hosts_file(container: ContainerSpec) -> str:
    """/etc/hosts: the loopback names, then the addresses of each bound endpoint with the hostname and the container's
    name."""
    names = " ".join(dict.fromkeys((container.hostname, container.name)))
    own = (address for endpoint in _bound(container) for address in endpoint.addresses)
    return _LOCAL + "".join(f"{address}\t{names}\n" for address in own)


def resolv_file(container: ContainerSpec, host_resolv: str) -> str:
    """/etc/resolv.conf: the gateways of the bound endpoints, where our name server listens; else the host's servers.

    host_resolv: the host's file. Its `search`, `domain` and `options` stay. Its name servers that a container cannot
    reach are left out: on loopback, and over IPv6.
    """
    kept = []
    servers = []
    options = []
    for line in host_resolv.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                servers.append(address)
            case ["search" | "domain", _, *_]:
                kept.append(line.strip())
            case ["options", *words]:
                options += words
    gateways = [endpoint.gateway for endpoint in _bound(container) if endpoint.gateway]
    if gateways:
        # A name without a dot is a container's before it is one of the search domains'.
        options = [*(word for word in options if not word.startswith("ndots:")), "ndots:0"]
    chosen = gateways or [address for address in servers if _reachable(address)]
    lines = [*kept, *([f"options {' '.join(options)}"] if options else [])]
    return "".join(f"{line}\n" for line in (*lines, *(f"nameserver {one}" for one in dict.fromkeys(chosen))))


def places(container: ContainerSpec) -> tuple[Place, ...]:
    """Where others find it: by its name, its aliases and its short id, at the addresses of its bound endpoints."""
    return tuple(
        Place(
            endpoint.network,
            endpoint.addresses,
            tuple(dict.fromkeys((container.name, *endpoint.aliases, container.id[:SHORT_ID]))),
        )
        for endpoint in _bound(container)
    )


def host_resolv_conf(path: Path = RESOLV_CONF, upstream: Path = _UPSTREAM) -> str:
    """The host's resolv.conf; that which systemd-resolved itself asks, where the usual one only names loopback."""
    for candidate in (path, upstream):
        text = _text(candidate)
        if any(_reachable(line.split()[1]) for line in text.splitlines() if line.startswith("nameserver ")):
            return text
    return _text(path)


def _text(path: Path) -> str:
    try:
        return files.content(str(path)).decode()
    except FileNotFoundError:
        return ""


def write_in_place(path: Path, content: str) -> None:
    """Write *content* to the same inode, which is bind-mounted into the container. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        data = content.encode()
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def _bound(container: ContainerSpec) -> Iterator[EndpointSpec]:
    return (endpoint for endpoint in container.endpoints.values() if endpoint.bound)


def _reachable(address: str) -> bool:
    try:
        return not IPv4Address(address).is_loopback
    except ValueError:
        return False
