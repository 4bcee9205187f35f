"""containerd through `ctr`, its own tool. It makes no bridge: that would take CNI plugins."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from bench import image
from bench.jail import Jail
from bench.peers import TRUE, Life
from bench.spawner import Spawner

CONFIG = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{directory}/containerd.sock"
"""


class Containerd:
    name = "ctr"
    bridged = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jail = Jail(directory)
        self._spawner = Spawner(directory / "spawner.sock")
        self._config = directory.with_name("containerd.toml")
        self._numbers = itertools.count()

    async def open(self) -> str:
        self._config.write_text(CONFIG.format(directory=self._directory))
        server = ("containerd", "--config", str(self._config))
        socket = str(self._directory / "spawner.sock")
        await self._jail.start((sys.executable, "-m", "bench.spawner", socket, *server))
        await self._jail.until(self._answers)
        archive = self._directory / "image.tar"
        archive.write_bytes(image.archive(image.layer()))
        await self._ctr("images", "import", str(archive))
        return (await self._spawner.run("containerd", "--version")).split()[2]

    async def life(self, *, bridge: bool) -> Life:
        _refuse(bridge=bridge)
        began = time.perf_counter()
        await self._ctr("run", "--rm", image.NAME, self._name(), *TRUE)
        removed = time.perf_counter() - began
        return Life(removed, removed)

    async def create(self, command: tuple[str, ...], *, bridge: bool) -> str:
        _refuse(bridge=bridge)
        container = self._name()
        await self._ctr("containers", "create", image.NAME, container, *command)
        return container

    async def start_and_wait(self, container: str) -> None:
        await self._ctr("tasks", "start", container)

    async def start(self, container: str) -> None:
        await self._ctr("tasks", "start", "--detach", container)

    async def remove(self, container: str) -> None:
        if container in await self._ctr("tasks", "list", "--quiet"):
            await self._ctr("tasks", "delete", "--force", container)
        await self._ctr("containers", "delete", container)

    def processes(self) -> frozenset[int]:
        return self._jail.processes()

    async def close(self) -> None:
        self._spawner.close()
        await self._jail.kill()

    async def _answers(self) -> None:
        try:
            await self._ctr("version")
        except RuntimeError as error:
            raise OSError(str(error)) from error

    async def _ctr(self, *arguments: str) -> str:
        return await self._spawner.run("ctr", "--address", f"{self._directory}/containerd.sock", *arguments)

    def _name(self) -> str:
        return f"bench-{next(self._numbers)}"


def _refuse(*, bridge: bool) -> None:
    if bridge:
        raise ValueError("ctr makes no bridge")
