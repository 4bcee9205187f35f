"""What a caller sends through our client is what the component gets, and its answer is what the caller gets."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest.hops import HAVING, reached
from rest.standins import World, sample

from portlayer.model import errors as e
from portlayer.model import execution as em
from portlayer.model import storage as sm
from portlayer.model.caller import Caller
from portlayer.rest.calls import CALLS, Call, compose
from portlayer.rest.calls.call import JSON
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server
from portlayer.rest.server.openapi import PROTOCOLS

RAW = {"service/get-kv", "service/put-kv"}
PLAIN = [
    call
    for call in CALLS
    if call.method and not call.streams and call.consumes in {None, JSON} and call.name not in RAW
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SEGMENT = TEXT.filter(lambda text: text not in {"", ".", ".."})


@cache
def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of type *kind* that JSON can carry."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return st.none() | TEXT | st.integers(-1000, 1000)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {info.name: values(info.type) for info in msgspec.structs.fields(kind)}
        return st.builds(kind, **fields)
    if origin in {Union, UnionType}:
        return st.one_of([values(each) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXT, values(arguments[1]), max_size=2)
    return {
        str: TEXT,
        bool: st.booleans(),
        int: st.integers(-(2**53), 2**53),
        float: st.integers(-1_000_000, 1_000_000).map(lambda number: number / 64),
        type(None): st.none(),
        msgspec.UnsetType: st.just(msgspec.UNSET),
    }[kind]


class Wire:
    """A world with servers and clients, one for each topology, that live in a loop of their own: hypothesis draws
    outside of it."""

    def __init__(self, runner: asyncio.Runner, directory: Path) -> None:
        self.runner = runner
        self.world = World()
        self.clients: dict[str, RestClient] = {}
        self._directory = directory

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for topology in HAVING:
                directory = self._directory / topology
                directory.mkdir()
                server = Server(await stack.enter_async_context(reached(self.world.components, topology, directory)))
                await server.listen_unix(directory / "s")
                stack.push_async_callback(server.drain, 5)
                self.clients[topology] = await stack.enter_async_context(RestClient(f"unix://{directory}/s"))
            yield

    def ask(self, topology: str, call: Call[Any, Any], caller: Caller, request: Any) -> Any:
        client = self.clients[topology]
        return self.runner.run(getattr(getattr(client, call.component), call.method)(caller, request))


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner() as runner:
        wire = Wire(runner, Path(directory))
        serving = wire.served()
        runner.run(serving.__aenter__())
        yield wire
        runner.run(serving.__aexit__(None, None, None))


@pytest.mark.parametrize("call", PLAIN, ids=lambda call: call.name)
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_requests_and_answers_arrive_as_they_were(wire: Wire, call: Call[Any, Any], data: st.DataObject) -> None:
    caller = Caller(vch=data.draw(SEGMENT), idempotency_key="k 1")
    segments = {name: data.draw(SEGMENT) for name in call.parameters if name != "vch"}
    request = msgspec.structs.replace(data.draw(values(call.request)), **segments)
    if call.headers:
        request = msgspec.structs.replace(request, if_match=data.draw(st.sampled_from([None, "*", "7"])))
    many = call.also is not None and request.handles
    answer = data.draw(values(call.also if many else call.answer))
    wire.world.answer(call.component, call.method, answer)

    expected = caller if "vch" in call.parameters else msgspec.structs.replace(caller, vch="default")
    for topology in HAVING:
        assert wire.ask(topology, call, caller, request) == answer, topology
        assert getattr(wire.world, call.component).asked[-1] == (call.method, expected, request), topology


@pytest.mark.parametrize("call", [call for call in PLAIN if call.parameters[1:]], ids=lambda call: call.name)
@pytest.mark.parametrize("ref", ["", ".", ".."])
async def test_a_ref_that_would_be_another_path_is_not_sent(call: Call[Any, Any], ref: str) -> None:
    request = msgspec.structs.replace(sample(call.request), **{call.parameters[1]: ref})
    async with RestClient("unix:///nowhere") as client:
        with pytest.raises(e.NotFound):
            await getattr(getattr(client, call.component), call.method)(Caller(), request)


@pytest.mark.parametrize("ref", ["a/b", "a%2Fb", "\0", "ä ö", "?x=1#y", "+ +", "\\", "%"])
async def test_any_ref_arrives_as_it_is(client: RestClient, world: World, ref: str) -> None:
    request = sm.ImageRef(ref=ref)
    await client.storage.get_image(Caller(), request)
    assert world.storage.asked == [("get_image", Caller(), request)]


async def test_committing_several_answers_several(client: RestClient, world: World) -> None:
    one = sample(em.Committed)
    many = em.CommittedMany(containers=(one, one))
    world.answer("execution", "commit", many)
    assert await client.execution.commit(Caller(), em.Commit(handles=("a", "b"))) == many


@pytest.mark.parametrize("error", e.TAXONOMY, ids=lambda error: error.__name__)
async def test_every_error_arrives_as_the_same_class_with_the_same_facts(
    client: RestClient, world: World, error: type[e.PortlayerError], request: pytest.FixtureRequest
) -> None:
    if error is e.Unauthenticated and "execution" not in HAVING[request.node.callspec.params["server"]]:
        pytest.skip("who calls is found out before a hop; what is refused behind it is no matter of the caller's")
    facts: dict[str, Any] = {name: f"some {name}" for name in error.fields}
    facts |= {name: ("a", "b") for name in ("collisions", "users") if name in error.fields}
    facts |= {name: 2.5 for name in ("retry_after_seconds",) if name in error.fields}
    raised = error("Why, and what next: ä.", **facts)
    world.answer("execution", "create", raised)

    with pytest.raises(e.PortlayerError) as caught:
        await client.execution.create(Caller(), em.Create(image="busybox"))

    assert type(caught.value) is error
    assert (caught.value.detail, caught.value.facts) == (raised.detail, facts)


def test_every_call_of_every_component_is_in_the_table_and_in_the_client() -> None:
    client = RestClient("unix:///nowhere")
    for component, protocol in PROTOCOLS.items():
        methods = {name for name in vars(protocol) if not name.startswith("_")}
        assert methods == {call.method for call in CALLS if call.component == component and call.method}
        assert all(callable(getattr(getattr(client, component), name)) for name in methods)
    assert compose.COMPOSE.name == "execution/compose"
