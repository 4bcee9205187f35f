"""What interaction keeps of interfaces/interaction.py, wherever it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import images
import pytest
import pytest_asyncio
from driver import Driver

from portlayer.interfaces.interaction import Control, Output
from portlayer.model import interaction as i
from portlayer.model.errors import InvalidState, NotFound

BINARY = bytes(range(256)) * 2000
NUMBERS = b"".join(b"%d\n" % number for number in range(1, 20001))


async def created(driver: Driver, *args: str, **streams: bool) -> None:
    """The container `one`, whose streams are bound."""
    interaction, me = driver.pl.interaction, driver.me
    joined = await interaction.join(me, i.JoinInteraction(handle=await driver.draft(*args, name="one"), **streams))
    await driver.commit((await interaction.bind(me, i.BindInteraction(handle=joined.handle))).handle)


async def start(driver: Driver) -> None:
    await driver.commit(await driver.set_state(await driver.handle("one"), "running"))


async def attached(driver: Driver, **fields: Any) -> Any:
    return await driver.pl.interaction.attach(driver.me, i.Attach(ref="one", **fields))


async def logged(driver: Driver, **fields: Any) -> list[i.Chunk]:
    chunks = await driver.pl.interaction.logs(driver.me, i.Logs(ref="one", **fields))
    return [chunk async for chunk in chunks]


def bytes_of(pieces: list[Any], stream: int = i.STDOUT) -> bytes:
    return b"".join(piece.data for piece in pieces if getattr(piece, "stream", None) == stream)


class InteractionSuite:
    @pytest_asyncio.fixture(loop_scope="module")
    async def driver(self, driver: Driver) -> Driver:
        """With the image busybox."""
        await driver.image()
        return driver

    async def test_an_attachment_has_it_all_and_ends_with_the_exit(self, driver: Driver) -> None:
        await created(driver, "sh", "-c", "echo out; echo err >&2; exit 3")
        attachment = await attached(driver)
        await start(driver)
        pieces = [piece async for piece in attachment]
        assert (bytes_of(pieces), bytes_of(pieces, i.STDERR)) == (b"out\n", b"err\n")
        last = pieces[-1]
        assert isinstance(last, Control)
        assert (last.kind, last.fields["exitCode"]) == ("exit", 3)

    async def test_any_bytes_go_through_both_ways(self, driver: Driver) -> None:
        await created(driver, "cat", stdin=True)
        attachment = await attached(driver, stdin=True)
        await start(driver)

        async def write() -> None:
            await attachment.write(BINARY)
            await attachment.close_stdin()

        writing = asyncio.ensure_future(write())
        pieces = [piece async for piece in attachment]
        await writing
        assert bytes_of(pieces) == BINARY
        assert bytes_of(await logged(driver)) == BINARY

    async def test_an_answer_comes_while_more_may_be_asked(self, driver: Driver) -> None:
        await created(driver, "cat", stdin=True)
        await start(driver)
        attachment = await attached(driver, stdin=True)
        output = aiter(attachment)
        for line in (b"one\n", b"two\n"):
            await attachment.write(line)
            assert (await anext(output)) == Output(stream=i.STDOUT, data=line)
        await attachment.close()
        assert (await driver.inspect("one")).state == "running"

    async def test_detaching_tells_where_to_go_on(self, driver: Driver) -> None:
        await created(driver, "cat", stdin=True, terminal=True)
        await start(driver)
        attachment = await attached(driver, stdin=True, detach_keys="x,y")
        await attachment.resize(100, 30)
        await driver.pl.interaction.resize(driver.me, i.Resize(ref="one", width=80, height=24))
        await attachment.write(b"xy")
        (last,) = [piece async for piece in attachment if isinstance(piece, Control)]
        assert (last.kind, "cursor" in last.fields) == ("detached", True)
        assert (await driver.inspect("one")).state == "running"

    async def test_stdin_without_an_attachment(self, driver: Driver) -> None:
        await created(driver, "wc", "-c", stdin=True)
        await start(driver)
        interaction, ref = driver.pl.interaction, i.Streams(ref="one")
        await interaction.write_stdin(driver.me, ref, images.stream(BINARY))
        await interaction.close_stdin(driver.me, ref)
        assert (await driver.wait("one")).exit_code == 0
        assert bytes_of(await logged(driver)).strip() == str(len(BINARY)).encode()

    async def test_a_stream_that_is_not_joined_is_refused_where_nothing_else_is_asked_for(self, driver: Driver) -> None:
        await created(driver, "sh", "-c", "read go; echo out; echo err >&2", stdin=True, stderr=False)
        await start(driver)
        interaction, ref = driver.pl.interaction, i.Streams(ref="one")
        with pytest.raises(InvalidState, match="no stderr to attach to: join interaction with it"):
            await attached(driver, stdout=False)
        with pytest.raises(InvalidState, match="no stderr to attach to: join interaction with it"):
            await interaction.output(driver.me, ref, i.STDERR)
        attachment = await attached(driver)
        only_input = await attached(driver, stdin=True, stdout=False)
        await only_input.write(b"go\n")
        pieces = [piece async for piece in attachment]
        assert (bytes_of(pieces), bytes_of(pieces, i.STDERR)) == (b"out\n", b"")
        assert bytes_of(await logged(driver, stdout=False), i.STDERR) == b"err\n", "the log keeps both always"

    async def test_a_terminal_has_no_stderr_of_its_own(self, driver: Driver) -> None:
        await created(driver, "sh", "-c", "read go; echo err >&2", stdin=True, terminal=True)
        await start(driver)
        with pytest.raises(InvalidState, match="its terminal writes to stdout alone"):
            await attached(driver, stdout=False)
        with pytest.raises(InvalidState, match="its terminal writes to stdout alone"):
            await driver.pl.interaction.output(driver.me, i.Streams(ref="one"), i.STDERR)
        attachment = await attached(driver, stdin=True)
        await attachment.write(b"go\n")
        assert b"err" in bytes_of([piece async for piece in attachment])

    async def test_a_stream_alone_until_its_end(self, driver: Driver) -> None:
        await created(driver, "sh", "-c", "read go; seq 20000; echo err >&2", stdin=True)
        await start(driver)
        interaction, ref = driver.pl.interaction, i.Streams(ref="one")
        out: AsyncIterator[bytes] = await interaction.output(driver.me, ref, i.STDOUT)
        err: AsyncIterator[bytes] = await interaction.output(driver.me, ref, i.STDERR)
        await interaction.write_stdin(driver.me, ref, images.stream(b"go\n"))
        assert b"".join([piece async for piece in out]) == NUMBERS
        assert b"".join([piece async for piece in err]) == b"err\n"

    async def test_logs_are_followed_cut_and_chosen(self, driver: Driver) -> None:
        await created(driver, "sh", "-c", "seq 3; echo err >&2")
        await start(driver)
        followed = await logged(driver, follow=True)
        assert (bytes_of(followed), bytes_of(followed, i.STDERR)) == (b"1\n2\n3\n", b"err\n")
        assert bytes_of(await logged(driver, tail=1, stderr=False)) == b"3\n"
        last = followed[-1].time
        assert all(chunk.time <= last for chunk in await logged(driver))

    async def test_who_leaves_a_followed_log_leaves_nothing_running(self, driver: Driver) -> None:
        await created(driver, "sh", "-c", "echo up; exec sleep 1000")
        await start(driver)
        chunks: Any = await driver.pl.interaction.logs(driver.me, i.Logs(ref="one", follow=True))
        assert (await anext(chunks)).data == b"up\n"
        await chunks.aclose()
        await driver.remove("one", force=True)

    async def test_what_is_not_there_and_what_is_not_bound(self, driver: Driver) -> None:
        with pytest.raises(NotFound):
            await driver.pl.interaction.attach(driver.me, i.Attach(ref="absent"))
        with pytest.raises(NotFound):
            await driver.pl.interaction.logs(driver.me, i.Logs(ref="absent"))
        await driver.run("sleep", "1000", name="one")
        with pytest.raises(InvalidState):
            await attached(driver, stdin=True)
        with pytest.raises(InvalidState):
            await driver.pl.interaction.resize(driver.me, i.Resize(ref="one", width=80, height=24))

    async def test_what_is_unbound_takes_no_stdin(self, driver: Driver) -> None:
        await created(driver, "cat", stdin=True)
        unbound = await driver.pl.interaction.unbind(driver.me, i.BindInteraction(handle=await driver.handle("one")))
        await driver.commit(unbound.handle)
        with pytest.raises(InvalidState):
            await attached(driver, stdin=True)
