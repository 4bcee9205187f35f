"""The Linux substrate, held to the suites of every substrate; as root, on this host."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import socket
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conformance.substrate_bench import Bench, Started
from conformance.substrate_execution import ExecutionSuite
from conformance.substrate_interaction import InteractionSuite
from conformance.substrate_network import NetworkSuite
from conformance.substrate_storage import StorageSuite

from portlayer.model.execution import Resources
from portlayer.model.network import EndpointSpec, NetworkSpec
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.substrate import LinuxSubstrate

CLONE_NEWNET = 0x40000000
REACH_SECONDS = 0.5
CGROUPS = Path("/sys/fs/cgroup")


class LinuxBench(Bench):
    def __init__(self, home: Path) -> None:
        self._home = home
        self._paths = Paths(state=home / "state", run=home / "run", instance=os.urandom(4).hex())
        self.substrate = LinuxSubstrate(self._paths)

    async def tear_down(self) -> None:
        await super().tear_down()
        shutil.rmtree(self._home)

    async def restart(self) -> None:
        await self.substrate.close()
        self.substrate = LinuxSubstrate(self._paths)
        await self.substrate.start()

    async def reaches(self, started: Started, address: str) -> bool:
        return await asyncio.to_thread(_reaches, main_pid(started), address)

    async def published(self) -> set[str]:
        table = f"portlayer_{self._paths.instance}"
        listing = await asyncio.create_subprocess_exec("nft", "list", "table", "inet", table, stdout=PIPE)
        said, _ = await listing.communicate()
        return set(re.findall(r'comment "(\w+)" :', said.decode()))

    async def limits(self, started: Started) -> Resources:
        return Resources(**await asyncio.to_thread(_limits, main_pid(started)))

    async def lose_link(self, started: Started, endpoint: EndpointSpec) -> None:
        wiring = self.substrate._network._wiring
        await _run("ip", "link", "delete", wiring.veth_name(started.incarnation, endpoint.id))

    async def lose_network(self, network: NetworkSpec) -> None:
        await _run("ip", "link", "delete", self.substrate._network._wiring._bridge_name(network.id))

    async def lose_mount(self, started: Started) -> None:
        await _run("umount", "--lazy", str(self._paths.rootfs(started.spec.id)))


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


def main_pid(started: Started) -> int:
    """The main process: pid 1 of its namespace, in control groups that are named after the incarnation."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if started.incarnation in (process / "cgroup").read_text() and _is_first(process):
                return int(process.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    raise AssertionError(f"{started.spec.id} has no main process")


def _is_first(process: Path) -> bool:
    pids = next(line for line in (process / "status").read_text().splitlines() if line.startswith("NSpid:"))
    return pids.split()[-1] == "1"


def _reaches(pid: int, address: str) -> bool:
    """Connect to a closed port from the network namespace of *pid*: who refuses is there.

    A thread that has entered a namespace stays in it, so it is one of its own.
    """
    answers: list[bool] = []

    def connect() -> None:
        with Path(f"/proc/{pid}/ns/net").open() as namespace:
            assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) == 0
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as connection:
            connection.settimeout(REACH_SECONDS)
            try:
                connection.connect((address, 9))
            except ConnectionRefusedError:
                answers.append(True)
            except OSError:
                answers.append(False)

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    return answers[0]


def _limits(pid: int) -> dict[str, float | int]:
    """The limits of the cgroups of *pid*, as Resources has them; what is not limited is left out."""
    groups: dict[str, Path] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller.removeprefix("name=")] = Path(path.lstrip("/"))
    if "memory" in groups:
        return _limits_v1(groups)
    folder = CGROUPS / groups[""]
    quota, period = (folder / "cpu.max").read_text().split()
    found = {"memory_bytes": (folder / "memory.max").read_text(), "pids": (folder / "pids.max").read_text()}
    limits: dict[str, float | int] = {name: int(value) for name, value in found.items() if value.strip() != "max"}
    return limits if quota == "max" else limits | {"cpus": int(quota) / int(period)}


def _limits_v1(groups: dict[str, Path]) -> dict[str, float | int]:
    def read(controller: str, name: str) -> str:
        return (CGROUPS / controller / groups[controller] / name).read_text().strip()

    limits: dict[str, float | int] = {}
    if int(read("memory", "memory.limit_in_bytes")) < 1 << 62:
        limits["memory_bytes"] = int(read("memory", "memory.limit_in_bytes"))
    if read("pids", "pids.max") != "max":
        limits["pids"] = int(read("pids", "pids.max"))
    quota = int(read("cpu", "cpu.cfs_quota_us"))
    if quota > 0:
        limits["cpus"] = quota / int(read("cpu", "cpu.cfs_period_us"))
    return limits


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[LinuxBench]:
    bench = LinuxBench(tmp_path)
    await bench.set_up()
    yield bench
    await bench.tear_down()


class TestStorage(StorageSuite):
    pass


class TestExecution(ExecutionSuite):
    pass


class TestNetwork(NetworkSuite):
    pass


class TestInteraction(InteractionSuite):
    pass
