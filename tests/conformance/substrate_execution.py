"""What every substrate's ExecutionDriver keeps of interfaces/substrate.py."""

from __future__ import annotations

import asyncio
import signal
from datetime import datetime

import builders
import images
import pytest

from conformance.substrate_bench import Bench, Started, text
from portlayer.interfaces.substrate import Observation, Presence
from portlayer.model.errors import InvalidArgument, SubstrateFailed
from portlayer.model.execution import Resources
from portlayer.model.names import new_id

ABSENT = Observation(state="absent")
FOREVER = ("sh", "-c", "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done")


async def ready(bench: Bench) -> Started:
    """A container that runs until SIGTERM and has set its trap for it."""
    started = await bench.started(*FOREVER)
    await started.printed(b"ready")
    return started


class ExecutionSuite:
    async def test_a_life(self, bench: Bench) -> None:
        started = await bench.prepared("sh", "-c", "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done")
        assert (await started.observe()) == Observation(state="prepared")
        await started.release()
        assert (await started.observe()) == Observation(state="running")
        await started.printed(b"ready")
        await started.signal(signal.SIGTERM)
        ended = await started.wait()
        assert (ended.state, ended.exit_code, ended.oom_killed) == ("exited", 7, False)
        assert ended.finished_at is not None
        assert datetime.fromisoformat(ended.finished_at).tzinfo is not None
        assert await started.observe() == ended
        await started.remove()
        assert await started.observe() == ABSENT
        assert await started.wait() == ABSENT

    @pytest.mark.parametrize(
        ("args", "exit_code"),
        [
            (("true",), 0),
            (("false",), 1),
            (("/bin/true",), 0),
            (("sh", "-c", "exit 42"), 42),
            (("sh", "-c", "exit 255"), 255),
            (("sh", "-c", "exit 256"), 0),
            (("sh", "-c", "false || exit 5"), 5),
            (("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), 137),
            (("sh", "-c", "nosuch"), 127),
            (("sh", "-c", "/etc/passwd"), 126),
            (("sleep", "0.01"), 0),
            (("cat", "/nosuch"), 1),
        ],
    )
    async def test_exit_codes(self, bench: Bench, args: tuple[str, ...], exit_code: int) -> None:
        assert (await bench.ran(*args)).exit_code == exit_code

    async def test_a_prepared_process_does_nothing_before_release(self, bench: Bench) -> None:
        volume = new_id()
        await bench.substrate.storage.make_volume(volume)
        mounts = [builders.mount(volume, "/data")]
        first = await bench.prepared("sh", "-c", "echo x >> /data/f; echo first", mounts=mounts)
        second = await bench.ran("sh", "-c", "cat /data/f || echo nothing", mounts=mounts)
        assert second.stdout == b"nothing\n"
        assert await bench.substrate.interaction.log_end(first.spec.id) == 0
        assert (await first.observe()).state == "prepared"
        await first.release()
        assert (await bench.ended(first)).stdout == b"first\n"
        assert (await bench.ran("cat", "/data/f", mounts=mounts)).stdout == b"x\n"

    async def test_every_call_twice(self, bench: Bench) -> None:
        execution = bench.substrate.execution
        started = await bench.prepared(*FOREVER)
        assert await execution.prepare(started.spec, started.incarnation, {}) is None
        assert (await started.observe()).state == "prepared"
        for _ in range(2):
            assert await started.release() is None
        await started.printed(b"ready")
        assert await execution.prepare(started.spec, started.incarnation, {}) is None
        assert (await started.observe()).state == "running"
        for _ in range(2):
            await execution.pause(*started.ids)
        assert (await started.observe()).state == "paused"
        for _ in range(2):
            await execution.resume(*started.ids)
        for _ in range(2):
            await execution.update(*started.ids, Resources(pids=50))
        for _ in range(2):
            await started.signal(signal.SIGTERM)
        ended = await started.wait()
        assert ended.exit_code == 7
        await started.signal(signal.SIGTERM)
        assert await started.release() is None
        assert await started.observe() == ended
        for _ in range(2):
            await started.remove()
        assert await bench.ended(started) is not None
        chunks = await started.log()
        assert [chunk.data for chunk in chunks].count(b"ready\n") == 1

    async def test_undoing_what_was_never_done(self, bench: Bench) -> None:
        execution = bench.substrate.execution
        ids = new_id(), new_id()
        await execution.remove(*ids)
        await execution.resume(*ids)
        await execution.signal(*ids, signal.SIGKILL)
        assert await execution.observe(*ids) == ABSENT
        assert await execution.wait(*ids) == ABSENT
        assert await execution.present() == []

    async def test_what_needs_a_process_says_that_it_is_gone(self, bench: Bench) -> None:
        execution = bench.substrate.execution
        ids = new_id(), new_id()
        for call in (execution.update(*ids, Resources()), execution.release(*ids)):
            with pytest.raises(SubstrateFailed) as caught:
                await call
            assert caught.value.facts["step"]

    async def test_a_process_needs_its_rootfs(self, bench: Bench) -> None:
        spec = builders.container()
        with pytest.raises(SubstrateFailed):
            await bench.substrate.execution.prepare(spec, new_id(), {})
        assert await bench.substrate.execution.present() == []

    @pytest.mark.parametrize("init", [False, True])
    @pytest.mark.parametrize(
        ("args", "exit_code"),
        [
            (("nosuch",), 127),
            (("/bin/nosuch",), 127),
            (("",), 127),
            (("/etc/passwd",), 126),
            (("/etc",), 126),
        ],
    )
    async def test_a_program_that_cannot_be_executed(
        self, bench: Bench, args: tuple[str, ...], exit_code: int, init: bool
    ) -> None:
        failure = await bench.start_failure(builders.container(*args, init=init))
        assert failure.exit_code == exit_code
        (name,) = args
        assert failure.reason.startswith(f"{name}: " if name else "There is no program")
        assert failure.reason.endswith("Is a directory") == (name == "/etc")
        assert await bench.substrate.execution.present() == []

    @pytest.mark.parametrize("args", [("/bin/nosuch",), ("/etc",), ("/etc/passwd",)])
    async def test_a_failed_release_says_the_same_again(self, bench: Bench, args: tuple[str, ...]) -> None:
        started = await bench.prepare(builders.container(*args))
        if isinstance(started, Started):  # else it failed before
            failure = await started.release()
            assert failure is not None
            for _ in range(2):
                assert await started.release() == failure
                await bench.restart()
            assert (await started.observe()).exit_code == failure.exit_code
            assert await started.log() == []

    async def test_a_failed_start_leaves_the_next_one_free(self, bench: Bench) -> None:
        spec = builders.container("nosuch")
        await bench.start_failure(spec)
        assert (await bench.start_failure(spec)).exit_code == 127
        await bench.substrate.storage.release_rootfs(spec.id)
        await bench.substrate.storage.remove_rootfs(spec.id)
        assert await bench.substrate.storage.rootfs() == []

    async def test_what_the_process_is_given(self, bench: Bench) -> None:
        script = "echo $COLOUR; pwd; hostname; id -u; id -g; echo $$"
        ran = await bench.ran(
            "sh", "-c", script, env=["COLOUR=blue=green"], cwd="/tmp", hostname="gibson", user="cookie"
        )
        assert ran.stdout == b"blue=green\n/tmp\ngibson\n1000\n1000\n1\n"

    async def test_a_working_directory_is_made(self, bench: Bench) -> None:
        assert (await bench.ran("pwd", cwd="/not/there/yet")).stdout == b"/not/there/yet\n"

    async def test_variables_that_every_process_has(self, bench: Bench) -> None:
        ran = await bench.ran("sh", "-c", "echo $HOME $HOSTNAME", user="cookie", hostname="gibson")
        assert ran.stdout == b"/home gibson\n"

    @pytest.mark.parametrize(
        ("user", "ids"),
        [
            ("", b"0\n0\n"),
            ("cookie:bakers", b"1000\n2000\n"),
            ("1000", b"1000\n1000\n"),
            ("1000:0", b"1000\n0\n"),
            ("4321", b"4321\n0\n"),
            ("4321:1234", b"4321\n1234\n"),
        ],
    )
    async def test_users(self, bench: Bench, user: str, ids: bytes) -> None:
        assert (await bench.ran("sh", "-c", "id -u; id -g", user=user)).stdout == ids

    @pytest.mark.parametrize("user", ["nosuch", "cookie:nosuch"])
    async def test_a_user_that_nobody_knows_is_refused(self, bench: Bench, user: str) -> None:
        with pytest.raises(InvalidArgument):
            await bench.prepare(builders.container("true", user=user))
        assert await bench.substrate.execution.present() == []

    async def test_pid_1_ignores_signals_that_it_has_no_trap_for(self, bench: Bench) -> None:
        started = await bench.started(
            "sh", "-c", "trap 'echo caught' USR1; echo ready; while true; do sleep 0.01; done"
        )
        cursor = await started.printed(b"ready")
        await started.signal(signal.SIGTERM)
        await started.signal(signal.SIGHUP)
        await started.signal(signal.SIGUSR1)
        await started.printed(b"caught", cursor)
        assert (await started.observe()).state == "running"
        await started.signal(signal.SIGKILL)
        assert (await started.wait()).exit_code == 137

    async def test_a_shell_ends_by_an_interrupt_even_as_pid_1(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "echo ready; while true; do sleep 0.01; done")
        await started.printed(b"ready")
        await started.signal(signal.SIGINT)
        assert (await started.wait()).exit_code == 130

    async def test_pid_1_cannot_kill_itself(self, bench: Bench) -> None:
        assert (await bench.ran("sh", "-c", "kill -9 $$; echo alive")).stdout == b"alive\n"

    async def test_a_trap_interrupts_wait_and_not_a_program(self, bench: Bench) -> None:
        waiting = await bench.started("sh", "-c", "trap 'echo got; exit 3' TERM; sleep 100 & echo ready; wait")
        await waiting.printed(b"ready")
        await waiting.signal(signal.SIGTERM)
        assert (await waiting.wait()).exit_code == 3
        busy = await bench.started("sh", "-c", "trap 'exit 3' TERM; cat; echo read", stdin=True)
        await busy.write(b"one\n")
        await busy.printed(b"one\n")
        await busy.signal(signal.SIGTERM)
        await busy.write(b"two\n")
        await busy.printed(b"two\n")
        await busy.close_stdin()
        assert (await busy.wait()).exit_code == 3
        assert text(await busy.log()) == b"one\ntwo\n"

    async def test_an_init_passes_signals_on(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "echo ready; exec sleep 100", init=True)
        await started.printed(b"ready")
        await started.signal(signal.SIGTERM)
        assert (await started.wait()).exit_code == 143
        assert (await bench.ran("sh", "-c", "exit 9", init=True)).exit_code == 9

    async def test_an_init_finds_its_program_as_others_do(self, bench: Bench) -> None:
        tar = images.tar([images.symlink("opt/echo", "/link/busybox"), images.symlink("link", "../../bin")])
        await bench.substrate.storage.put_layer(builders.diff_id(tar), images.stream(tar))
        layers = (builders.layer()[0], builders.diff_id(tar))
        fields = {"init": True, "layers": layers, "user": "cookie", "cwd": "/opt"}
        assert (await bench.ran("echo", "one", env=["PATH=/nowhere:/opt"], **fields)).stdout == b"one\n"
        assert (await bench.ran("./echo", "two", **fields)).stdout == b"two\n"

    async def test_remove_kills(self, bench: Bench) -> None:
        for started in (await bench.prepared("sleep", "100"), await bench.started("sleep", "100")):
            waiter = asyncio.create_task(started.wait())
            await asyncio.sleep(0)
            await started.remove()
            assert (await waiter).state in {"exited", "absent"}
            assert await started.observe() == ABSENT
            await bench.substrate.storage.release_rootfs(started.spec.id)
            await bench.substrate.storage.remove_rootfs(started.spec.id)
        assert await bench.substrate.execution.present() == []

    async def test_the_end_of_pid_1_is_the_end_of_all(self, bench: Bench) -> None:
        started = await bench.started("sh", "-c", "sleep 100 & sleep 100 & echo left")
        assert (await bench.ended(started)).stdout == b"left\n"

    async def test_present_lists_all(self, bench: Bench) -> None:
        prepared = await bench.prepared("true")
        running = await bench.started("sleep", "100")
        exited = await bench.started("true")
        await exited.wait()
        everyone = {Presence(container=one.spec.id, incarnation=one.incarnation) for one in (prepared, running, exited)}
        assert set(await bench.substrate.execution.present()) == everyone
        await bench.restart()
        assert set(await bench.substrate.execution.present()) == everyone
        for one in (prepared, running, exited):
            await one.remove()
        assert await bench.substrate.execution.present() == []

    async def test_two_incarnations_of_one_container(self, bench: Bench) -> None:
        first = await bench.started("sh", "-c", "exit 4")
        await first.wait()
        incarnation = new_id()
        await bench.substrate.execution.prepare(first.spec, incarnation, {})
        second = Started(bench, first.spec, incarnation)
        assert (await first.observe()).exit_code == 4
        assert (await second.observe()).state == "prepared"
        await first.remove()
        await second.release()
        assert (await second.wait()).exit_code == 4
        assert await first.observe() == ABSENT

    async def test_processes_outlive_us(self, bench: Bench) -> None:
        prepared = await bench.prepared("sh", "-c", "exit 5")
        running = await ready(bench)
        leaving = await bench.started("sh", "-c", "sleep 0.1; exit 6")
        await bench.restart()
        assert (await prepared.observe()).state == "prepared"
        assert (await running.observe()).state == "running"
        assert (await leaving.wait()).exit_code == 6
        await prepared.release()
        assert (await prepared.wait()).exit_code == 5
        await bench.restart()
        assert (await leaving.observe()).exit_code == 6
        await running.signal(signal.SIGTERM)
        assert (await running.wait()).exit_code == 7

    async def test_the_death_of_a_prepared_process_is_no_exit(self, bench: Bench) -> None:
        started = await bench.prepared("sh", "-c", "exit 5")
        await started.signal(signal.SIGKILL)
        assert await started.wait() == ABSENT
        assert await started.observe() == ABSENT
        with pytest.raises(SubstrateFailed):
            await started.release()
        assert await bench.substrate.execution.prepare(started.spec, started.incarnation, {}) is None
        await started.release()
        assert (await started.wait()).exit_code == 5

    async def test_many_wait_for_one_end(self, bench: Bench) -> None:
        started = await ready(bench)
        waiters = [asyncio.create_task(started.wait()) for _ in range(5)]
        cancelled = waiters.pop()
        await asyncio.sleep(0)
        cancelled.cancel()
        await started.signal(signal.SIGTERM)
        assert [one.exit_code for one in await asyncio.gather(*waiters)] == [7] * 4

    async def test_pause_freezes_and_resume_goes_on(self, bench: Bench) -> None:
        execution = bench.substrate.execution
        frozen = await bench.started("cat", stdin=True)
        awake = await bench.started("cat", stdin=True)
        await frozen.write(b"before\n")
        await frozen.printed(b"before\n")
        await execution.pause(*frozen.ids)
        assert (await frozen.observe()).state == "paused"
        end = await bench.substrate.interaction.log_end(frozen.spec.id)
        await frozen.write(b"after\n")
        for number in range(20):
            await awake.write(b"%d\n" % number)
            await awake.printed(b"%d\n" % number)
        assert await bench.substrate.interaction.log_end(frozen.spec.id) == end
        await bench.restart()
        assert (await frozen.observe()).state == "paused"
        await bench.substrate.execution.resume(*frozen.ids)
        await frozen.printed(b"after\n", end)
        assert (await frozen.observe()).state == "running"
        await frozen.close_stdin()
        assert (await frozen.wait()).exit_code == 0

    async def test_remove_kills_what_is_paused(self, bench: Bench) -> None:
        started = await ready(bench)
        await bench.substrate.execution.pause(*started.ids)
        await started.remove()
        assert await started.observe() == ABSENT

    async def test_a_paused_process_can_be_killed(self, bench: Bench) -> None:
        started = await ready(bench)
        await bench.substrate.execution.pause(*started.ids)
        await started.signal(signal.SIGKILL)
        assert (await started.wait()).exit_code == 137

    async def test_limits_hold_from_the_start_and_change(self, bench: Bench) -> None:
        limits = Resources(cpus=0.5, memory_bytes=64 << 20, pids=20)
        started = await bench.started("sleep", "100", resources=limits)
        assert await bench.limits(started) == limits
        changed = Resources(cpus=1.5, memory_bytes=128 << 20)
        await bench.substrate.execution.update(*started.ids, changed)
        assert await bench.limits(started) == changed
        await bench.substrate.execution.pause(*started.ids)
        await bench.substrate.execution.update(*started.ids, Resources(memory_bytes=32 << 20))
        assert await bench.limits(started) == Resources(memory_bytes=32 << 20)

    async def test_limits_of_a_prepared_process(self, bench: Bench) -> None:
        started = await bench.prepared("sleep", "100")
        await bench.substrate.execution.update(*started.ids, Resources(memory_bytes=64 << 20))
        await started.release()
        assert await bench.limits(started) == Resources(memory_bytes=64 << 20)

    async def test_a_limit_of_processes_is_felt(self, bench: Bench) -> None:
        ran = await bench.ran("sh", "-c", "sleep 9 & sleep 9; echo both", resources=Resources(pids=2))
        assert ran.stdout == b""
        assert b"can't fork" in ran.stderr

    async def test_many_at_once(self, bench: Bench) -> None:
        ran = await asyncio.gather(*(bench.ran("sh", "-c", f"echo {number}; exit {number}") for number in range(8)))
        assert [(one.exit_code, one.stdout) for one in ran] == [(number, b"%d\n" % number) for number in range(8)]

    async def test_purge_leaves_nothing(self, bench: Bench) -> None:
        running = await ready(bench)
        prepared = await bench.prepared("true")
        assert await bench.substrate.leftovers() != []
        for _ in range(2):
            await bench.substrate.purge()
        assert await bench.substrate.leftovers() == []
        for one in (running, prepared):
            assert (await one.observe()).state in {"absent", "exited"}

    async def test_start_tells_what_the_host_can_do(self, bench: Bench) -> None:
        features = await bench.substrate.start()
        assert features
        assert all(isinstance(value, str) for value in features.values())

    async def test_what_the_machine_has(self, bench: Bench) -> None:
        capacity = await bench.substrate.capacity()
        assert capacity.cpus >= 1
        assert capacity.memory_bytes > 64 << 20
