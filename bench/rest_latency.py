"""Latency and rate of a handle call over the REST API on a unix socket, with components that do nothing.

What is measured is HTTP, routing, strict decoding and encoding on one core; the server is a process of its own.
Run: python -m bench.rest_latency [calls]
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from typing import Any

from portlayer.interfaces.components import Components
from portlayer.model.caller import Caller
from portlayer.model.network import JoinedNetwork, JoinNetwork
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server

HANDLE = "x" * 600  # about what a handle with a few changes takes
BODY = b'{"handle":"%s","network":"lan","aliases":["web"]}' % HANDLE.encode()
HEAD = (
    b"POST /v1/vchs/default/network/join HTTP/1.1\r\nHost: x\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
CONNECTIONS = 32


class Network:
    async def join(self, _caller: Caller, request: JoinNetwork) -> JoinedNetwork:
        return JoinedNetwork(handle=request.handle, endpoint_id="e")


def serve(path: str, listening: Event) -> None:
    async def run() -> None:
        nothing: Any = None
        network: Any = Network()
        server = Server(Components(nothing, nothing, nothing, network, nothing))
        await server.listen_unix(path)
        listening.set()
        await asyncio.Event().wait()

    asyncio.run(run())


async def bare(path: str, calls: int) -> list[float]:
    """Seconds of each call on one connection, with as little of a client as there can be."""
    reader, writer = await asyncio.open_unix_connection(path)
    request, took = HEAD % len(BODY) + BODY, []
    for _ in range(calls):
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        took.append(time.perf_counter() - began)
    writer.close()
    return took


async def ours(path: str, calls: int) -> list[float]:
    """The same through our client."""
    request, took = JoinNetwork(handle=HANDLE, network="lan", aliases=("web",)), []
    async with RestClient(f"unix://{path}") as client:
        for _ in range(calls):
            began = time.perf_counter()
            await client.network.join(Caller(), request)
            took.append(time.perf_counter() - began)
    return took


def report(name: str, took: list[float]) -> None:
    micros = sorted(each * 1e6 for each in took)
    print(f"{name:24} p50 {statistics.median(micros):6.0f} us   p99 {micros[int(len(micros) * 0.99)]:6.0f} us")


async def measure(path: str, calls: int) -> None:
    await bare(path, 200)
    report("bare client", await bare(path, calls))
    report("our client", await ours(path, calls))
    began = time.perf_counter()
    await asyncio.gather(*(bare(path, calls // CONNECTIONS) for _ in range(CONNECTIONS)))
    print(f"{CONNECTIONS} connections: {calls / (time.perf_counter() - began):.0f} requests/s")


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/s"
        context = multiprocessing.get_context("spawn")
        listening = context.Event()
        server = context.Process(target=serve, args=(path, listening))
        server.start()
        try:
            listening.wait()
            asyncio.run(measure(path, calls))
        finally:
            server.terminate()
            server.join()


if __name__ == "__main__":
    main()
