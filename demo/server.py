"""A port layer of the demo's own, in a directory that goes when it ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from hosts import ADDRESSES, Host, one_host, two_hosts

COMPONENTS = ("storage", "execution", "network", "interaction")
TWO_HOSTS = "two-hosts"
LAYOUTS = {
    "together": {},
    "apart": {name: [name] for name in COMPONENTS},
    "storage apart": {"storage": ["storage"], "rest": list(COMPONENTS[1:])},
    "two hosts": {"west": list(COMPONENTS), "east": ["execution", "interaction"]},
}
"""Which process has which components; one that is alone needs no name. Of two hosts, each has the one of its name."""
TOPOLOGIES = {
    "together": ["together"],
    "apart": ["apart"],
    "storage-apart": ["storage apart"],
    TWO_HOSTS: ["two hosts"],
    "moving": ["together", "apart", "storage apart", "together"],
}
"""What `--topology` may be: one layout, or several after another, to which it moves under way."""


class Server:
    """A running `portlayer serve`, or one for each process of a topology, and the command line beside it.

    hosts: on which it runs, by name. layouts: by a word of LAYOUTS each; it starts as the first, and `move` goes on to
    the next.
    """

    def __init__(self, directory: Path, hosts: Mapping[str, Host], layouts: Sequence[str]) -> None:
        self.hosts = hosts
        self.log = directory / "log"
        self._config = directory / "topology.toml"
        self._layouts = list(layouts)
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def first(self) -> Host:
        return next(iter(self.hosts.values()))

    @property
    def last_host(self) -> str:
        """The name of the last of its hosts."""
        return list(self.hosts)[-1]

    async def start(self) -> str:
        """Start it; the lines that it prints when it is ready."""
        layout = self._layouts.pop(0) if len(self._layouts) > 1 else self._layouts[0]
        self._config.write_text("\n".join(_topology(LAYOUTS[layout], self.hosts)))
        names = list(LAYOUTS[layout]) or [""]
        if len(self.hosts) == 1:
            return "\n".join(await asyncio.gather(*map(self.start_process, names)))
        lines = [await self.start_process(names[0])]  # it makes the key that the others are given
        for name in names[1:]:
            self.hosts[name].take_key(self.first)
        return "\n".join([*lines, *await asyncio.gather(*map(self.start_process, names[1:]))])

    async def move(self) -> str:
        """Stop it, and start it as the next of its layouts."""
        await self.stop()
        return await self.start()

    async def start_process(self, name: str) -> str:
        """Start the process called *name*, on the host of that name where there are several; what it prints."""
        host = self.hosts.get(name, self.first)
        options = ("--config", str(self._config), "--process", name) if name else ()
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *host.command("serve", *options), env=host.environment, stdout=subprocess.PIPE, stderr=log
            )
        self._processes[name] = process
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        if not line:
            await process.wait()
            raise SystemExit(f"the server did not start:\n{self.log.read_text()}")
        return line

    async def stop(self, *names: str) -> int:
        """Stop processes, or all of them, as an init system would; the highest of the exit codes."""
        stopping = [self._processes.pop(name) for name in names or list(self._processes)]
        for process in stopping:
            if process.returncode is None:
                process.terminate()
        return max([abs(await process.wait()) for process in stopping], default=0)

    async def cleanup(self, *options: str) -> str:
        """What `portlayer cleanup` says, on each host."""
        return "\n".join([await self.command("cleanup", *options, host=name) for name in self.hosts])

    async def command(self, *words: str, host: str = "") -> str:
        """What a command prints on *host*, or on the first."""
        there = self.hosts.get(host, self.first)
        process = await asyncio.create_subprocess_exec(
            *there.command(*words), env=there.environment, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, f"{words} failed with {process.returncode}"
        return output.decode().strip()


def _topology(layout: Mapping[str, Sequence[str]], hosts: Mapping[str, Host]) -> list[str]:
    """The lines of a topology.toml."""
    lines = [
        line for name, has in layout.items() for line in (f"[processes.{name}]", f"components = {json.dumps(has)}")
    ]
    if len(hosts) == 1:
        return lines
    lines = ["[store]", 'kind = "etcd"', f'endpoints = ["{ADDRESSES["west"]}:2379"]']
    for name, has in layout.items():
        lines += [f"[processes.{name}]", f'host = "{name}"', f"components = {json.dumps(has)}"]
        lines += [f'address = "https://{ADDRESSES[name]}:7443"']
    return lines


@asynccontextmanager
async def temporary(topology: str) -> AsyncIterator[Server]:
    """A server that is not started yet. Whatever happens, nothing of it is left."""
    make_hosts = two_hosts if topology == TWO_HOSTS else one_host
    with tempfile.TemporaryDirectory(prefix="portlayer-demo-") as directory, make_hosts(Path(directory)) as hosts:
        server = Server(Path(directory), hosts, TOPOLOGIES[topology])
        try:
            yield server
        finally:
            await server.stop()
            await server.cleanup("--apply")
