"""The same port layer in one process, and with each component in a process of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bench.http import Client
from bench.jail import read
from bench.peers.portlayer import Portlayer

COMPONENTS = ("storage", "execution", "network", "interaction")


class Together(Portlayer):
    """In one process."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "colocated")
        self.clients = {"main": self.http}

    def servers(self) -> list[int]:
        """The pids of the processes of the port layer."""
        return [pid for pid in self.processes() if "serve" in read(Path(f"/proc/{pid}/cmdline")).split("\0")]

    @contextlib.contextmanager
    def on_one_core(self) -> Iterator[None]:
        """All servers on one core, and who measures on another, where there is one."""
        everywhere = os.sched_getaffinity(0)
        first, *_, last = sorted(everywhere) * 2
        try:
            for pid, cores in [(0, {first}), *((pid, {last}) for pid in self.servers())]:
                _pin(pid, cores)
            yield
        finally:
            for pid in (0, *self.servers()):
                _pin(pid, everywhere)

    async def close(self) -> None:
        for client in self.clients.values():
            client.close()
        await super().close()


class Apart(Together):
    """Each in a process of its own. clients: to each of them by its component's name."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.name = "apart"
        self.clients = {name: Client(directory / "run" / f"{name}.sock") for name in COMPONENTS}

    def _serving(self, command: str) -> tuple[str, ...]:
        topology = self.directory.with_suffix(".toml")
        topology.write_text("\n".join(f'[processes.{name}]\ncomponents = ["{name}"]' for name in COMPONENTS))
        each = [f"{command} serve --config {topology} --process {name} &" for name in COMPONENTS]
        return ("sh", "-c", " ".join([*each, "wait"]))

    async def _ready(self) -> None:
        for client in self.clients.values():
            await self.ready_at(client)
        await super()._ready()

    def entered_at(self, name: str) -> Portlayer:
        """The same, asked at process *name*. It is opened and closed with this one."""
        return _Entered(self, self.clients[name])


class _Entered(Portlayer):
    def __init__(self, whole: Apart, client: Client) -> None:
        super().__init__(whole.directory, f"{whole.name}, asked elsewhere")
        self.http = client


def _pin(pid: int, cores: set[int]) -> None:
    """All threads of *pid*; 0: of this process."""
    for task in Path(f"/proc/{pid or 'self'}/task").glob("*"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), cores)
