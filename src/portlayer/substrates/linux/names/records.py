"""The files that the name server reads, in the directory `names` of an instance's tmpfs.

names/
├── networks/<network id>        `Network`: where to listen, and whom else to ask
├── incarnations/<incarnation>   `Incarnation`: under what names it is found in which network
├── socket                       where the server tells that it has read all of this
└── log                          what went wrong in the server

Each is written beside its directory and renamed into it. Whether an incarnation runs stands elsewhere already: it was
let go (`live/incarnations/<incarnation>/released`) and has not ended (`live/exits/<incarnation>`). So neither a start
nor an exit has to write here, and an exit counts also while no server of ours is there to see it.
"""

# Paths are strings here: pathlib would double the name server's memory, and this is on the way of every start.
# ruff: noqa: PTH104, PTH108
from __future__ import annotations

import contextlib
import os
import socket

from portlayer.substrates.linux import files

NETWORKS, INCARNATIONS, SOCKET, LOG = "networks", "incarnations", "socket", "log"


class Network:
    """name: that of the network. bridge, index: the link. gateways: our addresses. servers: resolvers of its own."""

    __slots__ = ("bridge", "gateways", "index", "internal", "name", "servers")

    def __init__(
        self,
        name: str,
        bridge: str,
        index: int,
        gateways: tuple[str, ...],
        servers: tuple[str, ...] = (),
        *,
        internal: bool = False,
    ) -> None:
        self.name = name
        self.bridge = bridge
        self.index = index
        self.gateways = gateways
        self.servers = servers
        self.internal = internal

    def text(self) -> str:
        """As it stands in its file."""
        link = f"{self.bridge} {self.index} {int(self.internal)}"
        return f"{self.name}\n{link}\n{' '.join(self.gateways)}\n{' '.join(self.servers)}\n"


class Place:
    """An endpoint: addresses of either family; names: that of its container first, then aliases and the short id."""

    __slots__ = ("addresses", "names", "network")

    def __init__(self, network: str, addresses: tuple[str, ...], names: tuple[str, ...]) -> None:
        self.network = network
        self.addresses = addresses
        self.names = names


Incarnation = tuple[Place, ...]


def read_network(text: str) -> Network:
    """Undo `Network.text`."""
    name, link, gateways, servers = text.splitlines()
    bridge, index, internal = link.split(" ")
    return Network(
        name, bridge, int(index), tuple(gateways.split()), tuple(servers.split()), internal=bool(int(internal))
    )


def incarnation_text(places: Incarnation) -> str:
    """A line for each place."""
    return "".join(f"{one.network} {','.join(one.addresses)} {','.join(one.names)}\n" for one in places)


def read_incarnation(text: str) -> Incarnation:
    """Undo `incarnation_text`."""
    lines = (line.split(" ") for line in text.splitlines())
    return tuple(
        Place(network, tuple(addresses.split(",")), tuple(names.split(","))) for network, addresses, names in lines
    )


def write(directory: str, kind: str, name: str, text: str) -> None:
    """The file *name* of *kind* says *text*, whole at once."""
    fresh = f"{directory}/{kind}-{name}"
    files.write(fresh, text.encode(), os.O_CREAT | os.O_TRUNC, 0o600)
    os.rename(fresh, f"{directory}/{kind}/{name}")


def remove(directory: str, kind: str, name: str) -> None:
    """Undo `write`."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/{kind}/{name}")


def read(directory: str, kind: str, name: str) -> str | None:
    """What the file says; None where there is none."""
    try:
        return files.content(f"{directory}/{kind}/{name}").decode()
    except FileNotFoundError:
        return None


def packed(address: str) -> bytes:
    """4 or 16 bytes."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
