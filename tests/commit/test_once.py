"""A commit that is composed anew happens once for its key, as one of a handle does for its handle."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from commit_kinds import check, setting
from harness import ME, Harness

from portlayer.client import PortLayer, Steps, connect
from portlayer.model import execution as e
from portlayer.model.caller import Caller
from portlayer.model.errors import AlreadyExists, Conflict, InvalidArgument, SubstrateFailed
from portlayer.rest.client import RestClient
from portlayer.rest.server import Server
from portlayer.substrates.memory.world import Step

CREATE = Steps().create("busybox", "sleep", "1000")
STEPS = CREATE.join_network("gibson_network").bind_network().set_state("running")
KEY = "again and again"


@asynccontextmanager
async def served(harness: Harness, path: Path) -> AsyncIterator[PortLayer]:
    server = Server(harness.pl)
    await server.listen_unix(path)
    async with connect(host=f"unix://{path}") as pl:
        yield pl
    await server.drain(5)


@pytest.fixture(params=["in process", "over REST"])
async def pl(request: pytest.FixtureRequest, harness: Harness, tmp_path: Path) -> AsyncIterator[PortLayer]:
    await setting(harness)
    async with AsyncExitStack() as stack:
        way = connect(harness.pl) if request.param == "in process" else served(harness, tmp_path / "s")
        yield await stack.enter_async_context(way)


def prepared(harness: Harness) -> Counter[str]:
    """How many processes were made from now on."""
    calls: Counter[str] = Counter()

    def note(step: Step) -> None:
        calls[step.name] += step.name == "execution.prepare"

    harness.world.after(note)
    return calls


async def test_the_same_key_gives_the_first_result(harness: Harness, pl: PortLayer) -> None:
    calls = prepared(harness)
    assert await pl.execution.recall(KEY) is None
    first = await pl.execution.commit(STEPS, idempotency_key=KEY)
    assert await pl.execution.recall(KEY) == (first,)
    assert await pl.execution.commit(STEPS, idempotency_key=KEY) == first
    assert (first.state, len(await pl.execution.list()), calls["execution.prepare"]) == ("running", 1, 1)
    await pl.execution.remove(first.id, force=True)
    assert await pl.execution.commit(STEPS, idempotency_key=KEY) == first
    assert await pl.execution.list() == ()
    assert (await pl.execution.commit(STEPS, idempotency_key="another")).id != first.id
    await check(harness)


async def test_each_commit_of_steps_is_one_of_its_own(harness: Harness, pl: PortLayer) -> None:
    ids = {(await pl.execution.commit(STEPS)).id for _ in range(3)}
    assert {one.id for one in await pl.execution.list()} == ids
    assert len(ids) == 3


async def test_a_key_is_for_one_request(harness: Harness, pl: PortLayer) -> None:
    await pl.execution.commit(STEPS, idempotency_key=KEY)
    with pytest.raises(InvalidArgument, match="another request"):
        await pl.execution.commit(CREATE, idempotency_key=KEY)
    assert len(await pl.execution.list()) == 1


async def test_steps_on_a_handle_happen_once_too(harness: Harness, pl: PortLayer) -> None:
    made = await pl.execution.commit(CREATE)
    steps = Steps(await pl.execution.get_container(made.id)).set_labels({"a": "b"}).set_state("running")
    first = await pl.execution.commit(steps, idempotency_key=KEY)
    await pl.execution.commit(Steps(await pl.execution.get_container(made.id)).set_labels({"a": "c"}))
    assert await pl.execution.commit(steps, idempotency_key=KEY) == first
    with pytest.raises(Conflict):
        await pl.execution.commit(steps)
    assert (await pl.execution.inspect_container(made.id)).labels == {"a": "c"}


async def test_only_success_is_remembered(harness: Harness, pl: PortLayer) -> None:
    harness.world.fail("network.plug", SubstrateFailed("no link"))
    with pytest.raises(SubstrateFailed, match="no link"):
        await pl.execution.commit(STEPS, idempotency_key=KEY)
    assert await pl.execution.list() == ()
    done = await pl.execution.commit(STEPS, idempotency_key=KEY)
    assert [one.id for one in await pl.execution.list()] == [done.id]
    await check(harness)


async def test_many_at_once_are_one(harness: Harness, pl: PortLayer) -> None:
    calls = prepared(harness)
    named = Steps().create("busybox", "sleep", "1000", name="cookie").join_network("gibson_network").bind_network()
    answers = await asyncio.gather(*(pl.execution.commit(named, idempotency_key=KEY) for _ in range(10)))
    assert answers == answers[:1] * 10
    assert calls["execution.prepare"] == 1
    with pytest.raises(AlreadyExists):
        await pl.execution.commit(named)
    await check(harness)


async def test_in_two_processes_at_once(harness: Harness, second: Harness, tmp_path: Path) -> None:
    await setting(harness)
    calls = prepared(harness)
    async with served(harness, tmp_path / "s") as pl, served(second, tmp_path / "t") as other:
        for number in range(5):
            ways = (pl, other, pl, other)
            key = f"{KEY} {number}"
            answers = await asyncio.gather(*(way.execution.commit(STEPS, idempotency_key=key) for way in ways))
            assert answers == answers[:1] * 4
            assert calls["execution.prepare"] == number + 1
    await check(harness)
    await check(second)


async def test_a_key_with_two_handles_commits_one_of_them(harness: Harness, second: Harness) -> None:
    """Both are past their first transaction by then: the slower one finds out in its second, and is undone."""
    caller = Caller(idempotency_key=KEY)
    one, other = e.Commit(handle=await harness.draft()), e.Commit(handle=await second.draft())
    one, other = e.replace(one, fingerprint="f"), e.replace(other, fingerprint="f")
    reached, go = asyncio.Event(), asyncio.Event()

    async def hold(_: str) -> None:
        reached.set()
        await go.wait()

    harness.failpoints.arm("commit.done.Prepare", hold)
    slow = asyncio.ensure_future(harness.pl.execution.commit(caller, one))
    await reached.wait()
    answer = await second.pl.execution.commit(caller, other)
    go.set()
    assert await slow == answer
    assert len(harness.world.incarnations) == 1
    await check(harness)
    recalled = await harness.pl.execution.recall(caller, e.Recall())
    assert recalled.committed == (answer,)


async def test_recalling_needs_a_key(harness: Harness) -> None:
    with pytest.raises(InvalidArgument, match="Idempotency-Key"):
        await harness.pl.execution.recall(ME, e.Recall())
    assert (await harness.pl.execution.recall(Caller(idempotency_key="k"), e.Recall())).committed is None


async def test_an_answer_that_is_lost_is_asked_for_again(harness: Harness, tmp_path: Path) -> None:
    """By the client itself: the connection is cut when the answer is on its way."""
    await setting(harness)
    server, cut = Server(harness.pl), 0
    await server.listen_unix(tmp_path / "s")

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        back, forth = await asyncio.open_unix_connection(str(tmp_path / "s"))
        forth.write(await reader.read(1 << 16))
        answer = await back.read(1 << 16)
        cut += 1
        if cut > 1:
            writer.write(answer)
            await writer.drain()
        for end in (forth, writer):
            end.close()

    proxy = await asyncio.start_unix_server(pass_on, str(tmp_path / "p"))
    async with RestClient(f"unix://{tmp_path / 'p'}") as rest, connect(rest.components) as pl:
        done = await pl.execution.commit(STEPS)
    assert cut == 2
    listed = (await harness.pl.execution.list_containers(ME, e.ListContainers())).containers
    assert [one.id for one in listed] == [done.id]
    proxy.close()
    await server.drain(5)
