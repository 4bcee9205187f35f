"""The components held to their suites: in this process, and behind REST in every topology."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from apart.cluster import COMPONENTS, TOPOLOGIES, Cluster, opened
from conformance.components_execution import ExecutionSuite
from conformance.components_interaction import InteractionSuite
from conformance.components_network import NetworkSuite
from conformance.components_service import ServiceSuite
from conformance.components_storage import StorageSuite
from driver import ME, Driver, Tenant

from portlayer.interfaces.components import Components
from portlayer.model.service import CreateVch
from portlayer.rest.client import RestClient

pytestmark = pytest.mark.asyncio(loop_scope="module")
RETRIES = 5  # what is asked for at the same time may meet a move
NUMBERS = itertools.count()


class InTurn:
    """A component of which each call goes another of the *ways* to it."""

    def __init__(self, name: str, ways: Sequence[Components]) -> None:
        self._name = name
        self._ways = itertools.cycle(ways)

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any) -> Any:
            return await getattr(getattr(next(self._ways), self._name), method)(*args)

        return call


def components_of(cluster: Cluster, clients: dict[str, Components]) -> Components:
    """Behind REST: calls enter in turn at all processes that have to pass them on, where there are such."""
    has = {part.name: part.components for part in cluster.topology.parts}

    def ways(component: str) -> list[Components]:
        without = [client for name, client in clients.items() if component not in has[name]]
        return without or list(clients.values())

    return Components(**{name: InTurn(name, ways(name)) for name in ("service", *COMPONENTS)})  # type: ignore[arg-type]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["local", *TOPOLOGIES])
async def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Components]:
    """A port layer, for all tests here: each is a tenant of its own."""
    name = request.param
    async with AsyncExitStack() as stack:
        directory = tmp_path_factory.mktemp("pl")
        cluster = await stack.enter_async_context(opened("all in one" if name == "local" else name, directory))
        if name == "local":
            yield cluster.served
            return
        clients = {
            door: (await stack.enter_async_context(RestClient(cluster.address(door), retries=RETRIES))).components
            for door in cluster.doors
        }
        yield components_of(cluster, clients)


@pytest_asyncio.fixture(loop_scope="module")
async def driver(whole: Components) -> Driver:
    name = f"tenant-{next(NUMBERS)}"
    await whole.service.create_vch(ME, CreateVch(name=name))
    return Tenant(whole, name)


class TestStorage(StorageSuite):
    pass


class TestExecution(ExecutionSuite):
    pass


class TestNetwork(NetworkSuite):
    pass


class TestInteraction(InteractionSuite):
    pass


class TestService(ServiceSuite):
    pass
