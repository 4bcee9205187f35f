"""A bare OCI runtime with Docker's default spec on an unpacked image: no image store, no network, no log, no API.

What it takes is the floor of every engine that starts containers through it. It makes no bridge; its one time is the
reference for both kinds of container.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench import image
from bench.jail import Jail
from bench.peers import TRUE, Life, PeerUnavailable
from bench.peers.docker import Docker
from bench.spawner import Spawner


class Oci:
    bridged = False

    def __init__(self, directory: Path, runtime: str, docker: Docker) -> None:
        self.name = runtime
        self._directory = directory
        self._docker = docker
        self._jail = Jail(directory)
        self._spawner = Spawner(directory / "spawner.sock")
        self._bundles: list[Path] = []
        self._numbers = itertools.count()

    async def open(self) -> str:
        try:
            spec = await self._docker.default_spec()
        except (OSError, EOFError) as error:
            raise PeerUnavailable("Docker's default spec is taken from dockerd, which does not run") from error
        await self._jail.start(
            (sys.executable, "-m", "bench.spawner", str(self._directory / "spawner.sock")), cgroup2=False
        )
        await self._jail.until(lambda: self._spawner.run(self.name, "--version"))
        self._spec = default_spec(spec, self._directory)
        image.unpack(image.layer(), self._directory / "rootfs")
        for name in ("hostname", "hosts", "resolv.conf"):
            (self._directory / name).touch()
        return " ".join((await self._spawner.run(self.name, "--version")).splitlines()[0].split()[2:])

    async def life(self, *, bridge: bool) -> Life:
        if bridge:
            raise ValueError("a bare runtime makes no bridge")
        bundle = self._bundles.pop() if self._bundles else self._new_bundle()
        began = time.perf_counter()
        await self._spawner.run(
            *(self.name, "--root", str(self._directory / "state"), "run", "--bundle", str(bundle)), bundle.name
        )
        removed = time.perf_counter() - began
        self._bundles.append(bundle)
        return Life(removed, removed)

    async def close(self) -> None:
        self._spawner.close()
        await self._jail.kill()

    def _new_bundle(self) -> Path:
        bundle = self._directory / f"bundle-{next(self._numbers)}"
        bundle.mkdir()
        self._spec["linux"]["cgroupsPath"] = f"/bench/{bundle.name}"
        (bundle / "config.json").write_text(json.dumps(self._spec))
        return bundle


def default_spec(docker: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Docker's config.json without what is of that one container: hooks, limits of the host, files in its state."""
    spec = copy.deepcopy(docker)
    spec.pop("hooks", None)
    spec["process"].pop("rlimits", None)
    spec["process"]["args"] = list(TRUE)
    spec["process"]["env"] = ["PATH=/bin"]
    spec["root"] = {"path": str(directory / "rootfs")}
    for mount in spec["mounts"]:
        if mount["type"] == "bind":
            mount["source"] = str(directory / Path(mount["destination"]).name)
    for namespace in spec["linux"]["namespaces"]:
        namespace.pop("path", None)
    return spec
