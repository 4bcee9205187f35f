"""Schemathesis against a running server: whatever it thinks of, no fault of ours, and answers as documented."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
import tlslab
from apart.cluster import TOGETHER, TOPOLOGIES
from hypothesis import HealthCheck, Phase, settings
from rest.known import Everyone
from rest.standins import KNOWN
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from portlayer.interfaces.components import Components
from portlayer.rest import problems
from portlayer.rest.server import Server, openapi

# These go on for ever, or speak another protocol.
ENDLESS = ["service.events", "interaction.attach"]
SCHEMA = schemathesis.openapi.from_dict(openapi.document()).exclude(operation_id=ENDLESS)
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


class Serving(threading.Thread):
    """A server in a loop and thread of its own, since schemathesis blocks."""

    def __init__(self, factory: Callable[[], AbstractAsyncContextManager[Components]]) -> None:
        super().__init__()
        self._factory = factory
        self._ready = threading.Event()
        self.port = 0

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self._factory() as components:
                server = Server(components, peers=Everyone())
                self.port = await server.listen_tls("127.0.0.1", 0, tlslab.serving())
                self._ready.set()
                await self._ending.wait()
                await server.drain(5)
        finally:
            self._ready.set()

    def started(self) -> str:
        self.start()
        self._ready.wait()
        return f"https://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self.join()


@pytest.fixture(scope="module")
def session(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    """One connection for all, which ends before its server does."""
    authority = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.write_text(tlslab.pem())
    with requests.Session() as session:
        session.verify, session.trust_env = str(authority), False
        yield session


@pytest.fixture(scope="module")
def url(rest_app_factory: Callable[[], AbstractAsyncContextManager[Components]]) -> Iterator[str]:
    serving = Serving(rest_app_factory)
    yield serving.started()
    serving.stop()


def lead(case: Any, url: str, session: requests.Session) -> None:
    """Point half of the cases at what is there: random names and handles alone only ever find nothing."""
    if case.operation.definition.raw["operationId"] == "execution.wait":
        case.query["timeoutSeconds"] = 0.01
    if len(case.path_parameters.get("ref", "")) % 2:
        case.path_parameters["ref"] = KNOWN.get(case.operation.tags[0], "default")
    if "vch" in case.path_parameters and case.path_parameters["vch"].isascii():
        case.path_parameters["vch"] = "default"
    if isinstance(case.body, dict) and len(str(case.body.get("handle", ""))) % 2:
        path = f"/v1/vchs/default/execution/containers/{KNOWN['execution']}/handle"
        case.body["handle"] = session.post(f"{url}{path}", timeout=60).json().get("handle", "gone")


def examples(most: int) -> settings:
    return settings(
        max_examples=most,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@SCHEMA.parametrize()
@examples(8)
@pytest.mark.parametrize("rest_app_factory", [TOGETHER], indirect=True)
def test_no_fault_and_answers_as_documented(case: Any, url: str, session: requests.Session) -> None:
    check(case, url, session)


@SCHEMA.parametrize()
@examples(1)
@pytest.mark.parametrize("rest_app_factory", [name for name in TOPOLOGIES if name != TOGETHER], indirect=True)
def test_nor_where_components_are_apart(case: Any, url: str, session: requests.Session) -> None:
    check(case, url, session)


def check(case: Any, url: str, session: requests.Session) -> None:
    lead(case, url, session)
    response = case.call(base_url=url, timeout=60, session=session, verify=session.verify)
    case.validate_response(response, checks=CHECKS)
    assert response.status_code != 500
    if response.status_code >= 400 and not case.path.endswith("/readyz"):
        problem = msgspec.json.decode(response.content, type=problems.Problem)
        assert problem.status == response.status_code
