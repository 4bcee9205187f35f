"""One VCH floods; what another one feels of it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench import image
from bench.apart import figures as f
from bench.apart.layouts import Together
from bench.http import Client, HttpError

QUIET, NOISY = "/v1/vchs/quiet", "/v1/vchs/noisy"
LIVES, IMPORTS, MUTATIONS = 24, 2, 4
"""How many of each at once flood."""
STARTS = 10


async def flood(run: f.Samples, layout: Together, rounds: int) -> None:
    """Starts in one VCH, by turns while another is still and while it floods."""
    for name in ("quiet", "noisy"):
        await layout.http.call("POST", "/v1/vchs", {"name": name})
        archive = image.archive(image.layer())
        await layout.http.send(
            "POST", f"/v1/vchs/{name}/storage/images/import?name=busybox", archive, "application/x-tar"
        )
    await starts(layout.http, 2)
    for _ in range(rounds):
        run.add(f.FLOOD, f.ALONE, *await starts(layout.http, STARTS))
        async with flooding(layout.directory / "run" / "portlayer.sock"):
            run.add(f.FLOOD, f.FLOODED, *await starts(layout.http, STARTS))


async def starts(http: Client, count: int) -> list[float]:
    """Milliseconds of each of *count* starts of containers that were created before, in the quiet VCH."""
    took = []
    for _ in range(count):
        container = await _compose(http, QUIET, {"call": "execution/create", **_true()})
        handle = (await http.call("POST", f"{QUIET}/execution/containers/{container}/handle"))["handle"]
        began = time.perf_counter()
        await _compose(http, QUIET, {"call": "execution/set-state", "handle": handle, "state": "running"})
        took.append((time.perf_counter() - began) * 1000)
        await http.call("DELETE", f"{QUIET}/execution/containers/{container}?force=true")
    return took


@asynccontextmanager
async def flooding(socket: Path) -> AsyncIterator[None]:
    """The noisy VCH does all it can, from a process of its own."""
    command = ("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", __name__, str(socket))
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield
        process.stdin.close()
        if await process.wait():
            raise RuntimeError("the flood broke off")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def main(socket: Path) -> None:
    """Flood until stdin ends; a line tells when the flood has come up to its height."""
    http, enough = Client(socket), asyncio.Event()
    work = [*[_lives] * LIVES, *[_imports] * IMPORTS, *[_mutations] * MUTATIONS]
    tasks = [asyncio.ensure_future(one(http, enough)) for one in work]
    await asyncio.sleep(1)
    print(flush=True)
    await asyncio.to_thread(sys.stdin.read)
    enough.set()
    await asyncio.gather(*tasks)
    http.close()


async def _lives(http: Client, enough: asyncio.Event) -> None:
    while not enough.is_set():
        with contextlib.suppress(HttpError):  # refused: the flood is above its bounds
            start = {"call": "execution/set-state", "state": "running"}
            container = await _compose(http, NOISY, {"call": "execution/create", **_true()}, start)
            await http.call("DELETE", f"{NOISY}/execution/containers/{container}?force=true")


async def _imports(http: Client, enough: asyncio.Event) -> None:
    archive = image.archive(image.layer())
    while not enough.is_set():
        with contextlib.suppress(HttpError):
            await http.send("POST", f"{NOISY}/storage/images/import?name=busybox", archive, "application/x-tar")


async def _mutations(http: Client, enough: asyncio.Event) -> None:
    while not enough.is_set():
        with contextlib.suppress(HttpError):
            await http.call("POST", f"{NOISY}/execution/create", _true())


def _true() -> dict[str, Any]:
    return {"image": "busybox", "process": {"args": ["true"]}}


async def _compose(http: Client, vch: str, *steps: dict[str, Any]) -> str:
    """The id of the container that *steps* and a commit have made or changed."""
    body = {"steps": [*steps, {"call": "execution/commit"}]}
    return str((await http.call("POST", f"{vch}/execution/compose", body))["answers"][-1]["id"])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
