"""The Linux substrate: four drivers over one host, and what two of them share."""

from __future__ import annotations

import os
from collections.abc import Mapping

from portlayer.model.errors import Unavailable
from portlayer.substrates.linux.execution import LinuxExecution
from portlayer.substrates.linux.exits import Exits
from portlayer.substrates.linux.incarnation import exits
from portlayer.substrates.linux.inotify import Inotify
from portlayer.substrates.linux.interaction import LinuxInteraction
from portlayer.substrates.linux.network import LinuxNetwork
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.storage import LinuxStorage


class LinuxSubstrate:
    """`interfaces.substrate.Substrate`. runtime: `crun`, `runc`, or the path of one; None chooses by trying."""

    name = "linux"

    def __init__(self, paths: Paths, runtime: str | None = None) -> None:
        self._paths = paths
        self._features: Mapping[str, str] = {}
        self._inotify = Inotify()
        self._exits = Exits(paths, self._inotify)
        self.storage = LinuxStorage(paths)
        self.execution = LinuxExecution(paths, self._exits, runtime or "")
        self.network = LinuxNetwork(paths)
        self.interaction = LinuxInteraction(paths, self._exits, self._inotify)

    async def start(self) -> Mapping[str, str]:
        if self._features:
            return self._features
        if os.geteuid() != 0:
            raise Unavailable("The Linux substrate needs root: mounts, namespaces and control groups. Run it as root.")
        try:
            for directory in (self._paths.incarnations, exits(self._paths)):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self.storage.start()
            self._inotify.start()
            self._exits.start()
            self._features = {**await self.execution.start(), **await self.network.start()}
        except BaseException:
            await self.close()
            raise
        return self._features

    async def close(self) -> None:
        self.interaction.close()
        self._exits.close()
        self._inotify.close()
        await self.execution.close()
        await self.network.close()
        await self.storage.close()

    async def leftovers(self) -> list[str]:
        return [
            *await self.execution.leftovers(),
            *await self.network.leftovers(),
            *await self.storage.leftovers(),
        ]

    async def purge(self) -> None:
        await self.execution.purge()
        await self.network.purge()
        await self.storage.purge()
