"""Processes on a Linux host: an OCI runtime creates them under a shim; letting go and removing is done by ourselves.

Nothing here is remembered that files and /proc could not tell the next process of ours: see `incarnation`.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

from portlayer.interfaces.substrate import Observation, Presence, StartFailure
from portlayer.model.base import rfc3339
from portlayer.model.errors import SubstrateFailed
from portlayer.model.execution import ContainerSpec, Resources
from portlayer.model.network import NetworkSpec
from portlayer.substrates.linux import capabilities, cgroups, probe, process, shim
from portlayer.substrates.linux.ahead import Ahead
from portlayer.substrates.linux.creation import Creator
from portlayer.substrates.linux.exits import Exits
from portlayer.substrates.linux.failures import failed
from portlayer.substrates.linux.incarnation import Incarnation, Record
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.release import Releaser
from portlayer.substrates.linux.removal import Remover
from portlayer.substrates.linux.runtime import NOT_FOUND, Runtime
from portlayer.substrates.linux.waker import Waker

_POLL_SECONDS = 0.001
_END_SECONDS = 5.0
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
        self._creator = Creator(paths, self._cgroups, exit_watch, ahead, runtime_seconds)
        self._releaser = Releaser(paths, exit_watch)
        self._remover = Remover(self._cgroups, exit_watch)
        self._waker = Waker(cgroups.ROOT)
        self._making = 0
        self._wanted = runtime
        self._containers: dict[str, str] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def runtime(self) -> Runtime:
        """The one that was chosen."""
        return self._creator.runtime

    async def start(self) -> dict[str, str]:
        """Choose a runtime and look after what an earlier process of ours left; facts for people.

        Raises Unavailable where no runtime works on this host.
        """
        self._cgroups.start()
        chosen = await probe.choose(self._paths, self._wanted, self._try)
        self._creator.runtime = chosen.runtime
        await self._adopt()
        return {
            "runtime": chosen.version,
            "cgroups": self._cgroups.layout,
            "seccomp": "compiled once" if self.runtime.filter(capabilities.DEFAULT).bpf else "compiled at each start",
        }

    async def close(self) -> None:
        """Containers run on."""
        await self._waker.close()
        await asyncio.gather(*self._closing)
        self._creator.close()

    async def _try(self, runtime: Runtime, container: ContainerSpec, incarnation: str) -> Observation | StartFailure:
        """Run *container* once with *runtime*, for the probe."""
        self._creator.runtime = runtime
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
            failure = await self._creator.create(container, place, networks)
        except BaseException as error:
            await self.remove(container.id, incarnation)
            if isinstance(error, OSError):
                raise failed("prepare", f"the host refused: {error}.", incarnation) from error
            raise
        finally:
            self._making -= 1
        if failure is not None:
            await self.remove(container.id, incarnation)
        return failure

    async def release(self, container: str, incarnation: str) -> StartFailure | None:
        return await self._releaser.release(container, incarnation)

    async def remove(self, container: str, incarnation: str) -> None:
        self._ahead.forget(incarnation)
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._remover.remove(Incarnation(self._paths, incarnation))
            if self._creator.has_disks(incarnation):
                closing = asyncio.create_task(self._creator.release_disks(incarnation))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
        except TimeoutError:
            raise failed(
                "remove",
                f"processes of container {container} do not die, though killed; see what they wait for in the kernel.",
                incarnation,
            ) from None
        except OSError as error:
            raise failed("remove", f"the host refused: {error}.", incarnation) from error

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
        raise failed("pause", reason, incarnation)

    async def resume(self, container: str, incarnation: str) -> None:
        del container
        self._cgroups.freeze(incarnation, frozen=False)

    async def update(self, container: str, incarnation: str, resources: Resources) -> None:
        try:
            await asyncio.to_thread(self._cgroups.limit, incarnation, resources)
        except OSError as error:
            raise failed("update", f"the kernel refused the limits of {container}: {error}.", incarnation) from error

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
        if end is None and process.is_alive(record.shim):
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
        self._require_live()
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

    def _require_live(self) -> None:
        """Nothing that is asked of processes is true without the tmpfs on which they are written down."""
        if not self._paths.incarnations.exists():
            raise SubstrateFailed(
                f"The tmpfs at {self._paths.live} has been unmounted, and what is known of processes went with it; "
                "start the server again: it ends them, and goes on as after a reboot.",
                step="present",
            )

    async def leftovers(self) -> list[str]:
        """A line for each incarnation, process and group of this instance."""
        holders = await asyncio.to_thread(lambda: [*process.find(*shim.arguments(str(self._paths.exits)))])
        return [
            *(f"process {holder.pid} (shim)" for holder in holders),
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
