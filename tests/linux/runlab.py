"""Containers on this host for tests of execution and interaction: the conformance bench with a runtime of choice."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from conformance.substrate_bench import Bench, Started

from portlayer.model.execution import Resources
from portlayer.model.network import EndpointSpec, NetworkSpec
from portlayer.substrates.linux import mounts
from portlayer.substrates.linux.incarnation import Incarnation, Record
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.substrate import LinuxSubstrate

CGROUPS = Path("/sys/fs/cgroup")
DYING_SECONDS = 20.0


class RunLab(Bench):
    def __init__(self, home: Path, runtime: str) -> None:
        self.home = home
        self.runtime = runtime
        self.paths = Paths(state=home / "state", run=home / "run", instance=os.urandom(4).hex())
        self.substrate: LinuxSubstrate = LinuxSubstrate(self.paths, runtime)

    async def tear_down(self) -> None:
        await super().tear_down()
        shutil.rmtree(self.home)

    async def restart(self) -> None:
        await self.substrate.close()
        self.substrate = LinuxSubstrate(self.paths, self.runtime)
        await self.substrate.start()

    async def reaches(self, started: Started, address: str) -> bool:
        raise NotImplementedError

    async def published(self) -> set[str]:
        raise NotImplementedError

    async def limits(self, started: Started) -> Resources:
        raise NotImplementedError

    async def lose_link(self, started: Started, endpoint: EndpointSpec) -> None:
        raise NotImplementedError

    async def lose_network(self, network: NetworkSpec) -> None:
        raise NotImplementedError

    async def lose_mount(self, started: Started) -> None:
        raise NotImplementedError

    def record(self, started: Started) -> Record:
        found = Incarnation(self.paths, started.incarnation).record()
        assert found is not None
        return found

    async def facts(self, script: str, **fields: object) -> dict[str, str]:
        """What *script* prints, a `name: value` each line."""
        ran = await self.ran("sh", "-c", script, **fields)
        assert ran.exit_code == 0, ran
        pairs = (line.partition(":") for line in ran.stdout.decode().splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs}

    async def traces(self) -> list[str]:
        """What the host shows of this instance's processes, groups and directories. Of processes that have been killed
        it shows something until they are dead."""
        deadline = time.monotonic() + DYING_SECONDS
        while any(self.processes()) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return [*self.processes(), *self._groups(), *(path.name for path in self.paths.incarnations.iterdir())]

    def _groups(self) -> Iterator[str]:
        for above in ("", "*/"):
            for parent in CGROUPS.glob(f"{above}portlayer-{self.paths.instance}"):
                yield from (str(path) for path in parent.iterdir() if path.is_dir())

    def processes(self) -> Iterator[str]:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if os.fsencode(self.home) in command:
                yield f"{process.name} {command!r}"

    def mounted(self) -> list[str]:
        return [str(mount.target) for mount in mounts.mounts_under(self.paths.incarnations)]
