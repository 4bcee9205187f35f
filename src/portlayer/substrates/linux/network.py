"""Networks on a Linux host: a bridge each, a veth an endpoint, one nftables table for all.

    pl<instance 4>b<network id 7>     bridge; its alias is portlayer:<instance>:<network id>
    pl<instance 4>v<hash 7>           the host's end of an endpoint's veth; the other is eth<N> of the container

All our links are in the link group that is the instance's number, so one look at the kernel finds them; nothing else
is recorded. The end of a process takes its namespace and its veths away.

One thread does all of it in order, for the kernel holds its lock for tens of milliseconds where namespaces go away
meanwhile; links are deleted in other threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

from portlayer.interfaces.substrate import Link, Missing
from portlayer.model.errors import SubstrateFailed, Unavailable, Unsupported
from portlayer.model.execution import ContainerSpec
from portlayer.model.network import EndpointSpec, NetworkSpec
from portlayer.substrates.linux import hostfiles, sysctls
from portlayer.substrates.linux.ahead import Ahead
from portlayer.substrates.linux.incarnation import Incarnation
from portlayer.substrates.linux.names.guard import Guard
from portlayer.substrates.linux.nft import NftError
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.wiring import Wiring, delete_links

A = TypeVarTuple("A")
R = TypeVar("R")


class LinuxNetwork:
    """The NetworkDriver of a Linux host."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._thread = ThreadPoolExecutor(1, "portlayer-network")
        self._open: Wiring | None = None
        self.ahead = Ahead(self._thread)

    async def start(self) -> Mapping[str, str]:
        """Open what the driver needs, and read what is there; nothing of the host is changed. Facts for people.

        Raises:
            SubstrateFailed: nftables is missing, or this process may not manage networks.
        """
        if self._open is None:
            self._open = await self._do("start", Wiring, self._paths)
            self._guard = Guard(self._open.names, self._run)
            self.ahead.wiring = self._open
        return await self._do("start", self._wiring.features)

    async def serve_names(self) -> None:
        """What an earlier process of ours left with names has a name server: that one's, or another."""
        await self._guard.begin()

    async def rest(self) -> None:
        """No process is left: nobody will ask for names."""
        if self._open is not None:
            await self._guard.close()
            await self._do("names", self._open.names.stop)

    async def close(self) -> None:
        """Let go of sockets and thread; all links stay as they are."""
        if self._open is not None:
            await self._guard.close()
            await self.ahead.close()
            await self._do("close", self._open.close)
            self._open = None
        self._thread.shutdown()

    @property
    def _wiring(self) -> Wiring:
        if self._open is None:
            raise Unavailable("The network driver is not started.")
        return self._open

    async def make_network(self, network: NetworkSpec) -> None:
        if not self._wiring.knows(network.id):
            if network.ipv6 and not sysctls.has_ipv6():
                raise Unsupported(
                    f"Network {network.name} has IPv6, which is off in this host's kernel.", option="ipv6"
                )
            await self._do("make", self._wiring.make_network, network)
            self._guard.follow()

    async def remove_network(self, network: str) -> None:
        with _failing("remove"):
            await _delete(await self._run(self._wiring.links_of, network))
            await self._run(self._wiring.close_network, network)

    async def networks(self) -> list[str]:
        return await self._do("list", self._wiring.networks)

    async def missing(self, networks: Sequence[NetworkSpec], links: Sequence[Link]) -> Missing:
        with _failing("missing"):
            lost = await self._run(self._wiring.missing_networks, networks) if networks else ()
            return Missing(
                networks=tuple(lost), links=tuple(await self._run(self._wiring.missing_links, links) if links else ())
            )

    async def plug(self, container: str, incarnation: str, endpoint: EndpointSpec, network: NetworkSpec) -> None:
        """Raises SubstrateFailed where the process is gone; Unsupported for ports in an internal network, or on an IPv6
        address where the endpoint has none."""
        _check_ports(endpoint, network)
        if self.ahead.claim(incarnation, endpoint, network):
            return
        with _failing("plug", container):
            await self._run(self._wiring.plug, incarnation, endpoint, network)

    async def unplug(self, container: str, incarnation: str, endpoint: str) -> None:
        with _failing("unplug", container):
            await self._run(self._wiring.unpublish, endpoint)
            await _delete([self._wiring.veth_name(incarnation, endpoint)])

    async def publish(self, container: str, endpoint: EndpointSpec) -> None:
        with _failing("publish", container):
            await self._run(self._wiring.publish, endpoint)

    async def unpublish(self, container: str, endpoint: str) -> None:
        with _failing("unpublish", container):
            await self._run(self._wiring.unpublish, endpoint)

    async def rewrite_files(
        self, container: ContainerSpec, incarnation: str, networks: Mapping[str, NetworkSpec]
    ) -> None:
        del networks  # endpoints say all that is needed
        place = Incarnation(self._paths, incarnation)

        def rewrite() -> None:
            resolv = hostfiles.resolv_file(container, hostfiles.host_resolv_conf())
            for name, content in ((hostfiles.HOSTS, hostfiles.hosts_file(container)), (hostfiles.RESOLV, resolv)):
                hostfiles.write_in_place(self._paths.host_file(container.id, incarnation, name), content)
            place.name(hostfiles.places(container))

        await self._do("files", rewrite)

    async def reserved_subnets(self) -> Sequence[str]:
        return await self._do("subnets", self._wiring.reserved_subnets)

    async def has_ipv6(self) -> bool:
        return sysctls.has_ipv6()

    async def leftovers(self) -> list[str]:
        """What this instance has on the host, a line each."""
        return await self._do("leftovers", self._wiring.leftovers)

    async def purge(self) -> None:
        """Remove what `leftovers` lists."""
        await self._guard.close()
        with _failing("purge"):
            await _delete(await self._run(self._wiring.all_links))
            await self._run(self._wiring.close_all)

    async def _run(self, work: Callable[[*A], R], *args: *A) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _do(self, step: str, work: Callable[[*A], R], *args: *A) -> R:
        with _failing(step):
            return await self._run(work, *args)


async def _delete(names: Sequence[str]) -> None:
    if names:
        await asyncio.to_thread(delete_links, names)


@contextmanager
def _failing(step: str, container: str | None = None) -> Iterator[None]:
    """What fails on the host is told as SubstrateFailed of step `network.<step>`."""
    step = f"network.{step}"
    try:
        yield
    except ProcessLookupError as error:
        raise SubstrateFailed(
            f"The container's process cannot be connected: {error}. Start the container again.", step=step, id=container
        ) from error
    except LookupError as error:
        raise SubstrateFailed(f"{error.args[0]}; make it first.", step=step, id=container) from error
    except NftError as error:
        raise SubstrateFailed(
            f"nftables refused: {error}. See that this host has it, and that we run as root.", step=step, id=container
        ) from error
    except OSError as error:
        raise SubstrateFailed(
            f"The network of this host could not be changed: {error}. Try again; `portlayer doctor` checks the host.",
            step=step,
            id=container,
        ) from error


def _check_ports(endpoint: EndpointSpec, network: NetworkSpec) -> None:
    if network.internal and endpoint.ports:
        raise Unsupported(f"Network {network.name} is internal: ports in it cannot be published.", option="ports")
    for port in endpoint.ports:
        if ":" in port.host_address and not endpoint.address6:
            raise Unsupported(
                f"Network {network.name} has no IPv6: its ports cannot be published on {port.host_address}.",
                option="hostAddress",
            )
