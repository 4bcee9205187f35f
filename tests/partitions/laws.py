"""What holds at every instant, however the network is cut: read from the store and the host, without our own code's
opinion of either."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import etcdlab
import msgspec
from e2e.hostview import HostView, Process

from portlayer.stores.etcd_layout import decode, names


class Unread(Exception):
    """The store could not be read just then, which breaks no law."""


class Laws:
    """Of the store under *prefix* and the hosts of *views*."""

    def __init__(self, etcd: etcdlab.Cluster, prefix: str, views: Iterable[HostView]) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._views = tuple(views)

    def processes(self) -> list[Process]:
        """The first process of each incarnation, on all hosts that have begun to have any."""
        return [one for view in self._views if (view.state / "instance").exists() for one in view.processes()]

    def records(self, under: str = "") -> dict[str, bytes]:
        """All records whose keys start with *under*, of one instant."""
        start = names(self._prefix).records.decode()
        try:
            answer = json.loads(self._etcd.control("get", "--prefix", f"{start}{under}", "-w", "json"))
        except AssertionError as error:
            raise Unread from error
        found = {}
        for kv in answer.get("kvs", ()):
            key = base64.b64decode(kv["key"]).decode().removeprefix(start)
            found[key] = decode(base64.b64decode(kv["value"]))[1]
        return found

    def check(self) -> None:
        """No two owners of an address, a name, a port or a container."""
        records = self.records("/")
        containers = {
            key.rpartition("/")[2]: msgspec.json.decode(value)["spec"]
            for key, value in records.items()
            if key.startswith("/v/default/containers/")
        }
        named = [spec["name"] for spec in containers.values()]
        assert len(set(named)) == len(named), named
        for name, value in records.items():
            if name.startswith("/v/default/names/containers/"):
                owner = containers.get(value.decode())
                assert owner is None or owner["name"] == name.rpartition("/")[2]
        held: Counter[tuple[str, str]] = Counter()
        for ident, spec in containers.items():
            for endpoint in _bound(spec):
                place = (endpoint["network"], endpoint["address"])
                held[place] += 1
                key = f"/v/default/addresses/{place[0]}/{place[1]}"
                assert msgspec.json.decode(records[key])["container"] == ident, key
        assert not [place for place, count in held.items() if count > 1], held
        self._check_ports(containers, records)
        self._check_host(containers)

    def _check_ports(self, containers: dict[str, Any], records: dict[str, bytes]) -> None:
        """A port of a host has the one endpoint that publishes it."""
        published = [
            (f"/ports/{spec['host']}/{port.get('protocol', 'tcp')}/{port['hostPort']}", endpoint["id"])
            for spec in containers.values()
            for endpoint in _bound(spec)
            for port in endpoint.get("ports", ())
        ]
        assert len(dict(published)) == len(published), published
        for key, endpoint in published:
            assert records[key].decode() == endpoint, key

    def _check_host(self, containers: dict[str, Any]) -> None:
        """A container has one process at the most, an address is on one at the most."""
        processes = self.processes()
        owners = Counter(process.container for process in processes)
        assert not [container for container, count in owners.items() if count > 1], owners
        addresses = Counter(address for process in processes for address in process.addresses)
        assert not [address for address, count in addresses.items() if count > 1], addresses

    def settled(self) -> list[str]:
        """What is still to be done: intents, and processes that are not as the records say."""
        records = self.records("/v/default/")
        left = [key for key in records if "/intents/" in key]
        observed = {
            key.rpartition("/")[2]: msgspec.json.decode(value)
            for key, value in records.items()
            if key.startswith("/v/default/observed/")
        }
        active = {ident for ident, one in observed.items() if one.get("state") in ("running", "paused")}
        having = {process.container for process in self.processes()}
        left += [f"{one} has no process" for one in active - having]
        left += [f"no record explains the process of {one}" for one in having - set(observed)]
        return left


def _bound(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [endpoint for endpoint in spec.get("endpoints", {}).values() if endpoint.get("bound")]
