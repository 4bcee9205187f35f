"""A port layer that can be killed and started again: a driver over REST, and what must hold of it on the host."""

from __future__ import annotations

import asyncio
import json
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from driver import ME, Driver
from e2e import forked
from e2e.hostview import HostView, Process

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.rest.client import RestClient

_SECONDS = 30
_SETTLED_SECONDS = 10
_SHIFT = 0.02


class Killable(Driver):
    """A server in *directory*, and a client of it."""

    def __init__(self, directory: Path) -> None:
        self.host = HostView(directory)
        self._directory = directory
        self._log = directory / "log"
        self._process: ForkServerProcess | None = None
        self._client: RestClient | None = None
        self._environment = {"PORTLAYER_STATE": str(self.host.state), "PORTLAYER_RUN": str(self.host.run)}

    async def start(self, failpoints: str = "*=log") -> None:
        """Start a server, and wait until it serves."""
        environment = {**self._environment, "PORTLAYER_FAILPOINTS": failpoints}
        self._process, reading = forked.start(["serve"], environment, self._log)
        said = await asyncio.to_thread(forked.output, reading, until=b"\n")
        assert b"serves unix://" in said, self.log()
        self._client = RestClient(f"unix://{self.host.run}/portlayer.sock")
        self.pl = self._client.components

    async def restart(self, failpoints: str = "*=log") -> None:
        """Stop the server once all that it does is done, and start another."""
        await self.stop()
        await self.start(failpoints)

    def strike(self) -> None:
        """SIGKILL to the server, whatever it does; `end` is to follow."""
        assert self._process is not None
        self._process.kill()

    async def stop(self) -> None:
        """SIGTERM to the server, which ends well."""
        assert self._process is not None
        self._process.terminate()
        assert await self.end() == 0, self.log()

    async def end(self) -> int:
        """How the server ended, which it does by itself."""
        assert self._process is not None
        assert self._client is not None
        await asyncio.to_thread(self._process.join, _SECONDS)
        await self._client.close()
        code = self._process.exitcode
        assert code is not None, self.log()
        self._process.close()
        self._process = None
        return code

    async def close(self) -> None:
        """End it all; whatever the test has left is taken off the host."""
        if self._process is not None:
            self.strike()
            await self.end()
        await self.cleanup("--apply")

    async def cleanup(self, *options: str) -> str:
        """What `portlayer cleanup` says."""
        process, reading = forked.start(["cleanup", *options], self._environment, self._log)
        said = await asyncio.to_thread(forked.output, reading)
        await asyncio.to_thread(process.join, _SECONDS)
        process.close()
        return said.decode()

    async def clear_setting(self) -> None:
        """Remove what no container uses: all networks, volumes and images."""
        for network in (await self.pl.network.list_networks(ME, n.ListNetworks())).networks:
            await self.pl.network.delete_network(ME, n.NetworkRef(ref=network.id))
        for volume in (await self.pl.storage.list_volumes(ME, s.ListVolumes())).volumes:
            await self.pl.storage.delete_volume(ME, s.VolumeRef(ref=volume.id))
        for image in (await self.pl.storage.list_images(ME, s.ListImages())).images:
            await self.pl.storage.delete_image(ME, s.DeleteImage(ref=image.id, prune=True))

    def log(self) -> str:
        return self._log.read_text()

    def passed(self) -> list[str]:
        """The failpoints that were passed so far, as the log tells."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line["message"] for line in lines if line["logger"] == "portlayer.failpoints"]

    async def agree(self) -> None:
        """The records and the host say the same, once the kernel and recovery have had a moment."""
        async with asyncio.timeout(_SETTLED_SECONDS + _SECONDS):
            for _ in range(int(_SETTLED_SECONDS / _SHIFT)):
                differences = await self.differences()
                if not differences:
                    return
                await asyncio.sleep(_SHIFT)
        raise AssertionError(f"records and host differ: {differences}\n{self.log()[-1000:]}")

    async def differences(self) -> list[str]:
        """Where the host is not as the API says; nothing may be there that no record explains."""
        listed = (await self.pl.execution.list_containers(ME, e.ListContainers())).containers
        networks = (await self.pl.network.list_networks(ME, n.ListNetworks())).networks
        volumes = (await self.pl.storage.list_volumes(ME, s.ListVolumes())).volumes
        images = (await self.pl.storage.list_images(ME, s.ListImages())).images
        return [
            *_unlike("endpoints that publish", self.host.published(), _publishing(listed)),
            *self._of_containers({one.id: one for one in listed}),
            *_more("bridges", len(self.host.links("b")), len(networks)),
            *_strange("volume", self.host.trees("volumes"), {volume.id for volume in volumes}),
            *_strange("tree", self.host.trees("containers"), {one.id for one in listed}),
            *_strange("disk in use", self.host.disks(), _mounted(listed, volumes)),
            *_unlike("layers", self.host.trees("layers"), _layers(images)),
            *(f"{area} has {sorted(self.host.trees(area))}" for area in _TRANSIENT if self.host.trees(area)),
        ]

    def _of_containers(self, known: dict[str, e.Container]) -> list[str]:
        processes = self.host.processes()
        having = {process.container for process in processes}
        active = {ident for ident, one in known.items() if one.state in ("running", "paused")}
        idle = {ident for ident, one in known.items() if one.state == "created"}
        made = self.host.incarnations()
        return [
            *_between("process", having, active, active | idle),
            *_between("mount", self.host.mounted(), active, set(known)),
            *_strange("incarnation", set(made.values()), set(known)),
            *_strange("group", self.host.groups(), set(made)),
            *_unlike("shims", {str(self.host.holders())}, {str(len(processes))}),
            *_more("processes", len(processes), len(having)),
            *(
                difference
                for process in processes
                for difference in _unlike_process(process, known.get(process.container))
            ),
            *_more("veths", len(self.host.links("v")), sum(len(process.addresses) for process in processes)),
        ]


_TRANSIENT = ("staging", "trash", "uploads")


def _unlike_process(process: Process, container: e.Container | None) -> list[str]:
    if container is None:
        return []
    bound = {endpoint.address for endpoint in container.endpoints if endpoint.state == "bound"}
    return [
        *_unlike(f"addresses of {container.name}", set(process.addresses), bound),
        *_unlike(f"frozen {container.name}", {str(process.frozen)}, {str(container.state == "paused")}),
    ]


def _layers(images: tuple[s.Image, ...]) -> set[str]:
    return {layer.diff_id.removeprefix("sha256:") for image in images for layer in image.layers}


def _publishing(containers: tuple[e.Container, ...]) -> set[str]:
    running = [one for one in containers if one.state in ("running", "paused")]
    return {end.id for one in running for end in one.endpoints if end.ports and end.state == "bound"}


def _mounted(containers: tuple[e.Container, ...], volumes: tuple[s.Volume, ...]) -> set[str]:
    names = {mount.volume for container in containers for mount in container.mounts}
    return {volume.id for volume in volumes if volume.name in names}


def _strange(what: str, found: set[str], explained: set[str]) -> list[str]:
    return [f"no record explains {what} {each!r}" for each in sorted(found - explained)]


def _between(what: str, found: set[str], least: set[str], most: set[str]) -> list[str]:
    return [*_strange(what, found, most), *(f"{each!r} has no {what}" for each in sorted(least - found))]


def _unlike(what: str, found: set[str], wanted: set[str]) -> list[str]:
    return [] if found == wanted else [f"{what}: {sorted(found)} on the host, {sorted(wanted)} by the records"]


def _more(what: str, found: int, most: int) -> list[str]:
    return [f"{found} {what} on the host, {most} by the records"] if found > most else []
