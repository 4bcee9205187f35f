"""The Linux substrate: four drivers over one host, and what two of them share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from portlayer.interfaces.substrate import COMPONENTS, ExecutionDriver, InteractionDriver, NetworkDriver, StorageDriver
from portlayer.model.errors import PortlayerError, SubstrateFailed, Unavailable
from portlayer.model.hosts import Capacity
from portlayer.substrates.linux.execution import RUNTIME_SECONDS, LinuxExecution
from portlayer.substrates.linux.exits import Exits
from portlayer.substrates.linux.inotify import Inotify
from portlayer.substrates.linux.interaction import LinuxInteraction
from portlayer.substrates.linux.live import make_directories, open_live
from portlayer.substrates.linux.network import LinuxNetwork
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.storage import LinuxStorage


class LinuxSubstrate:
    """`interfaces.substrate.Substrate`. runtime: `crun`, `runc`, or the path of one; None chooses by trying.

    runtime_seconds: how long a call of it may take.
    """

    name = "linux"

    def __init__(self, paths: Paths, runtime: str | None = None, *, runtime_seconds: float = RUNTIME_SECONDS) -> None:
        self._paths = paths
        self._features: dict[str, str] = {}
        self._components = COMPONENTS
        self._inotify = Inotify()
        self._exits = Exits(paths, self._inotify)
        self._storage = LinuxStorage(paths)
        self._network = LinuxNetwork(paths)
        self._execution = LinuxExecution(
            paths, self._exits, self._network.ahead, runtime or "", runtime_seconds=runtime_seconds
        )
        self._interaction = LinuxInteraction(paths, self._exits, self._inotify)
        self.storage: StorageDriver = self._storage
        self.execution: ExecutionDriver = self._execution
        self.network: NetworkDriver = self._network
        self.interaction: InteractionDriver = self._interaction

    async def start(self, components: frozenset[str] = COMPONENTS) -> Mapping[str, str]:
        if self._features:
            return self._features
        if os.geteuid() != 0:
            raise Unavailable("The Linux substrate needs root: mounts, namespaces and control groups. Run it as root.")
        self._components = components
        try:
            if components & {"execution", "interaction"}:
                _open_live(self._paths)
                self._inotify.start()
                self._exits.adopting = "execution" not in components
                self._exits.start()
            if components & {"execution", "storage"}:
                await self._storage.start()
            self._features = {"linux": os.uname().release}
            if "execution" in components:
                self._features |= await self._execution.start()
            if components & {"execution", "network"}:
                self._features |= await self._network.start()
            if "execution" in components:
                await self._network.serve_names()
        except BaseException:
            with contextlib.suppress(OSError, PortlayerError):  # why it does not start says more
                await self._let_go()
            await self.close()
            raise
        return self._features

    async def _look(self) -> None:
        """What looking around needs, where the substrate is not started: that makes nothing on the host."""
        if not self._features:
            make_directories(self._paths)
            await self._network.start()

    async def capacity(self) -> Capacity:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Capacity(cpus=float(os.cpu_count() or 1), memory_bytes=memory)

    async def close(self) -> None:
        if self._features:
            await self._let_go()
        self._interaction.close()
        self._exits.close()
        self._inotify.close()
        await self._execution.close()
        await self._network.close()
        await self._storage.close()

    async def _let_go(self) -> None:
        """Where no process is left, nothing has to stay on the host: unless somebody else looks after what it does."""
        if not {"execution", "interaction"} <= self._components:
            return
        try:
            idle = not await self._execution.present()
        except SubstrateFailed:
            return  # nobody knows what is left: it is the next server's
        if idle:
            await self._execution.purge()
            await self._network.rest()
            await self._storage.let_go()

    async def leftovers(self) -> list[str]:
        await self._look()
        return [
            *await self._execution.leftovers(),
            *await self._network.leftovers(),
            *await self._storage.leftovers(),
        ]

    async def purge(self) -> None:
        await self._look()
        await self._execution.purge()
        await self._network.purge()
        await self._storage.purge()


def _open_live(paths: Paths) -> None:
    try:
        open_live(paths)
    except OSError as error:
        raise Unavailable(f"A tmpfs cannot be mounted at {paths.live}: {error.strerror}; run as root.") from error
