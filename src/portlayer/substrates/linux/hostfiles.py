"""The hosts and resolv.conf files of a container: pure functions over its spec, and writing them in place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from portlayer.model.execution import ContainerSpec
from portlayer.model.network import EndpointSpec, NetworkSpec

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


def resolv_file(container: ContainerSpec, networks: Mapping[str, NetworkSpec], host_resolv: str) -> str:
    """/etc/resolv.conf: the name servers of the bound endpoints' networks (ids to *networks*), else those of the host.

    host_resolv: the host's file. Its `search`, `domain` and `options` stay. Its name servers that a container cannot
    reach are left out: on loopback, and over IPv6.
    """
    kept = []
    servers = []
    for line in host_resolv.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                servers.append(address)
            case ["search" | "domain" | "options", _, *_]:
                kept.append(line.strip())
    own = [address for endpoint in _bound(container) for address in networks[endpoint.network].dns]
    chosen = own or [address for address in servers if _reachable(address)]
    return "".join(f"{line}\n" for line in (*kept, *(f"nameserver {address}" for address in dict.fromkeys(chosen))))


def host_resolv_conf(path: Path = RESOLV_CONF, upstream: Path = _UPSTREAM) -> str:
    """The host's resolv.conf; that which systemd-resolved itself asks, where the usual one only names loopback."""
    for candidate in (path, upstream):
        text = candidate.read_text() if candidate.exists() else ""
        if any(_reachable(line.split()[1]) for line in text.splitlines() if line.startswith("nameserver ")):
            return text
    return path.read_text() if path.exists() else ""


def write_in_place(path: Path, content: str) -> None:
    """Write *content* to the same inode, which is bind-mounted into the container; made where it is not there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
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
