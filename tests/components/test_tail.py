"""The last lines of a log: as many as are asked for, without keeping the log."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from harness import ME, Harness
from hypothesis import given
from hypothesis import strategies as st

from portlayer.components import tail
from portlayer.model import interaction as i

BOTH = frozenset({i.STDOUT, i.STDERR})
PIECES = st.lists(st.tuples(st.sampled_from(sorted(BOTH)), st.sampled_from([b"a", b"b\n", b"\n"])), max_size=30)


async def log_of(pieces: list[tuple[int, bytes]], begin: int = 0) -> AsyncGenerator[i.Chunk, None]:
    for number, (stream, data) in enumerate(pieces):
        if number >= begin:
            yield i.Chunk(stream=stream, data=data, time=number, cursor=number + 1)


@given(PIECES, st.integers(0, 12), st.sampled_from([BOTH, frozenset({i.STDOUT})]))
async def test_it_is_the_last_lines_of_what_is_wanted(
    pieces: list[tuple[int, bytes]], lines: int, streams: frozenset[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail, "NEAR", 5)
        found = await tail.find_tail(log_of(pieces), 0, lines, streams)
        grown = [*pieces, (i.STDOUT, b"written meanwhile\n")]
        given = [one.data async for one in tail.last_lines(log_of(grown, found.begin), found, streams)]
    whole = b"".join(data for stream, data in pieces if stream in streams).splitlines(keepends=True)
    assert b"".join(given) == b"".join(whole[-lines:] if lines else [])


async def test_what_is_known_to_be_no_tail_is_not_read(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    done = await harness.run("seq", "10")
    await harness.wait(done.id)
    driver: Any = harness.pl.interaction._driver  # type: ignore[attr-defined]
    chunks = [chunk async for chunk in driver.read_log(done.id, split=True)]
    begin, read, opened = chunks[4].cursor, driver.read_log, []

    async def find(*_: Any) -> int:
        return begin

    def reading(container: str, cursor: int = 0, **how: Any) -> Any:
        opened.append(cursor)
        return read(container, cursor, **how)

    monkeypatch.setattr(driver, "log_tail", find, raising=False)
    monkeypatch.setattr(driver, "read_log", reading, raising=False)
    logs: Any = await harness.pl.interaction.logs(ME, i.Logs(ref=done.id, tail=2))
    assert b"".join([one.data async for one in logs]) == b"9\n10\n"
    assert min(opened) == begin


@pytest.mark.parametrize("data", [b"x" * 50_000, b"x" * 49_999 + b"\n"])
async def test_however_much_is_asked_for_little_is_kept(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    running = await harness.run("sleep", "1000")

    async def long(container: str, cursor: int = 0, **_: Any) -> AsyncGenerator[i.Chunk, None]:
        del container
        for number in range(cursor, 1000):
            yield i.Chunk(stream=i.STDOUT, data=bytes(bytearray(data)), time=1, cursor=number + 1)

    monkeypatch.setattr(harness.pl.interaction._driver, "read_log", long, raising=False)  # type: ignore[attr-defined]
    tracemalloc.start()
    try:
        chunks: Any = await harness.pl.interaction.logs(ME, i.Logs(ref=running.id, tail=1 << 40))
        size = sum([len(one.data) async for one in chunks])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 1000 * len(data)
    assert most < 20 * len(data)
