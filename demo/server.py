"""A port layer of the demo's own, in a directory that goes when it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

PORTLAYER = Path(sys.executable).with_name("portlayer")
COMPONENTS = ("storage", "execution", "network", "interaction")
LAYOUTS = {
    "together": {},
    "apart": {name: [name] for name in COMPONENTS},
    "storage apart": {"storage": ["storage"], "rest": list(COMPONENTS[1:])},
}
"""Which process has which components; one that is alone needs no name."""
TOPOLOGIES = {
    "together": ["together"],
    "apart": ["apart"],
    "storage-apart": ["storage apart"],
    "moving": ["together", "apart", "storage apart", "together"],
}
"""What `--topology` may be: one layout, or several after another, to which it moves under way."""


class Server:
    """A running `portlayer serve`, or one for each process of a topology, and the command line beside it.

    layouts: by a word of TOPOLOGIES each; it starts as the first, and `move` goes on to the next.
    """

    def __init__(self, directory: Path, layouts: Sequence[str]) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.environment = {
            **os.environ,
            "PORTLAYER_STATE": str(directory / "state"),
            "PORTLAYER_RUN": str(directory / "run"),
        }
        self.environment.pop("PORTLAYER_HOST", None)
        self.host = f"unix://{directory / 'run' / 'portlayer.sock'}"
        self._layouts = list(layouts)
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self) -> str:
        """Start it; the lines that it prints when it is ready."""
        layout = self._layouts.pop(0) if len(self._layouts) > 1 else self._layouts[0]
        config = self.directory / "topology.toml"
        config.write_text("\n".join(f"[processes.{name}]\ncomponents = {has}" for name, has in LAYOUTS[layout].items()))
        options = [("--config", str(config), "--process", name) for name in LAYOUTS[layout]] or [()]
        return "\n".join(await asyncio.gather(*(self._serve(*each) for each in options)))

    async def move(self) -> str:
        """Stop it, and start it as the next of its layouts."""
        await self.stop()
        return await self.start()

    async def _serve(self, *options: str) -> str:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                PORTLAYER, "serve", *options, env=self.environment, stdout=subprocess.PIPE, stderr=log
            )
        self._processes.append(process)
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().strip()
        if not line:
            await process.wait()
            raise SystemExit(f"the server did not start:\n{self.log.read_text()}")
        return line

    async def stop(self) -> int:
        """Stop it as an init system would; the highest of the exit codes."""
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
        codes = [await process.wait() for process in self._processes]
        self._processes.clear()
        return max(map(abs, codes), default=0)

    async def cleanup(self, *options: str) -> str:
        """What `portlayer cleanup` says."""
        process = await asyncio.create_subprocess_exec(
            PORTLAYER, "cleanup", *options, env=self.environment, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, f"cleanup failed with {process.returncode}"
        return output.decode().strip()


@asynccontextmanager
async def temporary(topology: str) -> AsyncIterator[Server]:
    """A server that is not started yet. Whatever happens, nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="portlayer-demo-") as directory:
        server = Server(Path(directory), TOPOLOGIES[topology])
        try:
            yield server
        finally:
            await server.stop()
            await server.cleanup("--apply")
