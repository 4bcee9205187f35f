"""Processes on a Linux host: an OCI runtime creates them under conmon; letting go and removing is done by ourselves.

Nothing here is remembered that files and /proc could not tell the next process of ours: see `incarnation`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from portlayer.interfaces.substrate import Observation, Presence, StartFailure
from portlayer.model.base import rfc3339
from portlayer.model.errors import PortlayerError, SubstrateFailed, Unavailable
from portlayer.model.execution import ContainerSpec, Resources
from portlayer.model.interaction import STDERR
from portlayer.model.network import NetworkSpec
from portlayer.substrates.linux import (
    capabilities,
    cgroups,
    conmon,
    conmonlog,
    lookup,
    probe,
    process,
    stdio,
    timers,
    users,
)
from portlayer.substrates.linux.ahead import Ahead, Begun
from portlayer.substrates.linux.exits import Exits
from portlayer.substrates.linux.incarnation import Incarnation, Record
from portlayer.substrates.linux.launch import Launched, Launcher
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.removal import Remover
from portlayer.substrates.linux.runtime import NOT_FOUND, Runtime, made_by
from portlayer.substrates.linux.spawn import Spawner
from portlayer.substrates.linux.waker import Waker

_POLL_SECONDS = 0.001
_FIRST_POLL_SECONDS, _LAST_POLL_SECONDS = 0.0003, 0.002
_END_SECONDS = 5.0
_FAILED_START = 1
RUNTIME_SECONDS = 60.0
_AT_ONCE = 20


class LinuxExecution:
    """`interfaces.substrate.ExecutionDriver`. exit_watch and ahead are started and closed by whoever made them.

    runtime: name or path of the one to use; "" chooses. runtime_seconds: after that time it is taken to hang.
    """

    def __init__(
        self,
        paths: Paths,
        exit_watch: Exits,
        ahead: Ahead,
        runtime: str = "",
        *,
        runtime_seconds: float = RUNTIME_SECONDS,
    ) -> None:
        self._paths = paths
        self._exits = exit_watch
        self._ahead = ahead
        self._cgroups = cgroups.detect(paths.instance)
        self._spawner = Spawner()
        self._launcher = Launcher(paths, self._cgroups)
        self._remover = Remover(self._cgroups, exit_watch)
        self._waker = Waker(cgroups.ROOT)
        self._making = 0
        self._wanted = runtime
        self._runtime_seconds = runtime_seconds
        self._runtime: Runtime | None = None
        self._containers: dict[str, str] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def runtime(self) -> Runtime:
        """The one that was chosen."""
        if self._runtime is None:
            raise Unavailable("The Linux substrate has not been started.")
        return self._runtime

    async def start(self) -> dict[str, str]:
        """Choose a runtime and look after what an earlier process of ours left; facts for people.

        Raises Unavailable where no runtime works on this host.
        """
        self._cgroups.start()
        chosen = await probe.choose(self._paths, self._wanted, self._try)
        self._runtime = chosen.runtime
        await self._adopt()
        return {
            "runtime": chosen.version,
            "cgroups": self._cgroups.layout,
            "seccomp": "compiled once" if self.runtime.filter(capabilities.DEFAULT).bpf else "compiled at each start",
        }

    async def close(self) -> None:
        """Containers run on."""
        await self._waker.close()
        self._spawner.close()
        await asyncio.gather(*self._closing)
        self._launcher.close()
        if self._runtime is not None:
            self._runtime.close()

    async def _try(self, runtime: Runtime, container: ContainerSpec, incarnation: str) -> Observation | StartFailure:
        """Run *container* once with *runtime*, for the probe."""
        self._runtime = runtime
        try:
            return (
                await self.prepare(container, incarnation, {})
                or await self.release(container.id, incarnation)
                or await self.wait(container.id, incarnation)
            )
        finally:
            await self.remove(container.id, incarnation)

    async def _adopt(self) -> None:
        names = _names(self._paths.incarnations)
        for name in names:
            place = Incarnation(self._paths, name)
            record = place.record()
            if record is not None:
                self._exits.watch(place, record)
            elif place.container() is None:
                await asyncio.to_thread(place.delete)
        for name in ({*self._cgroups.names()} | _names(self._paths.exits)) - names:
            await self.remove("", name)

    def expect(self) -> None:
        if not self._making:  # what is under way wakes the kernel itself
            self._waker.wake()
        self._ahead.expect()

    async def prepare(
        self, container: ContainerSpec, incarnation: str, networks: Mapping[str, NetworkSpec]
    ) -> StartFailure | None:
        place = Incarnation(self._paths, incarnation)
        if place.exists():
            record = place.record()
            if record is not None and process.is_alive(record.init):
                return None
            await self.remove(container.id, incarnation)
        if not container.process.args or not container.process.args[0]:
            return StartFailure(exit_code=NOT_FOUND, reason="There is no program to run: its name is empty.")
        self._making += 1
        try:
            failure = await self._connected(container, place, networks)
        except BaseException as error:
            await self.remove(container.id, incarnation)
            if isinstance(error, OSError):
                raise _failed("prepare", f"the host refused: {error}.", incarnation) from error
            raise
        finally:
            self._making -= 1
        if failure is not None:
            await self.remove(container.id, incarnation)
        return failure

    async def _connected(
        self, container: ContainerSpec, place: Incarnation, networks: Mapping[str, NetworkSpec]
    ) -> StartFailure | None:
        """`_create`, and meanwhile its links, where it has any."""
        wanted = [
            (endpoint, networks[endpoint.network])
            for endpoint in container.endpoints.values()
            if endpoint.bound and endpoint.network in networks
        ]
        if not wanted:
            return await self._create(container, place, None)
        begun = await self._ahead.begin(place.id, wanted)
        made = False
        try:
            failure = await self._create(container, place, begun)
            made = failure is None
            return failure
        finally:
            await self._ahead.settle(begun, made=made)

    async def _create(self, container: ContainerSpec, place: Incarnation, begun: Begun | None) -> StartFailure | None:
        path = "" if begun is None else begun.path
        launching = self._spawner.run(self._launcher.launch, container, place.id, self.runtime, path)
        starting = asyncio.ensure_future(launching)
        try:
            launched = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be stopped: only what it has started can be undone.
            await asyncio.to_thread((await starting).abandon)
            starting.result().close()
            raise
        if begun is not None:
            self._ahead.plug(begun)
        try:
            record = await self._record(container, place, launched)
            if isinstance(record, StartFailure):
                await asyncio.to_thread(launched.abandon)
                return record
        except BaseException:
            await asyncio.to_thread(launched.abandon)
            raise
        finally:
            launched.close()
            if any(mount.subpath or mount.capacity_bytes is not None for mount in container.mounts.values()):
                await self._spawner.run(self._launcher.release_mounts, place.id)
        place.save(record)
        self._exits.watch(place, record)
        return None

    async def _record(self, container: ContainerSpec, place: Incarnation, launched: Launched) -> Record | StartFailure:
        """Wait for the runtime, and write down what it made."""
        try:
            async with asyncio.timeout(self._runtime_seconds):
                report = await conmon.report(launched.report)
        except TimeoutError:
            waited = f"{self.runtime.path} did not create the process within {self._runtime_seconds:g} s"
            raise _failed("prepare", f"{waited}; see what it waits for, or remove the container.", place.id) from None
        if report is None or report.data < 0:
            return self._refused(place.id, report.message if report is not None else launched.complaints())
        return self._checked(container, place, launched, report.data)

    def _refused(self, incarnation: str, message: str) -> StartFailure:
        failure = self.runtime.refusal(message)
        if failure is None:
            reason = message.strip()[-2000:] or "it ended without a word"
            raise _failed("prepare", f"{self.runtime.path} could not create the process: {reason}", incarnation)
        return failure

    def _checked(
        self, container: ContainerSpec, place: Incarnation, launched: Launched, pid: int
    ) -> Record | StartFailure:
        """What the runtime says it made, as far as the kernel agrees."""
        init, holder = process.identify(pid), launched.holder()
        waiting = process.executable(pid)
        ours = self._cgroups.path(place.id) in process.groups(pid)
        if init is None or holder is None or waiting is None or not ours:
            raise _failed("prepare", f"{self.runtime.path} reported a process that is not the container's.", place.id)
        if container.process.init:
            user = users.resolve(str(self._paths.rootfs(container.id)), container.process.user)
            failure = lookup.check_program(container, user, pid)
            if failure is not None:
                return failure
        stdin = ""
        if container.stdin:
            stdin = stdio.TERMINAL if container.terminal else stdio.pipe_of(pid)
        return Record(
            container=container.id,
            runtime=self.runtime.name,
            init=init,
            conmon=holder,
            waiting=waiting,
            terminal=container.terminal,
            stdin=stdin,
            log_offset=launched.log_offset,
        )

    async def release(self, container: str, incarnation: str) -> StartFailure | None:
        place = Incarnation(self._paths, incarnation)
        record = place.record()
        if record is None:
            raise _failed("release", f"container {container} is not prepared any more; start it again.", incarnation)
        if place.exit() is not None and not place.was_released():
            raise _failed("release", f"the prepared process of {container} has died; start it again.", incarnation)
        place.mark_released()
        runtime = made_by(record.runtime)
        if not await runtime.open_gate(place.released) and process.executable(record.init.pid) == record.waiting:
            raise _failed("release", f"{runtime.name} does not wait for {container} to be started.", incarnation)
        return await self._executed(place, record)

    async def _executed(self, place: Incarnation, record: Record) -> StartFailure | None:
        """Wait until the program runs, or its end is known: a runtime that cannot run it says so and exits with 1."""
        pause = _FIRST_POLL_SECONDS
        while (now := process.executable(record.init.pid)) == record.waiting:
            if not process.is_alive(record.init):
                break  # another process has its pid
            await timers.pause(pause)
            pause = min(2 * pause, _LAST_POLL_SECONDS)
        if now is not None and process.is_alive(record.init):
            return None
        await self._exits.wait(place.id)
        end = place.exit()
        if end is not None and end[0] != _FAILED_START and place.start_failure() is None:
            return None
        return await asyncio.to_thread(self._failed_start, place, record)

    def _failed_start(self, place: Incarnation, record: Record) -> StartFailure | None:
        """The runtime's words are no output of the container: the log is cut back to before them.

        What they say is written down first, so that it is known too where this is done again.
        """
        failure = place.start_failure()
        if failure is None:
            end = place.exit()
            if end is None or end[0] != _FAILED_START:
                return None
            failure = self._complaint(record)
            if failure is None:
                return None
            place.save_start_failure(failure)
        os.truncate(self._paths.log(record.container), record.log_offset)
        place.replace_exit(failure.exit_code)
        return failure

    def _complaint(self, record: Record) -> StartFailure | None:
        with self._paths.log(record.container).open("rb") as file:
            file.seek(record.log_offset)
            chunks, _ = conmonlog.parse(file.read(conmonlog.LARGEST), record.log_offset)
        if not chunks or chunks[0].stream != STDERR:
            return None
        return made_by(record.runtime).failed_start(chunks[0].data.decode(errors="replace"))

    async def remove(self, container: str, incarnation: str) -> None:
        self._ahead.forget(incarnation)
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._remover.remove(Incarnation(self._paths, incarnation))
            if self._launcher.has_disks(incarnation):
                closing = asyncio.create_task(asyncio.to_thread(self._launcher.release_disks, incarnation))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        except TimeoutError:
            raise _failed(
                "remove",
                f"processes of container {container} do not die, though killed; see what they wait for in the kernel.",
                incarnation,
            ) from None
        except OSError as error:
            raise _failed("remove", f"the host refused: {error}.", incarnation) from error

    async def signal(self, container: str, incarnation: str, signal: int) -> None:
        del container
        record = Incarnation(self._paths, incarnation).record()
        if record is not None:
            process.send_signal(record.init, signal)
            if signal == _KILL:  # a frozen process would only die once it is thawed
                self._cgroups.freeze(incarnation, frozen=False)

    async def pause(self, container: str, incarnation: str) -> None:
        try:
            async with asyncio.timeout(_END_SECONDS):
                while self._cgroups.pids(incarnation):
                    self._cgroups.freeze(incarnation, frozen=True)
                    if self._cgroups.state(incarnation) == "frozen":
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            self._cgroups.freeze(incarnation, frozen=False)
            reason = f"a process of container {container} does not stop; it is resumed. Try again."
        else:
            reason = f"container {container} does not run any more."
        raise _failed("pause", reason, incarnation)

    async def resume(self, container: str, incarnation: str) -> None:
        del container
        self._cgroups.freeze(incarnation, frozen=False)

    async def update(self, container: str, incarnation: str, resources: Resources) -> None:
        try:
            await asyncio.to_thread(self._cgroups.limit, incarnation, resources)
        except OSError as error:
            raise _failed("update", f"the kernel refused the limits of {container}: {error}.", incarnation) from error

    async def observe(self, container: str, incarnation: str) -> Observation:
        del container
        place = Incarnation(self._paths, incarnation)
        record = place.record()
        if record is None:
            return Observation(state="absent")
        state = self._live_state(place, record)
        if state is not None:
            return state
        end = place.exit()
        if end is None and process.is_alive(record.conmon):
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await self._exits.wait(incarnation)
            except TimeoutError:
                return Observation(state="running")
            end = place.exit()
        if end is None or not place.was_released():
            return Observation(state="absent")
        return Observation(
            state="exited",
            exit_code=end[0],
            finished_at=rfc3339(end[1]),
            oom_killed=self._cgroups.out_of_memory(incarnation),
        )

    def _live_state(self, place: Incarnation, record: Record) -> Observation | None:
        if not process.is_alive(record.init):
            return None
        if self._cgroups.state(place.id) == "frozen":
            return Observation(state="paused")
        if process.executable(record.init.pid) == record.waiting:
            return Observation(state="prepared")
        return Observation(state="running")

    async def wait(self, container: str, incarnation: str) -> Observation:
        await self._exits.wait(incarnation)
        return await self.observe(container, incarnation)

    async def present(self) -> list[Presence]:
        names = sorted(_names(self._paths.incarnations))
        self._containers = {name: self._containers[name] for name in names if name in self._containers}
        for number, name in enumerate(names):
            if name not in self._containers:
                container = Incarnation(self._paths, name).container()
                if container is not None:
                    self._containers[name] = container
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        return [
            Presence(container=self._containers[name], incarnation=name) for name in names if name in self._containers
        ]

    async def leftovers(self) -> list[str]:
        """A line for each incarnation, process and group of this instance."""
        holders = await asyncio.to_thread(lambda: [*process.find("--exit-dir", str(self._paths.exits))])
        return [
            *(f"process {holder.pid} (conmon)" for holder in holders),
            *(f"cgroup {self._cgroups.path(name)}" for name in self._cgroups.names()),
            *(f"cgroup {parent}" for parent in (self._cgroups.parent(),) if parent),
            *(f"incarnation {name}" for name in sorted(_names(self._paths.incarnations))),
        ]

    async def purge(self) -> None:
        """Remove all that `leftovers` lists, and the parent of the groups."""
        for name in {*self._cgroups.names()} | _names(self._paths.incarnations) | _names(self._paths.exits):
            await self.remove("", name)
        self._cgroups.close()


_KILL = signal.SIGKILL


def _names(directory: Path) -> set[str]:
    """What is there; nothing where the directory has gone with the tmpfs that it was on."""
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def _failed(step: str, reason: str, incarnation: str) -> PortlayerError:
    return SubstrateFailed(f"Step {step} failed: {reason}", step=step, id=incarnation)
