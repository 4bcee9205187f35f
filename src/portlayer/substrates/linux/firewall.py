"""The nftables table of one instance: isolation, NAT out, published ports.

    set bridges     our bridges                       set internal    those of internal networks
    set within      bridge . bridge, the same twice: frames inside a network, where bridges pass the firewall
    set subnets     what is masqueraded on its way out; the comment of each is its network id
    map ports       protocol . port -> address . port, on all addresses of the host
    map ports_at    address . protocol . port -> address . port; the comment of each port is its endpoint id
    subnets6, ports6, ports_at6    the same of IPv6, where the host has it

Rules are written once; a network or a port is an element. The table is the only record of what is published, so
nothing is lost with our process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from portlayer.model.network import EndpointSpec, NetworkSpec
from portlayer.substrates.linux.nft import Nft, NftError

# A container could send to 127.0.0.1 of the host once route_localnet is on: `guard` drops that before anything else.
# What comes from outside to ::1, the kernel drops by itself. It drops what comes back to ::1 as well, so nothing is
# published there: who tries is refused at once, and goes on to 127.0.0.1.
# Whoever publishes port 53 gets no questions of containers to the gateway of their own network.
# Masquerading what comes back into a bridge makes answers take the same way, whoever asked.
_RULES = """
add table inet {table}
add set inet {table} bridges {{ type ifname; }}
add set inet {table} internal {{ type ifname; }}
add set inet {table} within {{ type ifname . ifname; }}
add chain inet {table} publish
add chain inet {table} guard {{ type filter hook prerouting priority raw; policy accept; }}
add chain inet {table} prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
add chain inet {table} output {{ type nat hook output priority -100; policy accept; }}
add chain inet {table} back
add chain inet {table} out
add chain inet {table} postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
add chain inet {table} forward {{ type filter hook forward priority filter; policy accept; }}
flush table inet {table}
add rule inet {table} guard iifname @bridges ip daddr 127.0.0.0/8 drop
add rule inet {table} prerouting iifname @bridges th dport 53 fib daddr . iif type local accept
add rule inet {table} prerouting jump publish
add rule inet {table} output jump publish
add rule inet {table} back ip saddr 127.0.0.0/8 masquerade
add rule inet {table} postrouting oifname @bridges ct status dnat jump back
add rule inet {table} postrouting oifname @bridges return
add rule inet {table} postrouting jump out
add rule inet {table} forward iifname . oifname @within accept
add rule inet {table} forward iifname @internal drop
add rule inet {table} forward oifname @internal drop
add rule inet {table} forward ct state established,related accept
add rule inet {table} forward oifname @bridges ct status dnat accept
add rule inet {table} forward oifname @bridges drop
"""
_OF_FAMILY = """
add set inet {table} subnets{n} {{ type {type}; flags interval; }}
add map inet {table} ports{n} {{ type inet_proto . inet_service : {type} . inet_service; }}
add map inet {table} ports_at{n} {{ type {type} . inet_proto . inet_service : {type} . inet_service; }}
add rule inet {table} publish dnat {ip} to {ip} daddr . meta l4proto . th dport map @ports_at{n}
add rule inet {table} publish {published}fib daddr type local dnat {ip} to meta l4proto . th dport map @ports{n}
add rule inet {table} back {ip} saddr @subnets{n} masquerade
add rule inet {table} out {ip} saddr @subnets{n} masquerade
"""
_FAMILIES = {
    4: {"n": "", "type": "ipv4_addr", "ip": "ip", "published": ""},
    6: {"n": "6", "type": "ipv6_addr", "ip": "ip6", "published": "ip6 daddr != ::1 "},
}
_ANY = {4: "0.0.0.0", 6: "::"}  # noqa: S104  # nothing listens here


class _Key(NamedTuple):
    """Where a port is published; `host` is an address, or `0.0.0.0` or `::` for all of its kind."""

    host: str
    protocol: str
    port: int


class _Target(NamedTuple):
    """Where it leads, and the endpoint that published it."""

    address: str
    port: int
    endpoint: str


class Firewall:
    """What this instance has in nftables. Every call is idempotent. Used by one thread at a time.

    ipv6: whether the host has IPv6.
    """

    def __init__(self, instance: str, *, ipv6: bool) -> None:
        self.table = f"portlayer_{instance}"
        self._rules = "".join(
            [_RULES.format(table=self.table)]
            + [_OF_FAMILY.format(table=self.table, **_FAMILIES[kind]) for kind in ((4, 6) if ipv6 else (4,))]
        )
        self._nft = Nft()
        self._complete = False
        self._subnets: dict[str, str] = {}
        self._ports: dict[_Key, _Target] = {}

    def close(self) -> None:
        self._nft.close()

    def load(self) -> str:
        """Learn what the table holds, if it is there; nftables' version."""
        answer, _ = self._learn()
        self._complete = False
        return str(answer[0]["metainfo"]["version"])

    def bridges(self) -> frozenset[str]:
        """Those that the table has, whoever changed it; none where its rules are not whole.

        Where it is not what was believed, the next change writes the rules again.
        """
        before = self._subnets, self._ports
        _, found = self._learn()
        whole = sum("rule" in item for item in found) == self._rules.count("add rule")
        self._complete = self._complete and whole and before == (self._subnets, self._ports)
        return frozenset(value for value, _, _ in dict(_elements(found)).get("bridges", ())) if whole else frozenset()

    def publishes(self, endpoint: EndpointSpec) -> bool:
        """Whether the ports of *endpoint* are published as they should be, as `bridges` has last read it."""
        found = {key: target for key, target in self._ports.items() if target.endpoint == endpoint.id}
        return found == _wanted(endpoint)

    def _learn(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Read the table; what nft says of all tables, and of this one."""
        answer = self._nft.query("list tables inet")
        tables = {item["table"]["name"] for item in answer if "table" in item}
        found = self._nft.query(f"list table inet {self.table}") if self.table in tables else []
        elements = dict(_elements(found))
        self._subnets = {
            _cidr(value): comment for name in ("subnets", "subnets6") for value, comment, _ in elements.get(name, ())
        }
        self._ports = dict(_ports(elements))
        return answer, found

    def exists(self) -> bool:
        return any(item.get("table", {}).get("name") == self.table for item in self._nft.query("list tables inet"))

    def blockers(self, hook: str) -> list[str]:
        """Chains of others that drop what they do not know at *hook*, as dockerd's does at `forward`. An accept of ours
        does not help against them: in nftables one drop is enough."""
        chains = [item["chain"] for item in self._nft.query("list chains") if "chain" in item]
        return [
            f"{chain['family']} {chain['table']} {chain['name']}"
            for chain in chains
            if chain.get("hook") == hook and chain.get("policy") == "drop"
        ]

    def remove(self) -> None:
        """Delete the table with all that it holds."""
        self._nft.run(f"add table inet {self.table}\ndelete table inet {self.table}")
        self.load()

    def open_network(self, network: NetworkSpec, bridge: str) -> None:
        """Isolate *network*, and let it out where it is not internal."""
        elements = [("bridges", bridge), ("within", f"{bridge} . {bridge}")]
        if network.internal:
            elements.append(("internal", bridge))
        commands = [self._element("add", name, element) for name, element in elements]
        outward = () if network.internal else tuple(subnet.subnet for subnet in network.subnets)
        for subnet in outward:
            if self._subnets.get(subnet, network.id) != network.id:
                commands.append(self._element("delete", _of("subnets", subnet), subnet))
            commands.append(self._element("add", _of("subnets", subnet), f'{subnet} comment "{network.id}"'))
        self._run(commands)
        self._subnets.update(dict.fromkeys(outward, network.id))

    def close_network(self, network: str, bridge: str) -> None:
        """Forget *network*, an id, and the ports that lead into it."""
        subnets = [subnet for subnet, owner in self._subnets.items() if owner == network]
        elements = [("bridges", bridge), ("within", f"{bridge} . {bridge}"), ("internal", bridge)]
        elements += [(_of("subnets", subnet), subnet) for subnet in subnets]
        # Deleting what is not there is an error, adding what is there is none.
        self._run([self._element(verb, *element) for element in elements for verb in ("add", "delete")])
        for subnet in subnets:
            del self._subnets[subnet]
        inside = [ip_network(subnet) for subnet in subnets]
        self._replace({}, lambda target: any(ip_address(target.address) in subnet for subnet in inside))

    def publish(self, endpoint: EndpointSpec) -> None:
        """Publish the ports of *endpoint*, and nothing else for it or for its addresses.

        The address may have been another endpoint's, and a port another container's: what is left of them goes.
        """
        self._replace(
            _wanted(endpoint), lambda target: endpoint.id == target.endpoint or target.address in endpoint.addresses
        )

    def clear(self, addresses: Collection[str]) -> None:
        """Take back all that leads to *addresses*, which may have been another endpoint's before."""
        self._replace({}, lambda target: target.address in addresses)

    def unpublish(self, endpoint: str) -> None:
        """Take back all ports of endpoint id *endpoint*."""
        self._replace({}, lambda target: target.endpoint == endpoint)

    def _replace(self, wanted: dict[_Key, _Target], stale: Callable[[_Target], bool]) -> None:
        try:
            self._try_replace(wanted, stale)
        except NftError:
            # Somebody else changed the table: begin again from what it holds.
            self.load()
            self._try_replace(wanted, stale)

    def _try_replace(self, wanted: dict[_Key, _Target], stale: Callable[[_Target], bool]) -> None:
        old = [
            key for key, target in self._ports.items() if (key in wanted or stale(target)) and target != wanted.get(key)
        ]
        new = {key: target for key, target in wanted.items() if self._ports.get(key) != target}
        if not old and not new:
            return
        commands = [self._element("delete", *_where(key)) for key in old]
        for key, target in new.items():
            name, place = _where(key)
            value = f'{place} comment "{target.endpoint}" : {target.address} . {target.port}'
            commands.append(self._element("add", name, value))
        self._run(commands)
        for key in old:
            del self._ports[key]
        self._ports.update(new)

    def _element(self, verb: str, name: str, element: str) -> str:
        return f"{verb} element inet {self.table} {name} {{ {element} }}"

    def _run(self, commands: Iterable[str]) -> None:
        rules = "" if self._complete else self._rules
        self._nft.run(rules + "\n".join(commands))
        self._complete = True


def _ways(host: str, endpoint: EndpointSpec) -> Iterator[tuple[str, str]]:
    """The addresses of the host that a port is published on, each with that of *endpoint* which it leads to."""
    for address in endpoint.addresses:
        everywhere = _ANY[ip_address(address).version]
        if not host:
            yield everywhere, address
        elif _of("", host) == _of("", address):
            yield str(ip_address(host)), address


def _of(name: str, address: str) -> str:
    """The set or map *name* for what is of the kind of *address*, which may be a CIDR."""
    return f"{name}6" if ":" in address else name


def _wanted(endpoint: EndpointSpec) -> dict[_Key, _Target]:
    """What the table should hold of its ports."""
    return {
        _Key(host, port.protocol, port.host_port): _Target(address, port.container_port, endpoint.id)
        for port in endpoint.ports
        for host, address in _ways(port.host_address, endpoint)
    }


def _where(key: _Key) -> tuple[str, str]:
    """The map that *key* is in, and its key there."""
    if key.host in _ANY.values():
        return _of("ports", key.host), f"{key.protocol} . {key.port}"
    return _of("ports_at", key.host), f"{key.host} . {key.protocol} . {key.port}"


def _elements(found: Iterable[dict[str, Any]]) -> Iterator[tuple[str, list[tuple[Any, str, Any]]]]:
    """Of each set and map in nft's answer its name, and its elements as value, comment and, of a map, mapped value."""
    for item in found:
        holder = item.get("set") or item.get("map")
        if holder is None:
            continue
        elements = []
        for entry in holder.get("elem", ()):
            left, right = entry if "map" in holder else (entry, None)
            plain = left["elem"] if isinstance(left, dict) and "elem" in left else {"val": left}
            elements.append((plain["val"], plain.get("comment", ""), right))
        yield holder["name"], elements


def _cidr(value: dict[str, Any]) -> str:
    prefix = value["prefix"]
    return str(ip_network(f"{prefix['addr']}/{prefix['len']}"))


def _ports(elements: dict[str, list[tuple[Any, str, Any]]]) -> Iterator[tuple[_Key, _Target]]:
    for anywhere in _ANY.values():
        for name in (_of("ports", anywhere), _of("ports_at", anywhere)):
            for value, comment, mapped in elements.get(name, ()):
                host, protocol, port = value["concat"] if len(value["concat"]) == 3 else (anywhere, *value["concat"])
                address, inner = (str(part) for part in mapped["concat"])
                target = _Target(str(ip_address(address)), int(inner), comment)
                yield _Key(str(ip_address(host)), str(protocol), int(port)), target
