"""dockerd through its API, with the containerd that it starts for itself, and overlay2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import image
from bench.http import Client
from bench.jail import Jail
from bench.peers import SLEEP, Life, life_in_steps

API = "/v1.41"


class Docker:
    name = "dockerd"
    bridged = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jail = Jail(directory)
        socket = directory / "docker.sock"
        self._http = Client(socket)
        self._argv = (
            *("dockerd", "--host", f"unix://{socket}", "--storage-driver", "overlay2", "--bip", "10.231.0.1/24"),
            *("--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")),
            *("--pidfile", str(directory / "pid"), "--cgroup-parent", "/docker"),
        )

    async def open(self) -> str:
        await self._jail.start(self._argv)
        await self._jail.until(lambda: self._http.call("GET", "/version"))
        await self._http.send("POST", f"{API}/images/load", image.archive(image.layer()), "application/x-tar")
        version = await self._http.call("GET", "/version")
        parts = {part["Name"]: part["Version"] for part in version["Components"]}
        return f"{version['Version']} (containerd {parts['containerd']}, runc {parts['runc']})"

    async def life(self, *, bridge: bool) -> Life:
        return await life_in_steps(self, bridge=bridge)

    async def create(self, command: tuple[str, ...], *, bridge: bool) -> str:
        body = {"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": "bridge" if bridge else "none"}}
        return str((await self._http.call("POST", f"{API}/containers/create", body))["Id"])

    async def start_and_wait(self, container: str) -> None:
        await self.start(container)
        await self._http.call("POST", f"{API}/containers/{container}/wait")

    async def start(self, container: str) -> None:
        await self._http.call("POST", f"{API}/containers/{container}/start")

    async def remove(self, container: str) -> None:
        await self._http.call("DELETE", f"{API}/containers/{container}?force=true")

    def processes(self) -> frozenset[int]:
        return self._jail.processes()

    async def default_spec(self) -> dict[str, Any]:
        """The config.json that dockerd writes for a container without options."""
        container = await self.create(SLEEP, bridge=False)
        await self.start(container)
        path = next((self._directory / "exec").glob(f"**/{container}/config.json"))
        spec: dict[str, Any] = json.loads(path.read_text())
        await self.remove(container)
        return spec

    async def close(self) -> None:
        self._http.close()
        await self._jail.kill()
