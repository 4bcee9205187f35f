"""Execution in memory: processes are coroutines of the World."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping

from portlayer.interfaces.substrate import Observation, Presence, StartFailure
from portlayer.model.errors import SubstrateFailed
from portlayer.model.execution import ContainerSpec, Resources
from portlayer.model.network import NetworkSpec
from portlayer.substrates.memory import shell  # noqa: F401 - enters the shell in the table of programs
from portlayer.substrates.memory.driver import Driver, step
from portlayer.substrates.memory.process import Incarnation, Plan, Process, Program
from portlayer.substrates.memory.programs import CannotRun, find_program
from portlayer.substrates.memory.view import (
    container_view,
    environment,
    find_user,
    make_folders,
    write_network_files,
)

_ABSENT = Observation(state="absent")


class MemoryExecution(Driver):
    """Processes of a World."""

    room = "execution"

    def expect(self) -> None:
        """Nothing here is slow the first time."""

    @step
    async def prepare(
        self, container: ContainerSpec, incarnation: str, networks: Mapping[str, NetworkSpec]
    ) -> StartFailure | None:
        del networks  # endpoints say all that is needed
        known = self.find(container.id, incarnation)
        if known is not None and not known.died_prepared:
            return None
        rootfs = self.world.rootfs.get(container.id)
        if rootfs is None or not rootfs.mounted:
            raise SubstrateFailed(
                f"Container {container.id} has no root filesystem; make it first.",
                step="execution.prepare",
                id=container.id,
            )
        view = container_view(self.world, container, rootfs.files)
        write_network_files(view, container)
        process = container.process
        make_folders(rootfs.files, process.cwd)
        user = find_user(view, process.user)
        env = environment(container, user)
        if not process.args[0]:
            return StartFailure(exit_code=127, reason="There is no program to run: its name is empty.")
        try:
            program = find_program(view, process.args[0], env, process.cwd)
        except CannotRun as error:
            return StartFailure(exit_code=error.exit_code, reason=f"{process.args[0]}: {error.reason}")
        plan = Plan(_under_init(program) if process.init else program, env, (user.uid, user.gid), self.world)
        self.world.incarnations[incarnation] = Incarnation(container, incarnation, rootfs.log, view, plan)
        return None

    @step
    async def release(self, container: str, incarnation: str) -> StartFailure | None:
        found = self.find(container, incarnation)
        if found is None or found.died_prepared:
            raise SubstrateFailed(
                f"Nothing is prepared for container {container}; start it again.",
                step="execution.release",
                id=container,
            )
        if found.state == "prepared":
            found.start()
        return None

    @step
    async def remove(self, container: str, incarnation: str) -> None:
        found = self.find(container, incarnation)
        if found is not None:
            found.end(128 + signals.SIGKILL)
            del self.world.incarnations[incarnation]

    @step
    async def signal(self, container: str, incarnation: str, signal: int) -> None:
        found = self.find(container, incarnation)
        if found is not None:
            found.signal(signal, outside=True)

    @step
    async def pause(self, container: str, incarnation: str) -> None:
        found = self.find(container, incarnation)
        if found is not None and found.live:
            found.freeze(frozen=True)

    @step
    async def resume(self, container: str, incarnation: str) -> None:
        found = self.find(container, incarnation)
        if found is not None:
            found.freeze(frozen=False)

    @step
    async def update(self, container: str, incarnation: str, resources: Resources) -> None:
        self.live(container, incarnation, "execution.update").resources = resources

    @step
    async def observe(self, container: str, incarnation: str) -> Observation:
        return _observe(self.find(container, incarnation))

    @step
    async def wait(self, container: str, incarnation: str) -> Observation:
        found = self.find(container, incarnation)
        while found is not None and found.live:
            await found.bell.wait()
        return _observe(found)

    @step
    async def present(self) -> list[Presence]:
        return [Presence(container=one.spec.id, incarnation=one.id) for one in self.world.incarnations.values()]


def _observe(found: Incarnation | None) -> Observation:
    if found is None or found.died_prepared:
        return _ABSENT
    return Observation(
        state="paused" if found.frozen else found.state,
        exit_code=found.exit_code,
        finished_at=found.finished_at,
        oom_killed=found.oom_killed,
    )


def _under_init(program: Program) -> Program:
    """*program* as the child of a pid 1 that passes signals on, as tini does."""

    async def init(process: Process) -> int:
        sinks = process.sinks.values()
        child = Process(process.machine, process.args, process.env, process.cwd, process.stdin, *sinks)
        process.forward_to = child
        child.run(program)
        while child.status is None:
            await process.machine.bell.wait()
        return child.status

    return init
