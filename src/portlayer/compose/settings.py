"""Settings: what a port layer is made of, from one TOML file and the environment.

PORTLAYER_STATE     what lasts: store, layers, volumes, logs, the host's key       /var/lib/portlayer
PORTLAYER_RUN       sockets, and what a reboot may clear                            /run/portlayer
PORTLAYER_RUNTIME   the OCI runtime, crun or runc; by default what proves able to run
PORTLAYER_STORE     sqlite, or etcd://host:port/prefix (see stores.choice)          sqlite
PORTLAYER_FAILPOINTS  for tests of the commit protocol (see failpoints)
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from portlayer.components.addresses import LEASE_SECONDS
from portlayer.components.membership import LEASE_SECONDS as PROCESS_SECONDS
from portlayer.components.reconciler import PERIOD_SECONDS
from portlayer.components.written import PERIOD_SECONDS as MEASURE_SECONDS
from portlayer.compose.tls import TlsChoice, read_tls
from portlayer.compose.tracing import TracingChoice, read_tracing
from portlayer.compose.users import read_users
from portlayer.model.access import Identity
from portlayer.model.base import Value
from portlayer.model.bounds import Drain, Limits, check_drain, check_limits
from portlayer.model.errors import InvalidArgument
from portlayer.model.execution import replace
from portlayer.model.hosts import HostRules
from portlayer.model.names import check_labels
from portlayer.model.topology import Part, Topology, read_topology
from portlayer.stores.choice import StoreChoice, parse_table, parse_url
from portlayer.substrates.linux.execution import RUNTIME_SECONDS

DEFAULT_STATE, DEFAULT_RUN = "/var/lib/portlayer", "/run/portlayer"
SOCKET = "portlayer.sock"
MOST_SECONDS = 86400
TIMES = ("lease_seconds", "process_seconds", "runtime_seconds", "reconcile_seconds", "measure_seconds")


class Settings(Value):
    """What a port layer is made of. Empty strings mean the default. leaseSeconds: how long a bind holds an address.

    processSeconds: how long a process that says nothing counts as alive, the same in all processes. runtimeSeconds:
    how long a call of the OCI runtime may take before its step fails. reconcileSeconds: the pause between two sweeps
    of the reconciler. measureSeconds: that between two measurings of what containers write, at least. limits: what it
    takes on at once, and what may wait; drain: how it ends (see model.bounds). store: which one, and where (see
    stores.choice). tracing: where traces go (see compose.tracing). users: who else than root may use the socket, by
    uid. topology: who runs where, in the file as `processes` (see model.topology). tls: certificates of https
    addresses (see compose.tls). hosts: what to know of them by name (see model.hosts).
    """

    state: str = DEFAULT_STATE
    run: str = DEFAULT_RUN
    runtime: str = ""
    failpoints: str = ""
    lease_seconds: float = LEASE_SECONDS
    process_seconds: float = PROCESS_SECONDS
    runtime_seconds: float = RUNTIME_SECONDS
    reconcile_seconds: float = PERIOD_SECONDS
    measure_seconds: float = MEASURE_SECONDS
    limits: Limits = Limits()
    drain: Drain = Drain()
    store: StoreChoice = StoreChoice()
    tracing: TracingChoice = TracingChoice()
    users: dict[int, Identity] = {}
    topology: Topology = Topology()
    tls: TlsChoice = TlsChoice()
    hosts: dict[str, HostRules] = {}

    @property
    def socket(self) -> Path:
        """Where clients find it by default: the process with execution, where there are several."""
        return Path(self.run) / SOCKET

    def part(self, name: str | None) -> Part:
        """The process called *name* (None: the only one), with its address."""
        part = self.topology.part(name)
        return replace(part, address=part.address or f"unix://{self.sockets(part)[0]}")

    def sockets(self, part: Part) -> tuple[Path, ...]:
        """The unix sockets of *part*: its own, and, where it has execution, the one that clients look for."""
        given = part.address.removeprefix("unix://") if part.address.startswith("unix://") else ""
        own = Path(self.run).absolute() / (f"{part.name}.sock" if self.topology.has_several else SOCKET)
        clients = [self.socket.absolute()] if "execution" in part.components else []
        return tuple(dict.fromkeys([Path(given) if given else own, *clients]))


_OTHERS = {"failpoints": None, "topology": "processes"}
SETTINGS = tuple(
    name for field in msgspec.structs.fields(Settings) if (name := _OTHERS.get(field.name, field.encode_name))
)
"""The keys of a configuration file."""


def read_settings(environment: Mapping[str, str], config: Path | None = None) -> Settings:
    """Settings from a TOML file (keys as in Settings), over which the environment wins.

    Raises:
        InvalidArgument: the file cannot be read, or has unknown keys, or values that make no sense.
    """
    values = _read(config) if config is not None else {}
    for name, key in (("STATE", "state"), ("RUN", "run"), ("RUNTIME", "runtime"), ("FAILPOINTS", "failpoints")):
        if environment.get(f"PORTLAYER_{name}"):
            values[key] = environment[f"PORTLAYER_{name}"]
    store = _store(values.pop("store", {}), environment)
    users = read_users(values.pop("users", {}))
    tls = read_tls(values.pop("tls", {}))
    tracing = read_tracing(values.pop("tracing", {}), environment)
    topology = read_topology(values.pop("processes")) if "processes" in values else Topology()
    try:
        settings = replace(msgspec.convert(values, Settings), users=users)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{config} does not say what it should: {error}.") from None
    for field in msgspec.structs.fields(Settings):
        if field.name in TIMES and not 1 <= getattr(settings, field.name) <= MOST_SECONDS:
            raise InvalidArgument(f"{field.encode_name} must be between 1 and {MOST_SECONDS}.")
    check_limits(settings.limits)
    check_drain(settings.drain)
    _check_hosts(settings.hosts, topology)
    if len(topology.hosts) > 1 and store.kind == "sqlite":
        raise InvalidArgument("SQLite is for one host; choose etcd as the store of several.")
    if tls != TlsChoice() and not topology.has_remote:
        raise InvalidArgument("[tls] is about https addresses, and no process has one.")
    return replace(settings, store=store, topology=topology, tls=tls, tracing=tracing)


def _check_hosts(hosts: Mapping[str, HostRules], topology: Topology) -> None:
    for name, rules in hosts.items():
        if name not in topology.hosts:
            raise InvalidArgument(f"[hosts.{name}] is about a host on which no process is.")
        check_labels(rules.labels, f"hosts.{name}.labels")
        for value in (rules.cpus, rules.memory_bytes):
            if value is not None and not value > 0:
                raise InvalidArgument(f"cpus and memoryBytes of [hosts.{name}] must be more than 0.")


def _read(config: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(config.read_text())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{config} cannot be read: {error}.") from None
    unknown = sorted(values.keys() - set(SETTINGS))
    if unknown:
        raise InvalidArgument(f"{config} has unknown keys {unknown}; known: {sorted(SETTINGS)}.")
    return values


def _store(table: object, environment: Mapping[str, str]) -> StoreChoice:
    if not isinstance(table, dict):
        raise InvalidArgument("store is a section of the configuration: [store].")
    url = environment.get("PORTLAYER_STORE")
    return parse_url(url) if url else parse_table(table)
