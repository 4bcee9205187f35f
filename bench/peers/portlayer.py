"""Ourselves over REST: as one `compose` call, and (the second peer) as the single calls of the seed's workflow."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from bench import image
from bench.http import Client, HttpError
from bench.jail import Jail
from bench.peers import TRUE, Life, PeerUnavailable

VCH = "/v1/vchs/default"
NETWORK = "bench"


class Portlayer:
    """runtime: the OCI runtime that it is held to; empty leaves the choice to its probe."""

    bridged = True

    def __init__(self, directory: Path, name: str = "portlayer", runtime: str = "") -> None:
        self.name = name
        self._runtime = runtime
        self.directory = directory
        self._jail = Jail(directory)
        self.http = Client(directory / "run" / "portlayer.sock")

    async def open(self) -> str:
        environment = {"PORTLAYER_STATE": f"{self.directory}/state", "PORTLAYER_RUN": f"{self.directory}/run"}
        if self._runtime:
            environment["PORTLAYER_RUNTIME"] = self._runtime
        command = Path(sys.executable).with_name("portlayer")
        if not command.exists():
            raise PeerUnavailable(f"{command} is not installed")
        await self._jail.start(self._serving(str(command)), environment=environment)
        await self._jail.until(self._ready)
        archive = image.archive(image.layer())
        await self.http.send("POST", f"{VCH}/storage/images/import?name=busybox", archive, "application/x-tar")
        subnets = [{"subnet": "10.233.0.0/24"}]
        await self.http.call("POST", f"{VCH}/network/networks", {"name": NETWORK, "type": "bridge", "subnets": subnets})
        info = await self.http.call("GET", "/v1/info")
        return str(info["version"])

    def _serving(self, command: str) -> tuple[str, ...]:
        return (command, "serve")

    async def life(self, *, bridge: bool) -> Life:
        began = time.perf_counter()
        container = await self._compose(TRUE, bridge=bridge, start=True)
        await self.wait(container)
        exited = time.perf_counter()
        await self.remove(container)
        return Life(exited - began, time.perf_counter() - began)

    async def create(self, command: tuple[str, ...], *, bridge: bool) -> str:
        return await self._compose(command, bridge=bridge, start=False)

    async def start_and_wait(self, container: str) -> None:
        await self.start(container)
        await self.wait(container)

    async def start(self, container: str) -> None:
        handle = (await self.http.call("POST", f"{VCH}/execution/containers/{container}/handle"))["handle"]
        start = {"call": "execution/set-state", "handle": handle, "state": "running"}
        steps = [start, {"call": "execution/commit"}]
        await self.http.call("POST", f"{VCH}/execution/compose", {"steps": steps})

    async def wait(self, container: str) -> None:
        """Wait for its exit."""
        await self.http.call("GET", f"{VCH}/execution/containers/{container}/wait")

    async def remove(self, container: str) -> None:
        await self.http.call("DELETE", f"{VCH}/execution/containers/{container}?force=true")

    def processes(self) -> frozenset[int]:
        return self._jail.processes()

    async def close(self) -> None:
        self.http.close()
        await self._jail.kill()

    async def _ready(self) -> None:
        await self.ready_at(self.http)

    @staticmethod
    async def ready_at(http: Client) -> None:
        """Raises OSError until the server behind *http* is ready."""
        try:
            await http.call("GET", "/readyz")
        except HttpError as error:
            raise OSError(str(error)) from error

    async def _compose(self, command: tuple[str, ...], *, bridge: bool, start: bool) -> str:
        steps: list[dict[str, Any]] = [
            {"call": "execution/create", "image": "busybox", "process": {"args": command}},
        ]
        if bridge:
            steps += [{"call": "network/join", "network": NETWORK}, {"call": "network/bind"}]
        if start:
            steps.append({"call": "execution/set-state", "state": "running"})
        steps.append({"call": "execution/commit"})
        composed = await self.http.call("POST", f"{VCH}/execution/compose", {"steps": steps})
        return str(composed["answers"][-1]["id"])


class SeparateCalls:
    """The same server with a round trip for each verb: create and commit, then handle, set-state and commit."""

    bridged = True

    def __init__(self, portlayer: Portlayer) -> None:
        self.name = f"{portlayer.name}, call by call"
        self._portlayer = portlayer

    async def open(self) -> str:
        try:
            return str((await self._portlayer.http.call("GET", "/v1/info"))["version"])
        except OSError as error:
            raise PeerUnavailable("the port layer does not run") from error

    async def life(self, *, bridge: bool) -> Life:
        began = time.perf_counter()
        created = await self._verb("execution/create", image="busybox", process={"args": TRUE})
        container, handle = created["id"], created["handle"]
        if bridge:
            handle = (await self._verb("network/join", handle=handle, network=NETWORK))["handle"]
            handle = (await self._verb("network/bind", handle=handle))["handle"]
        await self._verb("execution/commit", handle=handle)
        handle = (await self._verb(f"execution/containers/{container}/handle"))["handle"]
        handle = (await self._verb("execution/set-state", handle=handle, state="running"))["handle"]
        await self._verb("execution/commit", handle=handle)
        await self._portlayer.wait(container)
        exited = time.perf_counter()
        await self._portlayer.remove(container)
        return Life(exited - began, time.perf_counter() - began)

    async def close(self) -> None:
        """The server is the other peer's."""

    async def _verb(self, verb: str, **fields: Any) -> Any:
        return await self._portlayer.http.call("POST", f"{VCH}/{verb}", fields)
