"""A port layer of the soak's own, which is killed without warning and started again at once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

LEASE_SECONDS = 6.0
_PORTLAYER = Path(sys.executable).with_name("portlayer")


class Server:
    """`portlayer serve` in *directory*, with leases that end within the soak.

    generation: counts the starts. up: whether it is believed to serve. recoveries: seconds from each kill to ready.
    """

    def __init__(self, directory: Path) -> None:
        self.state, self.run = directory / "state", directory / "run"
        self.host = f"unix://{self.run}/portlayer.sock"
        self.generation = 0
        self.up = False
        self.recoveries: list[float] = []
        self._config = directory / "config.toml"
        self._config.write_text(f"leaseSeconds = {LEASE_SECONDS}\n")
        self._log = directory / "log"
        self._environment = {**os.environ, "PORTLAYER_STATE": str(self.state), "PORTLAYER_RUN": str(self.run)}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def instance(self) -> str:
        """The id that all of ours on the host carries."""
        return (self.state / "instance").read_text().strip()

    @property
    def store(self) -> Path:
        """The SQLite store's file."""
        return self.state / "portlayer.db"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start it; it serves when this returns. Raises RuntimeError with its last words."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(str(_PORTLAYER), "serve", "--config", str(self._config)),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        if not await self._process.stdout.readline():
            await self._process.wait()
            raise RuntimeError(f"the server did not start: {' '.join(self._log.read_text().splitlines()[-3:])}")
        self.generation += 1
        self.up = True

    async def kill(self) -> None:
        """SIGKILL, whatever it does, and start at once."""
        assert self._process is not None
        began = time.monotonic()
        self.up = False
        self._process.kill()
        await self._process.wait()
        await self.start()
        self.recoveries.append(time.monotonic() - began)

    async def stop(self) -> int:
        """Stop it as an init system would; its exit code."""
        if self._process is None or self._process.returncode is not None:
            return 0
        self.up = False
        self._process.terminate()
        return await self._process.wait()

    async def cleanup(self, *options: str) -> str:
        """What `portlayer cleanup` says."""
        process = await asyncio.create_subprocess_exec(
            *(str(_PORTLAYER), "cleanup", "--config", str(self._config), *options),
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return output.decode().strip()

    def complaints(self) -> list[str]:
        """What it has logged as an error."""
        return [line for line in self._log.read_text(errors="replace").splitlines() if _is_complaint(line)]


def _is_complaint(line: str) -> bool:
    return not line.startswith("{") or '"level":"error"' in line or '"level":"critical"' in line
