"""The host in memory: what is there whoever drives it, and what can happen to it.

A World outlives the MemorySubstrate objects over it as a host outlives our processes. Tests have powers over it:
things happen behind our back (`kill`, `lose_link`, `reboot`), calls of the drivers fail (`fail`) or meet a hook
before or after they act (`before`, `after`), the disk is small (`disk_bytes`), the kernel has no IPv6 (`ipv6`), the
machine is small (`capacity`).

    World
    ├── layers        diffID -> Layer
    ├── rootfs        container id -> Rootfs: its tree, whether mounted, its log
    ├── volumes       volume id -> Files
    ├── networks      network id -> NetworkSpec            gone after a reboot
    ├── published     endpoint id -> EndpointSpec          gone after a reboot
    └── incarnations  incarnation id -> Incarnation        gone after a reboot
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from portlayer.model.base import Value
from portlayer.model.errors import ResourceExhausted
from portlayer.model.execution import ContainerSpec
from portlayer.model.hosts import Capacity
from portlayer.model.names import SHORT_ID
from portlayer.model.network import EndpointSpec, NetworkSpec
from portlayer.substrates.memory.files import Files, Layer, Node, merge
from portlayer.substrates.memory.pipes import Log
from portlayer.substrates.memory.process import Incarnation


class Step(Value):
    """One call of a driver: `name` is such as `execution.prepare`, `ids` its string arguments in order."""

    name: str
    ids: tuple[str, ...]


Hook = Callable[[Step], Awaitable[None] | None]


@dataclass
class Rootfs:
    files: Files
    layers: tuple[str, ...]
    mounted: bool = True
    log: Log = field(default_factory=Log)


class World:
    """A host in memory. disk_bytes: the size of its disk, None for one without end."""

    def __init__(self, *, disk_bytes: int | None = None) -> None:
        self.disk_bytes = disk_bytes
        self.layers: dict[str, Layer] = {}
        self.rootfs: dict[str, Rootfs] = {}
        self.volumes: dict[str, Files] = {}
        self.networks: dict[str, NetworkSpec] = {}
        self.published: dict[str, EndpointSpec] = {}
        self.incarnations: dict[str, Incarnation] = {}
        self.reserved_subnets: list[str] = ["127.0.0.0/8", "::1/128"]
        self.ipv6 = True
        self.capacity = Capacity(cpus=64, memory_bytes=1 << 40)
        self._before: list[Hook] = []
        self._after: list[Hook] = []
        self._trees: dict[tuple[str, ...], dict[str, Node]] = {}

    def before(self, hook: Hook) -> Callable[[], None]:
        """Call *hook* before every step. What it raises, the step raises, undone; what it awaits, the step waits for.

        Returns the function that takes the hook away.
        """
        self._before.append(hook)
        return lambda: self._before.remove(hook)

    def after(self, hook: Hook) -> Callable[[], None]:
        """As `before`, but when the step has acted and has not returned."""
        self._after.append(hook)
        return lambda: self._after.remove(hook)

    def fail(self, step: str, error: BaseException, *, nth: int = 1) -> None:
        """Let the *nth* call of *step* from now on raise *error*, that one alone."""
        left = nth

        def hook(now: Step) -> None:
            nonlocal left
            if now.name == step:
                left -= 1
                if left == 0:
                    remove()
                    raise error

        remove = self.before(hook)

    async def entering(self, step: Step) -> None:
        for hook in tuple(self._before):
            if (waiting := hook(step)) is not None:
                await waiting

    async def leaving(self, step: Step) -> None:
        for hook in tuple(self._after):
            if (waiting := hook(step)) is not None:
                await waiting

    def kill(self, incarnation: str) -> None:
        """Somebody sends SIGKILL to the main process."""
        self.incarnations[incarnation].end(128 + signal.SIGKILL)

    def run_out_of_memory(self, incarnation: str) -> None:
        """The kernel kills the main process for its memory limit."""
        self.incarnations[incarnation].end(128 + signal.SIGKILL, oom_killed=True)

    def lose_link(self, incarnation: str, endpoint: str) -> None:
        """Somebody deletes the link of *endpoint*."""
        self.incarnations[incarnation].links.pop(endpoint, None)

    def lose_network(self, network: str) -> None:
        """Somebody deletes the network, and with it every link in it."""
        del self.networks[network]
        for one in self.live():
            one.links = {name: end for name, end in one.links.items() if end.network != network}

    def lose_mount(self, container: str) -> None:
        """Somebody takes the mount of the root filesystem away; whoever is in it keeps it."""
        self.rootfs[container].mounted = False

    def lose_process(self, incarnation: str) -> None:
        """Somebody removes the process and every trace of it."""
        self.incarnations.pop(incarnation).end(128 + signal.SIGKILL)

    def reboot(self) -> None:
        """The host goes down and comes up: layers, root filesystems, logs and volumes are kept, all else is gone."""
        for incarnation in self.incarnations.values():
            incarnation.end(128 + signal.SIGKILL)
        self.incarnations.clear()
        self.networks.clear()
        self.published.clear()
        for rootfs in self.rootfs.values():
            rootfs.mounted = False

    def reaches(self, container: str, address: str) -> bool:
        """Whether the running *container* can open a connection to *address*."""
        mine = [end for one in self.live(container) for end in one.links.values() if end.network in self.networks]
        if ":" in address:
            mine = [end for end in mine if end.address6]
        networks = {end.network for end in mine}
        gateways = {subnet.gateway for name in networks for subnet in self.networks[name].subnets}
        peers = {
            each
            for one in self.live()
            for end in one.links.values()
            if end.network in networks
            for each in end.addresses
        }
        return address in gateways | peers

    def withdraw(self, addresses: tuple[str, ...]) -> None:
        """Nothing leads to *addresses* any more."""
        self.published = {name: end for name, end in self.published.items() if not {*end.addresses} & {*addresses}}

    def addresses(self, asking: Incarnation, name: str) -> list[str]:
        """What the name server of the networks of *asking* answers: who runs there under *name*, in any case."""
        wanted = name.lower()
        networks = [end.network for end in asking.links.values() if end.network in self.networks]
        return [
            address
            for network in networks
            for one in self.live()
            for end in one.links.values()
            for address in end.addresses
            if end.network == network and one.state == "running" and wanted in _names(one.spec, end)
        ]

    def name(self, asking: Incarnation, address: str) -> str:
        """The reverse of `addresses`; empty where nobody on its networks has *address*."""
        networks = {end.network for end in asking.links.values()} & self.networks.keys()
        found = (
            f"{one.spec.name}.{end.network_name}"
            for one in self.live()
            for end in one.links.values()
            if end.network in networks and one.state == "running" and address in end.addresses
        )
        return next(found, "")

    def live(self, container: str = "") -> list[Incarnation]:
        """Incarnations that have not ended: of *container*, or all."""
        return [one for one in self.incarnations.values() if one.live and container in {"", one.spec.id}]

    def tree(self, layers: tuple[str, ...]) -> dict[str, Node]:
        """The merged content of *layers*, which are here."""
        if layers not in self._trees:
            self._trees[layers] = merge(self.layers[layer] for layer in layers)
        return self._trees[layers]

    def drop_layer(self, diff_id: str) -> None:
        self.layers.pop(diff_id, None)
        for layers in [layers for layers in self._trees if diff_id in layers]:
            del self._trees[layers]

    def require_disk(self, size: int) -> None:
        """Raise ResourceExhausted where there is no room for *size* more bytes."""
        if self.disk_bytes is None:
            return
        used = sum(layer.size for layer in self.layers.values())
        used += sum(files.written for files in self.volumes.values())
        used += sum(rootfs.files.written + rootfs.log.end for rootfs in self.rootfs.values())
        if used + size > self.disk_bytes:
            raise ResourceExhausted(
                f"The disk is full: {size} bytes are needed and {max(self.disk_bytes - used, 0)} are free; "
                "remove images or volumes.",
                resource="disk",
            )

    def close(self) -> None:
        """End all programs; the world is not used any more."""
        self.reboot()


def _names(spec: ContainerSpec, end: EndpointSpec) -> set[str]:
    plain = {name.lower() for name in (spec.name, *end.aliases, spec.id[:SHORT_ID])}
    return plain | {f"{name}.{end.network_name.lower()}" for name in plain}
