"""A port layer of the demo's own, in a directory that goes when it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

PORTLAYER = Path(sys.executable).with_name("portlayer")


class Server:
    """A running `portlayer serve`, and the command line beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.environment = {
            **os.environ,
            "PORTLAYER_STATE": str(directory / "state"),
            "PORTLAYER_RUN": str(directory / "run"),
        }
        self.environment.pop("PORTLAYER_HOST", None)
        self.host = f"unix://{directory / 'run' / 'portlayer.sock'}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Start it; the line that it prints when it is ready."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                PORTLAYER, "serve", env=self.environment, stdout=subprocess.PIPE, stderr=log
            )
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode().strip()
        if not line:
            await self._process.wait()
            raise SystemExit(f"the server did not start:\n{self.log.read_text()}")
        return line

    async def stop(self) -> int:
        """Stop it as an init system would; its exit code."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.terminate()
        return await self._process.wait()

    async def cleanup(self, *options: str) -> str:
        """What `portlayer cleanup` says."""
        process = await asyncio.create_subprocess_exec(
            PORTLAYER, "cleanup", *options, env=self.environment, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, f"cleanup failed with {process.returncode}"
        return output.decode().strip()


@asynccontextmanager
async def temporary() -> AsyncIterator[Server]:
    """A server that is not started yet. Whatever happens, nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="portlayer-demo-") as directory:
        server = Server(Path(directory))
        try:
            yield server
        finally:
            await server.stop()
            await server.cleanup("--apply")
