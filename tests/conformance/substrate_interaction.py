"""What every substrate's InteractionDriver keeps of interfaces/substrate.py."""

from __future__ import annotations

import asyncio
import time

import pytest

from conformance.substrate_bench import Bench, text
from portlayer.model.errors import InvalidState
from portlayer.model.interaction import STDERR, STDOUT
from portlayer.model.names import new_id

NUMBERS = b"".join(b"%d\n" % number for number in range(1, 20001))
BINARY = bytes(range(256)) * 400


class InteractionSuite:
    async def test_stdout_and_stderr_are_told_apart(self, bench: Bench) -> None:
        ran = await bench.ran("sh", "-c", "echo out; echo err >&2; printf more")
        assert (ran.stdout, ran.stderr) == (b"out\nmore", b"err\n")

    async def test_the_log_is_exactly_what_was_written(self, bench: Bench) -> None:
        assert (await bench.ran("seq", "20000")).stdout == NUMBERS

    async def test_any_bytes_go_in_and_out(self, bench: Bench) -> None:
        started = await bench.started("cat", stdin=True)
        await started.write(BINARY)
        await started.close_stdin()
        assert (await bench.ended(started)).stdout == BINARY

    async def test_a_log_that_was_never_written(self, bench: Bench) -> None:
        assert await bench.substrate.interaction.log_end(new_id()) == 0
        assert [chunk async for chunk in bench.substrate.interaction.read_log(new_id())] == []
        silent = await bench.started("true")
        assert await silent.follow() == []
        assert await bench.substrate.interaction.log_end(silent.spec.id) == 0

    async def test_cursors_resume_without_gap_or_repetition(self, bench: Bench) -> None:
        before = time.time_ns()
        started = await bench.started("sh", "-c", "seq 3; echo err >&2; seq 2000; printf end")
        chunks = await started.follow()
        await started.wait()
        assert [chunk.cursor for chunk in chunks] == sorted({chunk.cursor for chunk in chunks})
        assert all(before <= chunk.time <= time.time_ns() for chunk in chunks)
        assert await bench.substrate.interaction.log_end(started.spec.id) == chunks[-1].cursor
        for index, chunk in enumerate(chunks):
            rest = await started.log(chunk.cursor)
            assert text(rest, STDOUT) == text(chunks[index + 1 :], STDOUT)
            assert text(rest, STDERR) == text(chunks[index + 1 :], STDERR)

    async def test_the_tail_of_the_log_has_what_is_asked_for(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "seq 20000; echo err >&2; printf end")
        await started.follow()
        for lines, streams in ((0, {STDOUT}), (5, {STDOUT, STDERR}), (5, {STDERR}), (30_000, {STDOUT})):
            cursor = await bench.substrate.interaction.log_tail(started.spec.id, lines, frozenset(streams))
            assert cursor == 0 or text(await started.log(cursor), *streams).count(b"\n") > lines
        assert await bench.substrate.interaction.log_tail(new_id(), 5, frozenset({STDOUT})) == 0

    async def test_the_log_ends_at_its_present_end(self, bench: Bench) -> None:
        started = await bench.started("cat", stdin=True)
        await started.write(b"one\n")
        cursor = await started.printed(b"one\n")
        assert text(await started.log()) == b"one\n"
        assert await started.log(cursor) == []
        await started.write(b"two\n")
        await started.printed(b"two\n", cursor)
        assert text(await started.log(cursor)) == b"two\n"

    async def test_follow_gives_output_as_it_comes_to_the_last_byte(self, bench: Bench) -> None:
        started = await bench.started("cat", stdin=True)
        reader = bench.substrate.interaction.read_log(started.spec.id, follow=started.incarnation)
        seen = b""
        for number in range(5):
            await started.write(b"%d\n" % number)
            while not seen.endswith(b"%d\n" % number):
                seen += (await anext(reader)).data
        await started.write(b"last")
        await started.close_stdin()
        async for chunk in reader:
            seen += chunk.data
        assert seen == b"0\n1\n2\n3\n4\nlast"

    async def test_follow_begins_before_release(self, bench: Bench) -> None:
        started = await bench.prepared("echo", "hello")
        reading = asyncio.create_task(started.follow())
        await asyncio.sleep(0)
        await started.release()
        assert text(await reading) == b"hello\n"

    async def test_follow_ends_with_what_it_follows(self, bench: Bench) -> None:
        killed = await bench.started("sh", "-c", "echo hello; exec sleep 100")
        await killed.printed(b"hello\n")
        reading = asyncio.create_task(killed.follow())
        await asyncio.sleep(0)
        await killed.signal(9)
        assert text(await reading) == b"hello\n"
        removed = await bench.prepared("true")
        reading = asyncio.create_task(removed.follow())
        await asyncio.sleep(0)
        await removed.remove()
        assert await reading == []
        assert text(await killed.follow()) == b"hello\n"
        await killed.remove()
        assert text(await killed.follow()) == b"hello\n"

    async def test_one_log_over_all_incarnations(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "echo run; echo err >&2")
        ends = [0]
        for number in range(3):
            if number:
                started = await bench.again(started)
            await started.wait()
            ends.append(await bench.substrate.interaction.log_end(started.spec.id))
            assert sorted(chunk.data for chunk in await started.follow(ends[-2])) == [b"err\n", b"run\n"]
        assert ends == sorted(set(ends))
        assert text(await started.log(), STDOUT) == b"run\n" * 3
        assert text(await started.log(ends[1]), STDERR) == b"err\n" * 2

    async def test_the_log_outlives_its_incarnation_and_us(self, bench: Bench) -> None:
        started = await bench.started("echo", "hello")
        await started.wait()
        await started.remove()
        await bench.substrate.storage.release_rootfs(started.spec.id)
        await bench.restart()
        assert text(await started.log()) == b"hello\n"
        await bench.substrate.storage.remove_rootfs(started.spec.id)
        assert await started.log() == []

    async def test_a_chunk_is_of_bounded_size_and_with_split_one_line(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "seq 20000; echo err >&2; printf end")
        chunks = await started.follow()
        assert max(len(chunk.data) for chunk in chunks) <= 60 << 10
        reader = bench.substrate.interaction.read_log(started.spec.id, chunks[0].cursor, split=True)
        lines = [chunk async for chunk in reader]
        assert all(chunk.data.find(b"\n") in {-1, len(chunk.data) - 1} for chunk in lines)
        assert text(lines, STDOUT) == text(chunks[1:], STDOUT)
        assert text(lines, STDERR) == text(chunks[1:], STDERR)
        assert text(await started.log(lines[0].cursor)) == text(lines[1:])

    async def test_two_readers_at_once(self, bench: Bench) -> None:
        started = await bench.prepared("seq", "20000")
        readers = [asyncio.create_task(started.follow()) for _ in range(2)]
        await started.release()
        for reader in readers:
            assert text(await reader) == NUMBERS

    async def test_a_slow_reader_never_holds_the_process_up(self, bench: Bench) -> None:
        started = await bench.prepared("seq", "200000")
        reader = bench.substrate.interaction.read_log(started.spec.id, follow=started.incarnation)
        await started.release()
        first = await anext(reader)
        assert (await started.wait()).exit_code == 0
        rest = [chunk async for chunk in reader]
        assert text([first, *rest]) == b"".join(b"%d\n" % number for number in range(1, 200001))

    async def test_a_reader_that_leaves_takes_nothing_along(self, bench: Bench) -> None:
        started = await bench.started("cat", stdin=True)
        await started.write(b"one\n")
        cursor = await started.printed(b"one\n")
        reader = asyncio.create_task(started.follow())
        await asyncio.sleep(0)
        reader.cancel()
        await started.write(b"two\n")
        await started.printed(b"two\n", cursor)

    async def test_without_stdin_the_process_reads_the_end(self, bench: Bench) -> None:
        started = await bench.started("cat")
        assert (await bench.ended(started)).stdout == b""
        sleeping = await bench.started("sleep", "100")
        with pytest.raises(InvalidState):
            await sleeping.write(b"x")

    async def test_stdin_stays_open_until_it_is_closed(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "read one; echo got $one; wc -c", stdin=True)
        await started.write(b"x\n")
        cursor = await started.printed(b"got x\n")
        await started.write(b"12345")
        await started.write(b"678")
        for _ in range(2):
            await started.close_stdin()
        assert text(await started.follow(cursor)) == b"8\n"
        with pytest.raises(InvalidState):
            await started.write(b"late")

    async def test_stdin_waits_while_its_pipe_is_full(self, bench: Bench) -> None:
        started = await bench.started("wc", "-c", stdin=True)
        data = b"x" * 3_000_000
        await started.write(data)
        await started.close_stdin()
        assert (await bench.ended(started)).stdout == b"3000000\n"

    async def test_a_full_pipe_blocks_the_writer_until_the_process_is_gone(self, bench: Bench) -> None:
        started = await bench.started("sleep", "100", stdin=True)
        writing = asyncio.create_task(started.write(b"x" * 20_000_000))
        other = await bench.started("cat", stdin=True)
        for number in range(20):
            await other.write(b"%d\n" % number)
            await other.printed(b"%d\n" % number)
        assert not writing.done()
        await started.signal(9)
        with pytest.raises(InvalidState):
            await writing
        with pytest.raises(InvalidState):
            await started.write(b"x")

    async def test_stdin_of_nothing(self, bench: Bench) -> None:
        with pytest.raises(InvalidState):
            await bench.substrate.interaction.write_stdin(new_id(), new_id(), b"x")
        await bench.substrate.interaction.close_stdin(new_id(), new_id())

    async def test_stdin_across_a_restart(self, bench: Bench) -> None:
        started = await bench.started("cat", stdin=True)
        await started.write(b"before\n")
        await started.printed(b"before\n")
        await bench.restart()
        await started.write(b"after\n")
        await started.printed(b"after\n")
        await bench.restart()
        await started.close_stdin()
        assert text(await started.follow()) == b"before\nafter\n"
        assert (await started.wait()).exit_code == 0

    async def test_stdin_before_release_waits_for_the_process(self, bench: Bench) -> None:
        started = await bench.prepared("cat", stdin=True)
        await started.write(b"early\n")
        await started.close_stdin()
        await started.release()
        assert (await bench.ended(started)).stdout == b"early\n"

    async def test_output_of_the_time_while_we_were_away(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "echo one; sleep 0.05; echo two; sleep 0.05; echo three")
        cursor = await started.printed(b"one\n")
        await bench.restart()
        assert text(await started.follow(cursor)) == b"two\nthree\n"

    async def test_resize_needs_a_terminal(self, bench: Bench) -> None:
        started = await bench.started("cat", stdin=True)
        with pytest.raises(InvalidState):
            await bench.substrate.interaction.resize(*started.ids, 80, 25)
        with pytest.raises(InvalidState):
            await bench.substrate.interaction.resize(new_id(), new_id(), 80, 25)

    async def test_a_terminal_has_a_size_and_one_stream(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "echo ready >&2; read x; stty size", stdin=True, terminal=True)
        cursor = await started.printed(b"ready\r\n")
        for _ in range(2):
            await bench.substrate.interaction.resize(*started.ids, 132, 43)
        await started.write(b"\n")
        await started.printed(b"43 132\r\n", cursor)
        assert (await started.wait()).exit_code == 0
        assert {chunk.stream for chunk in await started.log()} == {STDOUT}

    async def test_a_terminal_echoes_interrupts_and_ends(self, bench: Bench) -> None:
        started = await bench.started(
            "sh",
            "-c",
            # The interrupt ends sleep, too, where that has not come to leave it alone yet.
            "sleep 100 & trap 'echo interrupted; kill $! 2>/dev/null' INT; echo ready; wait; cat; echo end",
            stdin=True,
            terminal=True,
        )
        cursor = await started.printed(b"ready\r\n")
        await started.write(b"\x03")
        cursor = await started.printed(b"interrupted\r\n", cursor)
        await started.write(b"hello\n")
        cursor = await started.printed(b"hello\r\nhello\r\n", cursor)
        await started.write(b"\x04")
        await started.printed(b"end\r\n", cursor)
        assert (await started.wait()).exit_code == 0
