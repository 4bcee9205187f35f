"""What the network driver does to this host, step by step. All of it blocks; one thread at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from typing import NamedTuple

from portlayer.interfaces.substrate import Link as Wanted
from portlayer.model.addresses import mac_of
from portlayer.model.network import EndpointSpec, NetworkSpec, Subnet
from portlayer.substrates.linux import files, links, sysctls
from portlayer.substrates.linux.announce import Announcer
from portlayer.substrates.linux.firewall import Firewall
from portlayer.substrates.linux.links import Interface, Link
from portlayer.substrates.linux.names.keeper import Keeper
from portlayer.substrates.linux.names.records import Network as Named
from portlayer.substrates.linux.netlink import Netlink, NetlinkError
from portlayer.substrates.linux.netns import HomeNamespace
from portlayer.substrates.linux.paths import Paths

_AT_ONCE = 16  # twice as many answers fit into a socket's buffer
_LOOPBACK = 1  # the index of lo, in every namespace
_READY_SECONDS, _POLL_SECONDS = 10.0, 0.001
_GONE = {errno.ENODEV, errno.EINVAL}  # a master that is not there is EINVAL
_MATCHES_ALL_OR_HALF = 1  # a route as wide as this says nothing of what the host uses


class Inside(NamedTuple):
    """The network namespace of a process, with a socket in it."""

    namespace: int
    netlink: Netlink

    def close(self) -> None:
        """The namespace of no process ends with this."""
        self.netlink.close()
        os.close(self.namespace)


class Wiring:
    """The links and the firewall of one instance. Every call is idempotent; OSError and NftError come out of it."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._prefix = f"pl{paths.instance[:4]}"
        self._group = int(paths.instance, 16)
        self._alias = f"portlayer:{paths.instance}:"
        self._bridges: dict[str, int] = {}
        self.names = Keeper(paths)
        with ExitStack() as stack:
            self._firewall = Firewall(paths.instance, ipv6=sysctls.has_ipv6())
            stack.callback(self._firewall.close)
            self._home = HomeNamespace()
            stack.callback(self._home.close)
            self._netlink = stack.enter_context(Netlink())
            self._announcer = Announcer()
            stack.callback(self._announcer.close)
            stack.callback(self.names.release)
            self._nftables = self._firewall.load()
            self._open = stack.pop_all()

    def close(self) -> None:
        self._open.close()

    def features(self) -> dict[str, str]:
        """Facts for people; `forwarding` where the firewall of somebody else stands in the way."""
        facts = {"nftables": self._nftables, "ipv6": "yes" if sysctls.has_ipv6() else "no: off in the kernel"}
        if blockers := self._firewall.blockers("forward"):
            facts["forwarding"] = (
                f"blocked by {', '.join(blockers)} (policy drop): let the interfaces {self._prefix}* pass there"
            )
        if blockers := self._firewall.blockers("input"):
            facts["names"] = (
                f"may be blocked by {', '.join(blockers)} (policy drop): let port 53 in from {self._prefix}*"
            )
        return facts

    def knows(self, network: str) -> bool:
        """Whether this object has made network id *network*; a dictionary look-up, from any thread."""
        return network in self._bridges

    def make_network(self, network: NetworkSpec) -> int:
        """The index of its bridge; nothing is looked at where this object made it before."""
        index = self._bridges.get(network.id)
        if index is None:
            index = self._bridges[network.id] = self._make_bridge(network)
        return index

    def links_of(self, network: str) -> list[str]:
        """The names of the links of network id *network*, to be deleted; its bridge last."""
        self._bridges.pop(network, None)
        name, alias = self._bridge_name(network), self._alias + network
        bridge = next((link for link in self._ours() if link.name == name and link.alias in {"", alias}), None)
        if bridge is None:
            return []
        return [*(link.name for link in self._links() if link.master == bridge.index), name]

    def close_network(self, network: str) -> None:
        """Take network id *network*, whose links are gone, out of firewall and name server; these go with the last."""
        self._firewall.close_network(network, self._bridge_name(network))
        self.names.close(network)
        if not self.networks():
            self.close_all()

    def networks(self) -> list[str]:
        return [link.alias.removeprefix(self._alias) for link in self._ours() if link.alias.startswith(self._alias)]

    def missing_networks(self, networks: Sequence[NetworkSpec]) -> list[str]:
        """The ids of those that lack bridge, names, or part of the firewall; what was known of these is forgotten."""
        bridges = {link.name: link for link in self._ours()}
        walled = self._firewall.bridges()
        named = self.names.served(network.id for network in networks)
        lost = []
        for network in networks:
            name = self._bridge_name(network.id)
            bridge = bridges.get(name)
            known = self._bridges.get(network.id)
            if bridge is None or known not in {None, bridge.index} or name not in walled or network.id not in named:
                self._bridges.pop(network.id, None)
                lost.append(network.id)
        return lost

    def missing_links(self, wanted: Sequence[Wanted]) -> list[str]:
        """The endpoint ids of those without a veth in their network's bridge, or without a published port."""
        lost = []
        if any(link.published for link in wanted):
            self._firewall.bridges()
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            requests = [
                links.get_link(name)
                for link in some
                for name in (
                    self.veth_name(link.incarnation, link.endpoint.id),
                    self._bridge_name(link.endpoint.network),
                )
            ]
            replies = self._netlink.exchange(requests)
            for link, veth, bridge in zip(some, replies[::2], replies[1::2], strict=True):
                stands = (
                    veth.error is None
                    and bridge.error is None
                    and links.parse_link(veth.bodies[0]).master == links.parse_link(bridge.bodies[0]).index
                )
                if not stands or (link.published and not self._firewall.publishes(link.endpoint)):
                    lost.append(link.endpoint.id)
        return lost

    def plug(self, incarnation: str, endpoint: EndpointSpec, network: NetworkSpec) -> None:
        """The endpoint's veth stands, has its address, and is reachable; nothing is published for it yet.

        Raises LookupError where the network was never made. A bridge that somebody else removed is made again.
        """
        with self._inside(incarnation, ipv6=bool(endpoint.address6)) as inside:
            self._plug(incarnation, inside, endpoint, network)

    def make_inside(self) -> Inside:
        """A new namespace, whose new links have no IPv6. From any thread."""
        with ExitStack() as undo, self._home.make() as namespace:
            undo.callback(os.close, namespace)
            netlink = undo.enter_context(Netlink())
            sysctls.new_links_have(ipv6=False)
            undo.pop_all()
            return Inside(namespace, netlink)

    def plug_inside(self, incarnation: str, inside: Inside, endpoint: EndpointSpec, network: NetworkSpec) -> None:
        """As `plug`, for an incarnation that is being made and will have *inside*."""
        with self._home.visit(inside.namespace):
            sysctls.new_links_have(bool(endpoint.address6))
        self._plug(incarnation, inside, endpoint, network)

    def _plug(self, incarnation: str, inside: Inside, endpoint: EndpointSpec, network: NetworkSpec) -> None:
        if network.id not in self._bridges and network.id not in self.networks():
            raise LookupError(f"network {network.name} is not on this host")
        try:
            self._connect(incarnation, inside, endpoint, network)
        except NetlinkError as error:
            if error.errno not in _GONE or self._bridge_stands(network.id):
                raise
            del self._bridges[network.id]
            self._connect(incarnation, inside, endpoint, network)
        self._firewall.clear(endpoint.addresses)

    def publish(self, endpoint: EndpointSpec) -> None:
        self._firewall.publish(endpoint)

    def unpublish(self, endpoint: str) -> None:
        self._firewall.unpublish(endpoint)

    def veth_name(self, incarnation: str, endpoint: str) -> str:
        digest = hashlib.sha256(f"{incarnation}/{endpoint}".encode()).hexdigest()
        return f"{self._prefix}v{digest[:7]}"

    def reserved_subnets(self) -> list[str]:
        addresses = links.parse_addresses(self._netlink.run([links.list_addresses()])[0])
        routes = links.parse_routes(self._netlink.run([links.list_routes()])[0])
        found = {address.network for _, address in addresses}
        found.update(route for route in routes if route.prefixlen > _MATCHES_ALL_OR_HALF)
        lasting = (network for network in found if network.version == 4 or not network.is_link_local)
        return [
            str(network)
            for network in sorted(lasting, key=lambda one: (one.version, one.network_address, one.prefixlen))
        ]

    def leftovers(self) -> list[str]:
        lines = [f"link {link.name} ({link.kind})" for link in self._ours()]
        lines += [f"process {one.pid} (name server)" for one in self.names.running()]
        return [*lines, f"nft table inet {self._firewall.table}"] if self._firewall.exists() else lines

    def all_links(self) -> list[str]:
        """The names of all our links, to be deleted."""
        self._bridges.clear()
        return [link.name for link in self._ours()]

    def close_all(self) -> None:
        """Remove firewall and name server; the links are gone."""
        self.names.stop()
        if self._firewall.exists():
            self._firewall.remove()

    def _bridge_name(self, network: str) -> str:
        return f"{self._prefix}b{network[:7]}"

    def _links(self) -> list[Link]:
        return links.parse_links(self._netlink.run([links.list_links()])[0])

    def _ours(self) -> list[Link]:
        return [link for link in self._links() if link.group == self._group and link.name.startswith(self._prefix)]

    def _bridge_stands(self, network: str) -> bool:
        reply = self._netlink.exchange([links.get_link(self._bridge_name(network))])[0]
        return reply.error is None and links.parse_link(reply.bodies[0]).index == self._bridges.get(network)

    def _make_bridge(self, network: NetworkSpec) -> int:
        name, alias = self._bridge_name(network.id), self._alias + network.id
        made, found = self._netlink.exchange(
            [links.make_bridge(name, self._group, mac_of(network.id), network.mtu), links.get_link(name)]
        )
        if made.error is not None and made.error.errno != errno.EEXIST:
            raise made.error
        if found.error is not None:
            raise found.error
        bridge = links.parse_link(found.bodies[0])
        if bridge.kind != "bridge" or bridge.alias not in {"", alias}:
            raise FileExistsError(errno.EEXIST, f"the link {name} ({bridge.kind}, {bridge.alias}) is not ours")
        sysctls.open_bridge(name, network.ipv6)
        self._firewall.open_network(network, name)
        self._netlink.run(
            [links.configure_bridge(bridge.index, alias, network.mtu)]
            + [links.add_address(bridge.index, _gateway(subnet)) for subnet in network.subnets]
        )
        _await_local(self._netlink, [_gateway(subnet) for subnet in network.subnets])
        if not network.internal:
            sysctls.forward(network.ipv6)
        gateways = tuple(str(_gateway(subnet).ip) for subnet in network.subnets)
        self.names.open(
            network.id, Named(network.name, name, bridge.index, gateways, network.dns, internal=network.internal)
        )
        return bridge.index

    @contextmanager
    def _inside(self, incarnation: str, *, ipv6: bool) -> Iterator[Inside]:
        pid = _pid(f"{self._paths.incarnations}/{incarnation}/pid")
        with ExitStack() as stack:
            namespace = self._home.open(pid)
            stack.callback(os.close, namespace)
            with self._home.visit(namespace):
                netlink = stack.enter_context(Netlink())
                sysctls.new_links_have(ipv6)
            yield Inside(namespace, netlink)

    def _connect(self, incarnation: str, inside: Inside, endpoint: EndpointSpec, network: NetworkSpec) -> None:
        master, bridge = self.make_network(network), self._bridge_name(network.id)
        addresses = _addresses(endpoint)
        name = self.veth_name(incarnation, endpoint.id)
        index, number = self._make_veth(name, inside, endpoint, network, addresses)
        requests = [links.bring_up(_LOOPBACK), links.bring_up(index)]
        requests += [links.add_address(index, address) for address in addresses]
        if not network.internal:
            gateways = (ip_address(gateway) for gateway in (endpoint.gateway, endpoint.gateway6) if gateway)
            requests += [links.add_default_route(index, gateway, number) for gateway in gateways]
        inside.netlink.run([*requests, links.get_link_at(index)])
        self._await_ready(name, bridge)
        neighbours = [links.set_neighbour(master, address.ip, endpoint.mac_address) for address in addresses]
        # Whoever uses his own published port gets his frames back, where bridges pass the firewall.
        self._netlink.run([*neighbours, links.reflect(name)] if endpoint.ports else neighbours)
        _await_local(inside.netlink, addresses)
        for address in addresses:
            self._announcer.announce(bridge, address.ip, endpoint.mac_address)

    def _make_veth(
        self, name: str, inside: Inside, endpoint: EndpointSpec, network: NetworkSpec, addresses: list[Interface]
    ) -> tuple[int, int]:
        """Make the veth, or repair the one that is there; the index of its inner end, and the N of its name eth<N>."""
        master, number = self._bridges[network.id], 0
        while True:
            peer = links.Peer(f"eth{number}", endpoint.mac_address, inside.namespace)
            made, found = self._netlink.exchange(
                [links.make_veth(name, self._group, master, network.mtu, peer), links.get_link(name)]
            )
            if made.error is None:
                return links.parse_link(found.bodies[0]).peer, number
            if made.error.errno != errno.EEXIST:
                raise made.error
            if found.error is None:
                break
            number += 1  # that name is taken inside
        outer = links.parse_link(found.bodies[0])
        self._netlink.run([links.attach(outer.index, master)])
        _drop_other_addresses(inside.netlink, outer.peer, addresses)
        inner = links.parse_link(inside.netlink.run([links.get_link_at(outer.peer)])[0][0])
        return inner.index, int(inner.name.removeprefix("eth"))

    def _await_ready(self, port: str, bridge: str) -> None:
        """Asking makes it so, but on older kernels carriers come up a moment later."""

        def ready() -> bool:
            of_port, of_bridge = self._netlink.run([links.get_link(port), links.get_link(bridge)])
            return links.parse_link(of_port[0]).forwards and links.parse_link(of_bridge[0]).ready

        _await(ready, f"the link {port} has no carrier")


def _await_local(netlink: Netlink, addresses: Iterable[Interface]) -> None:
    """The kernel takes in packets to an IPv6 address a moment after it was given."""
    asked = [links.get_route(address.ip) for address in addresses if address.version == 6]
    if asked:
        _await(
            lambda: all(links.is_local(reply.bodies) for reply in netlink.exchange(asked)),
            "no packets to it are taken in",
        )


def _await(holds: Callable[[], bool], lack: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"{lack} after {_READY_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def delete_links(names: Iterable[str]) -> None:
    """Delete the links called *names*; those that are gone are fine. Some 30 ms each, in any thread."""
    with Netlink() as netlink:
        for reply in netlink.exchange([links.delete_link(name) for name in names]):
            if reply.error is not None and reply.error.errno != errno.ENODEV:
                raise reply.error


def _pid(path: str) -> int:
    try:
        return int(files.content(path))
    except (FileNotFoundError, ValueError):
        raise ProcessLookupError(errno.ESRCH, f"{path} names no process") from None


def _drop_other_addresses(netlink: Netlink, index: int, kept: list[Interface]) -> None:
    present = links.parse_addresses(netlink.run([links.list_addresses()])[0])
    others = [
        address
        for place, address in present
        if place == index and address not in kept and not (address.version == 6 and address.is_link_local)
    ]
    netlink.run([links.delete_address(index, other) for other in others])


def _addresses(endpoint: EndpointSpec) -> list[Interface]:
    found: list[Interface] = [ip_interface(f"{endpoint.address}/{endpoint.prefix_length}")]
    if endpoint.address6:
        found.append(ip_interface(f"{endpoint.address6}/{endpoint.prefix_length6}"))
    return found


def _gateway(subnet: Subnet) -> Interface:
    network = ip_network(subnet.subnet)
    return ip_interface(f"{subnet.gateway or network.network_address + 1}/{network.prefixlen}")
