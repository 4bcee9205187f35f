"""The substrate: what containers really run on, as four drivers.

Execution alone drives these at commit; storage uses the layer and volume half of StorageDriver for content.
Nothing here names a pid, a path or a namespace: a driver finds what it needs from container ids and incarnations.

Every call is idempotent: doing it twice, or undoing what was never done, is fine. Every call may be cut short
by the death of the process, and is then done or undone again. Failures are SubstrateFailed (the host's fault, with
its reason), ResourceExhausted (disk, addresses), or what a call's own text names; never a bare OSError.

An incarnation is one start of a container's main process: a fresh id, minted by the caller at `prepare`. A prepared
process is complete (root filesystem, namespaces, limits) and waits; `release` lets it go.

One suite, tests/conformance/substrate_*.py, holds every substrate to this text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

from portlayer.model.base import Value
from portlayer.model.execution import ContainerSpec, Resources
from portlayer.model.hosts import Capacity
from portlayer.model.interaction import Chunk
from portlayer.model.network import EndpointSpec, NetworkSpec


class StartFailure(Value):
    """The program cannot be executed: a result, not a failure. exit_code: 127 not found, 126 not executable."""

    exit_code: int
    reason: str


class Observation(Value):
    """What the substrate knows of one incarnation.

    absent: nothing is there and nothing is known of its end, or it died before its release. prepared: waits for
    release. exited: exit_code and finished_at (RFC 3339) are set; a death by signal N is 128+N.
    """

    state: Literal["absent", "prepared", "running", "paused", "exited"]
    exit_code: int | None = None
    finished_at: str | None = None
    oom_killed: bool = False


class Presence(Value):
    """An incarnation that is on the host in some form."""

    container: str
    incarnation: str


class Link(Value):
    """The link of a bound endpoint, as it should be: of an incarnation that is prepared, running or paused. published:
    whether its ports should lead to it."""

    container: str
    incarnation: str
    endpoint: EndpointSpec
    published: bool = False


class Missing(Value):
    """Ids of networks, and of endpoints, that are not whole on the host."""

    networks: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class StorageDriver(Protocol):
    """Layers (content-addressed by diffID, `sha256:<hex>`), root filesystems over them, volumes."""

    async def put_layer(self, diff_id: str, tar: AsyncIterator[bytes]) -> int:
        """Unpack an uncompressed *tar* as layer *diff_id*; the bytes it takes on disk. The caller has not verified
        the digest: the driver does, and keeps nothing where it differs.

        Whiteouts, opaque directories, hard links, xattrs, device nodes, modes, times and numeric owners are kept.

        Raises:
            InvalidArgument: no tar, truncated, digest differs, or an entry escapes (`..`, absolute or through links).
            ResourceExhausted: the disk is full.
        """

    async def has_layer(self, diff_id: str) -> bool:
        """Whether the layer is here, whole."""

    async def layers(self) -> list[str]:
        """The diffIDs that are here."""

    async def remove_layer(self, diff_id: str) -> None:
        """Remove a layer; the caller knows that nothing uses it."""

    async def make_rootfs(self, container: ContainerSpec, held_by: str = "") -> None:
        """A writable filesystem for *container* over its layers. What was written before is kept.

        held_by: an incarnation that may still have it, though somebody has taken it away from the host: then it is that
        very one which is mounted again, so that both see what either writes; the process notices nothing.

        Raises NotFound (kind `layer`) where a layer is not here, InvalidArgument where there is none at all,
        SubstrateFailed where the process of *held_by* is there and its filesystem cannot be had from it.
        """

    async def missing(self, containers: Sequence[str]) -> list[str]:
        """Those of *containers* that have a filesystem, and whose mount is not on the host (any more): for the
        reconciler, which knows who should have one. `make_rootfs` brings it back."""

    async def release_rootfs(self, container: str) -> None:
        """Its processes are gone: let the kernel forget the mount, keep what was written."""

    async def remove_rootfs(self, container: str) -> None:
        """Remove the filesystem and all that was written to it, its log included."""

    async def rootfs(self) -> list[str]:
        """The ids of containers that have a filesystem here, mounted or not."""

    async def check_capacity(self) -> None:
        """Raises Unsupported, with the reason and the remedy, where volumes here cannot have a capacity."""

    async def make_volume(self, volume: str, capacity_bytes: int | None = None) -> None:
        """An empty directory for volume id *volume*; kept as it is where there is one.

        capacity_bytes: what it may hold, less a few percent that the substrate needs to keep order; who writes
        more gets ENOSPC. The space is not taken before it is used. None: what the host has.

        Raises ResourceExhausted where the host cannot have one so large.
        """

    async def remove_volume(self, volume: str) -> None:
        """Remove the volume with its content."""

    async def volumes(self) -> list[str]:
        """The ids of volumes that are here."""

    async def written(self, containers: Sequence[str], volumes: Sequence[str]) -> dict[str, int]:
        """The bytes that each takes of the disk, by id: a container all that it wrote, its log included; a volume its
        content. What is not here is left out. It may take long, and holds nobody up."""


class ExecutionDriver(Protocol):
    """Processes."""

    def expect(self) -> None:
        """A prepare is about to come: start what is slow the first time. It makes nothing, and nothing fails."""

    async def prepare(
        self, container: ContainerSpec, incarnation: str, networks: Mapping[str, NetworkSpec]
    ) -> StartFailure | None:
        """Make the main process of *container* as *incarnation*, waiting for release. Beside lo it may have links of
        its bound endpoints in *networks* already; `plug` comes for each, and makes sure.

        The root filesystem and the volumes are there already. The process gets the hosts, resolv.conf and hostname
        files that fit its bound endpoints in *networks*. Its streams, log and exit code are held from here on by
        something that outlives us.

        Raises InvalidArgument for a user that the image, or a subpath that the volume, does not have.
        """

    async def release(self, container: str, incarnation: str) -> StartFailure | None:
        """Let a prepared process go; it is running when this returns (or has run). Doing it again is fine, also after
        the exit, and says the same. Raises SubstrateFailed where nothing is prepared any more."""

    async def remove(self, container: str, incarnation: str) -> None:
        """Undo prepare: kill what is left of the incarnation and remove its traces, the record of its exit too."""

    async def signal(self, container: str, incarnation: str, signal: int) -> None:
        """Send *signal*, a number, to the main process. One that is gone is fine."""

    async def pause(self, container: str, incarnation: str) -> None:
        """Freeze all processes of the container; they are frozen when this returns. One that is gone is fine."""

    async def resume(self, container: str, incarnation: str) -> None:
        """Undo pause."""

    async def update(self, container: str, incarnation: str, resources: Resources) -> None:
        """Change the limits of a prepared, running or paused incarnation. None lifts a limit. Raises SubstrateFailed
        where it is gone."""

    async def observe(self, container: str, incarnation: str) -> Observation:
        """What is known of the incarnation."""

    async def wait(self, container: str, incarnation: str) -> Observation:
        """Return once the incarnation is exited or absent."""

    async def present(self) -> list[Presence]:
        """All incarnations of which anything is on this host: for the reconciler."""


class NetworkDriver(Protocol):
    """Networks, the links of incarnations, and names.

    A container that was let go and has not ended is found by others on its networks: by its name, its aliases and its
    short id, each also with `.<network name>` after it, and in reverse by its addresses. Who is not on the network is
    told nothing. The gateways answer that, also while no process of ours runs.
    """

    async def make_network(self, network: NetworkSpec) -> None:
        """The network exists on this host: bridge, gateway addresses, NAT out (not where `internal`).

        Raises Unsupported for one with IPv6 on a host without.
        """

    async def remove_network(self, network: str) -> None:
        """Remove it with all that belongs to it."""

    async def networks(self) -> list[str]:
        """The ids of networks that are on this host."""

    async def missing(self, networks: Sequence[NetworkSpec], links: Sequence[Link]) -> Missing:
        """What somebody has taken away behind our back, of *networks* that were made and *links* that were plugged: for
        the reconciler. `make_network`, `plug` and `publish` bring it back, whatever this driver has made before. A
        published port belongs to its link, and all that a network needs to work to the network."""

    async def plug(self, container: str, incarnation: str, endpoint: EndpointSpec, network: NetworkSpec) -> None:
        """Give a prepared, running or paused incarnation the link of a bound *endpoint*: up, with address (both of them
        where it has two), default route by the first endpoint that has a gateway, reachable by others on the network
        when this returns."""

    async def unplug(self, container: str, incarnation: str, endpoint: str) -> None:
        """Take the link of endpoint id *endpoint* away, and what is published. The end of an incarnation takes its
        links with it."""

    async def publish(self, container: str, endpoint: EndpointSpec) -> None:
        """Let the published ports of *endpoint*, which is plugged, lead to it. They outlive its incarnation."""

    async def unpublish(self, container: str, endpoint: str) -> None:
        """Take back all ports of endpoint id *endpoint*."""

    async def rewrite_files(
        self, container: ContainerSpec, incarnation: str, networks: Mapping[str, NetworkSpec]
    ) -> None:
        """Bring what a live incarnation is told and is called in line with *container* and its bound endpoints: its
        hosts and resolv.conf files, and the names by which others find it."""

    async def reserved_subnets(self) -> Sequence[str]:
        """CIDRs that this host uses already, of IPv4 and IPv6, so that no new network takes them."""

    async def has_ipv6(self) -> bool:
        """Whether networks with IPv6 can be made on this host."""


class InteractionDriver(Protocol):
    """Streams. The log of a container is the truth of its output: one sequence over all its incarnations."""

    async def log_end(self, container: str) -> int:
        """The cursor at the present end of the log; 0 where nothing was ever written."""

    async def log_tail(self, container: str, lines: int, streams: frozenset[int]) -> int:
        """A cursor behind which more than *lines* whole lines of *streams* together are; 0 where there are no more. Not
        all of the log is read for it where that is long."""

    def read_log(
        self, container: str, cursor: int = 0, *, follow: str = "", split: bool = False
    ) -> AsyncGenerator[Chunk, None]:
        """The log from *cursor* on. With *follow*, an incarnation id, goes on until the last byte of that one has been
        read; else ends at the present end. Bytes are exactly those that the process wrote. A slow reader never
        holds the process up. A chunk holds up to 60 KiB of one stream; with *split* one line at most, so that each
        line has its own time."""

    async def write_stdin(self, container: str, incarnation: str, data: bytes) -> None:
        """Write all of *data* to the stdin of the main task, waiting while its pipe is full.

        Raises InvalidState where it has no stdin, or it is closed or gone.
        """

    async def close_stdin(self, container: str, incarnation: str) -> None:
        """Close the stdin; the process reads end of file after what was written."""

    async def resize(self, container: str, incarnation: str, width: int, height: int) -> None:
        """Set the size of the terminal, in characters. Raises InvalidState where there is none."""


COMPONENTS = frozenset({"storage", "execution", "network", "interaction"})


class Substrate(Protocol):
    """One substrate with its four drivers."""

    name: str
    storage: StorageDriver
    execution: ExecutionDriver
    network: NetworkDriver
    interaction: InteractionDriver

    async def start(self, components: frozenset[str] = COMPONENTS) -> Mapping[str, str]:
        """Probe the host and make ready for what *components* of this process need of it; the others may be in other
        processes on the same host. Answers features as facts for people, such as runtime and cgroup version.

        Raises Unavailable with the reason and the way to mend it where this host cannot run containers.
        """

    async def capacity(self) -> Capacity:
        """The cores and the memory of the host."""

    async def close(self) -> None:
        """Let go of what only our process needs; containers run on."""

    async def leftovers(self) -> list[str]:
        """Everything of this instance on the host, a line each: mounts, links, cgroups, tables, processes."""

    async def purge(self) -> None:
        """Remove everything that `leftovers` lists."""
