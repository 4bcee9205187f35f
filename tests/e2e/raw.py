"""The REST API without any client of ours: what is sent is what stands in the test."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

VCH = "/v1/vchs/default"


@dataclass(frozen=True)
class Answer:
    """status, headers and body of an answer."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __getitem__(self, name: str) -> Any:
        return self.json[name]


class Api:
    """session: connected to a server's socket. before_commit: what happens just before the first commit."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.before_commit: Callable[[], None] | None = None

    async def __call__(self, verb: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A call under the VCH, or under the root where *path* begins with a slash. bytes are sent as they are."""
        if path == "execution/commit" and self.before_commit:
            await asyncio.to_thread(self.before_commit)
            self.before_commit = None
        data = None if body is None else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent.setdefault("Content-Type", kind)
        async with self.session.request(verb, url(path), data=data, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def ok(self, verb: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A call that has to succeed."""
        answer = await self(verb, path, body, **headers)
        assert answer.status < 300, (verb, path, answer)
        return answer

    async def refused(self, status: int, code: str, verb: str, path: str, body: Any = None, **headers: str) -> Any:
        """The problem document of a call that must be refused so; it says what is wrong in words."""
        answer = await self(verb, path, body, **headers)
        assert answer.status == status, answer
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        problem = answer.json
        assert (problem["status"], problem["code"]) == (status, code), problem
        assert problem["type"]
        assert problem["title"]
        assert len(problem["detail"]) > 10, problem
        return problem


def url(path: str) -> URL:
    return URL(f"http://portlayer{path if path.startswith('/') else f'{VCH}/{path}'}", encoded=True)


@asynccontextmanager
async def api(directory: Path, socket: str = "portlayer.sock") -> AsyncIterator[Api]:
    """To the server of the instance in *directory*, or to the one at *socket*."""
    connector = aiohttp.UnixConnector(str(directory / "run" / socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(session)
