"""Runs inside a jail and starts tools on demand: `python -m bench.spawner SOCKET [SERVER ARGUMENTS...]`.

A request is one line, a JSON list of arguments; the answer is one line, `{"code": ..., "output": ...}`. The tool is
spawned by posix_spawn; `true` takes 1.2 ms from the asking side.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socketserver
import subprocess
import sys
from pathlib import Path
from typing import Any


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(json.dumps(_run(json.loads(line))).encode() + b"\n")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


def _run(argv: list[str]) -> dict[str, Any]:
    with os.fdopen(os.memfd_create("output"), "r+b") as output:
        actions = [(os.POSIX_SPAWN_DUP2, output.fileno(), 1), (os.POSIX_SPAWN_DUP2, output.fileno(), 2)]
        pid = os.posix_spawn(shutil.which(argv[0]) or argv[0], argv, os.environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        output.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "output": output.read().decode(errors="replace")}


class Spawner:
    """The asking side. One connection for each job that runs at the same time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def run(self, *argv: str) -> str:
        """Run a tool to its end; its output. Raises RuntimeError where it fails."""
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_unix_connection(str(self._path))
        writer.write(json.dumps(argv).encode() + b"\n")
        line = await reader.readline()
        if not line:
            raise EOFError(f"{self._path} was closed")
        self._idle.append((reader, writer))
        answer = json.loads(line)
        if answer["code"] != 0:
            raise RuntimeError(f"{' '.join(argv[:6])} ended with {answer['code']}: {answer['output'][-500:]}")
        return str(answer["output"])

    def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def _main() -> None:
    path, server = sys.argv[1], sys.argv[2:]
    if server:
        subprocess.Popen(server)
    with _Server(path, _Handler) as spawner:
        spawner.serve_forever()


if __name__ == "__main__":
    _main()
