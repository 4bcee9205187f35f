"""The Linux substrate's streams beside what the conformance suite asks: the log format, and what is particular to
the shim's pipes. As root, with real runtimes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import builders
import pytest
from conformance.substrate_bench import Started, text
from hypothesis import given
from hypothesis import strategies as st
from linux.runlab import RunLab

from portlayer.components import tail
from portlayer.model.errors import InvalidState
from portlayer.model.interaction import STDERR, STDOUT, Chunk
from portlayer.substrates.linux import crilog, interaction, stdio

NAMES = {STDOUT: b"stdout", STDERR: b"stderr"}
BOTH = frozenset(NAMES)
TIME = 1_795_000_000_123_456_789
STAMP = datetime.fromtimestamp(TIME // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode() + b".123456789+00:00"
WRITES = st.lists(
    st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(min_size=1, max_size=40) | st.sampled_from([b"\n", b"a\n"]))
)


def lines(writes: list[tuple[int, bytes]]) -> bytes:
    """The log of *writes* as the shim has it."""
    return b"".join(_lines(writes))


def _lines(writes: list[tuple[int, bytes]]) -> Iterator[bytes]:
    for stream, data in writes:
        for piece in data.splitlines(keepends=True) if b"\r" not in data else _split(data):
            for part in _split(piece):
                full = part.endswith(b"\n")
                yield b"%s %s %s %s\n" % (STAMP, NAMES[stream], b"F" if full else b"P", part.removesuffix(b"\n"))


def _split(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + [part for part in parts[-1:] if part]


@given(WRITES, st.booleans())
def test_parsing_gives_what_was_written(writes: list[tuple[int, bytes]], split: bool) -> None:
    log = lines(writes)
    chunks, end = crilog.parse(log, 1000, split=split)
    assert end == 1000 + len(log)
    for stream in NAMES:
        assert text(chunks, stream) == b"".join(data for of, data in writes if of == stream)
    assert [chunk.time for chunk in chunks] == [TIME] * len(chunks)
    assert all(first.stream != second.stream or split for first, second in pairwise(chunks))
    if split:
        assert all(b"\n" not in chunk.data[:-1] for chunk in chunks)


@given(WRITES, st.data())
def test_parsing_in_blocks_of_any_size(writes: list[tuple[int, bytes]], data: st.DataObject) -> None:
    log = lines(writes)
    found: list[Chunk] = []
    cursor = 0
    while cursor < len(log):
        chunks, after = crilog.parse(log[cursor : cursor + data.draw(st.integers(100, 400))], cursor)
        found += chunks
        cursor = after
    whole, _ = crilog.parse(log, 0)
    for stream in NAMES:
        assert text(found, stream) == text(whole, stream)
    for chunk in whole:
        assert text(crilog.parse(log[chunk.cursor :], chunk.cursor)[0]) == text(whole[whole.index(chunk) + 1 :])


@given(st.binary(max_size=300))
def test_parsing_anything_at_all(log: bytes) -> None:
    chunks, end = crilog.parse(log, 0)
    assert end == log.rfind(b"\n") + 1
    assert len(text(chunks)) <= len(log)


@given(WRITES, st.integers(0, 6), st.sampled_from([BOTH, frozenset({STDERR})]), st.integers(60, 400))
async def test_the_tail_is_found_from_the_end(
    tmp_path_factory: pytest.TempPathFactory,
    writes: list[tuple[int, bytes]],
    wanted: int,
    streams: frozenset[int],
    size: int,
) -> None:
    path = tmp_path_factory.getbasetemp() / "log-with-a-tail"
    path.write_bytes(log := lines(writes))

    async def read(cursor: int) -> AsyncGenerator[Chunk, None]:
        for chunk in crilog.parse(log[cursor:], cursor, split=True)[0]:
            yield chunk

    async def last(begin: int) -> list[Chunk]:
        found = await tail.find_tail(read(begin), begin, wanted, streams)
        return [chunk async for chunk in tail.last_lines(read(found.begin), found, streams)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interaction, "_BLOCK", size)
        begin = interaction._find_tail(path, wanted, streams)
    assert [chunk.data for chunk in await last(begin)] == [chunk.data for chunk in await last(0)]


def test_of_a_long_log_the_end_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(lines([(STDERR, b"rare\n")] * 20 + [(STDOUT, b"x" * 100 + b"\n")] * 20_000))
    long = path.stat().st_size
    assert long - 300_000 < interaction._find_tail(path, 10, BOTH) < long - 1500
    assert interaction._find_tail(path, 10, frozenset({STDERR})) == 0
    assert interaction._find_tail(path, 20_100, BOTH) == 0
    assert interaction._find_tail(tmp_path / "none", 10, BOTH) == 0


def test_a_chunk_is_bounded() -> None:
    chunks, _ = crilog.parse(lines([(STDOUT, b"x" * 8000)] * 40), 0)
    assert text(chunks) == b"x" * 320_000
    assert max(len(chunk.data) for chunk in chunks) <= 60 << 10
    assert len(chunks) == 6


@pytest.fixture(params=["crun", "runc"])
async def lab(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RunLab]:
    # A long path: an address of a socket has room for 107 characters only.
    home = tmp_path / ("long" * 30)
    home.mkdir()
    lab = RunLab(home, request.param)
    await lab.set_up()
    yield lab
    await lab.tear_down()


async def test_random_bytes_in_odd_pieces(lab: RunLab) -> None:
    source = random.Random(7)
    data = source.randbytes(700_000) + b"\n\n\n" + b"\r\n" * 1000 + source.randbytes(3)
    started = await lab.started("cat", stdin=True)
    reading = asyncio.create_task(started.follow())
    position = 0
    while position < len(data):
        size = source.choice([1, 2, 8191, 8192, 8193, 65536])
        await started.write(data[position : position + size])
        position += size
    await started.close_stdin()
    assert text(await reading, STDOUT) == data
    assert text(await started.log(), STDOUT) == data
    assert (await started.wait()).exit_code == 0


async def test_only_closing_closes(lab: RunLab) -> None:
    """The shim closes its end when it is told to: no restart, no reader and no resize may do that."""
    started = await lab.started("cat", stdin=True)
    for number in range(3):
        await started.write(b"%d\n" % number)
        await started.printed(b"%d\n" % number)
        await lab.restart()
    with pytest.raises(InvalidState):
        await lab.substrate.interaction.resize(*started.ids, 80, 25)
    assert (await started.observe()).state == "running"
    await started.close_stdin()
    assert (await started.wait()).exit_code == 0
    await lab.restart()
    with pytest.raises(InvalidState):
        await started.write(b"late")


async def test_closed_stays_closed_across_a_restart(lab: RunLab) -> None:
    started = await lab.started("sh", "-c", "cat; echo end; sleep 100", stdin=True)
    await started.close_stdin()
    await started.printed(b"end\n")
    await lab.restart()
    with pytest.raises(InvalidState):
        await started.write(b"late")


async def test_a_terminal_across_a_restart(lab: RunLab) -> None:
    started = await lab.prepared("sh", "-c", "stty size; tty; read x; stty size; cat", stdin=True, terminal=True)
    await lab.substrate.interaction.resize(*started.ids, 2000, 1500)
    assert await started.release() is None
    cursor = await started.printed(b"1500 2000\r\n")
    await lab.restart()
    await lab.substrate.interaction.resize(*started.ids, 80, 25)
    await started.write(b"\n")
    await started.printed(b"25 80\r\n", cursor)
    await started.write(b"no newline")
    await started.close_stdin()
    assert (await started.wait()).exit_code == 0
    assert text(await started.log()).endswith(b"no newline" * 2)


async def test_a_terminal_without_stdin_takes_no_input(lab: RunLab) -> None:
    spec = builders.container("sh", "-c", "test -t 0 && echo terminal; sleep 100", terminal=True)
    started = await lab.prepare(spec)
    assert isinstance(started, Started)
    await started.release()
    await started.printed(b"terminal\r\n")
    with pytest.raises(InvalidState):
        await started.write(b"x")


async def test_a_log_that_a_shim_left_torn(lab: RunLab) -> None:
    """the shim was killed in the middle of a line: what is whole before and after is still read."""
    started = await lab.started("echo", "one")
    await started.wait()
    with lab.paths.log(started.spec.id).open("ab") as log:
        log.write(STAMP + b" stdout P to")
    assert text(await started.log()) == b"one\n"
    end = await lab.substrate.interaction.log_end(started.spec.id)
    assert await started.log(end) == []


async def test_the_end_of_the_log_is_after_a_whole_line(lab: RunLab) -> None:
    started = await lab.started("sh", "-c", "busybox head -c 300000 /dev/zero")
    await started.wait()
    chunks = await started.log()
    assert await lab.substrate.interaction.log_end(started.spec.id) == chunks[-1].cursor
    assert text(chunks) == bytes(300_000)


async def test_stdin_without_its_holder(lab: RunLab) -> None:
    started = await lab.prepared("cat", stdin=True)
    stdin = stdio.open_stdin(lab.record(started))
    assert stdin is not None
    stdin.close()
    with pytest.raises(BrokenPipeError):
        await stdin.write(b"x")
    record = lab.record(started)
    await started.remove()
    assert stdio.open_stdin(record) is None
