"""`podman system service` through libpod's API, with netavark.

Of its two APIs libpod's is the faster one, and the faster the oftener it looks whether a container has ended: a look
every 20 ms measured best (its default, 250 ms, would only add waiting). Its default runtime, crun, refuses the hybrid
cgroup layout; without the empty v2 tree it works and beats runc, so podman gets that.
"""

from __future__ import annotations

from pathlib import Path

from bench import image
from bench.http import Client
from bench.jail import Jail
from bench.peers import Life, life_in_steps

API = "/v4.0.0/libpod"
CONFIG = """
[containers]
# Podman's own defaults are above the hard limits of many hosts, where nobody may raise them.
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
[network]
network_backend = "netavark"
network_config_dir = "{directory}/networks"
default_subnet = "10.232.0.0/24"
"""


class Podman:
    name = "podman"
    bridged = True

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jail = Jail(directory)
        self._http = Client(directory / "podman.sock")
        self._config = directory.with_name("containers.conf")
        self._argv = (
            *("podman", "--root", str(directory / "root"), "--runroot", str(directory / "run")),
            *("system", "service", "--time", "0", f"unix://{directory}/podman.sock"),
        )

    async def open(self) -> str:
        self._config.write_text(CONFIG.format(directory=self._directory))
        await self._jail.start(self._argv, environment={"CONTAINERS_CONF": str(self._config)}, cgroup2=False)
        await self._jail.until(lambda: self._http.call("GET", f"{API}/info"))
        await self._http.send("POST", f"{API}/images/load", image.archive(image.layer()), "application/x-tar")
        info = await self._http.call("GET", f"{API}/info")
        runtime, conmon = info["host"]["ociRuntime"], info["host"]["conmon"]
        return f"{info['version']['Version']} ({runtime['package']}, {conmon['package']}, netavark)"

    async def life(self, *, bridge: bool) -> Life:
        return await life_in_steps(self, bridge=bridge)

    async def create(self, command: tuple[str, ...], *, bridge: bool) -> str:
        body = {"image": image.NAME, "command": command, "netns": {"nsmode": "bridge" if bridge else "none"}}
        return str((await self._http.call("POST", f"{API}/containers/create", body))["Id"])

    async def start_and_wait(self, container: str) -> None:
        await self.start(container)
        await self._http.call("POST", f"{API}/containers/{container}/wait?interval=20ms")

    async def start(self, container: str) -> None:
        await self._http.call("POST", f"{API}/containers/{container}/start")

    async def remove(self, container: str) -> None:
        await self._http.call("DELETE", f"{API}/containers/{container}?force=true&timeout=0")

    def processes(self) -> frozenset[int]:
        return self._jail.processes()

    async def close(self) -> None:
        self._http.close()
        await self._jail.kill()
