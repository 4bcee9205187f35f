"""Making the first process of an incarnation: an OCI runtime creates it under a shim, while its links are made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from portlayer.interfaces.substrate import StartFailure
from portlayer.model.errors import Unavailable
from portlayer.model.execution import ContainerSpec
from portlayer.model.network import NetworkSpec
from portlayer.substrates.linux import lookup, process, shim, users
from portlayer.substrates.linux.ahead import Ahead, Begun
from portlayer.substrates.linux.cgroups import Cgroups
from portlayer.substrates.linux.exits import Exits
from portlayer.substrates.linux.failures import failed
from portlayer.substrates.linux.incarnation import Incarnation, Record
from portlayer.substrates.linux.launch import Launched, Launcher
from portlayer.substrates.linux.paths import Paths
from portlayer.substrates.linux.runtime import Runtime
from portlayer.substrates.linux.spawn import Spawner


class Creator:
    """runtime_seconds: after that time the runtime is taken to hang."""

    def __init__(self, paths: Paths, cgroups: Cgroups, exit_watch: Exits, ahead: Ahead, runtime_seconds: float) -> None:
        self._paths = paths
        self._cgroups = cgroups
        self._exits = exit_watch
        self._ahead = ahead
        self._spawner = Spawner()
        self._launcher = Launcher(paths, cgroups)
        self._runtime_seconds = runtime_seconds
        self._chosen: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The one that was chosen."""
        if self._chosen is None:
            raise Unavailable("The Linux substrate has not been started.")
        return self._chosen

    @runtime.setter
    def runtime(self, chosen: Runtime) -> None:
        self._chosen = chosen

    def close(self) -> None:
        """What was created runs on."""
        self._spawner.close()
        self._launcher.close()
        if self._chosen is not None:
            self._chosen.close()

    async def release_disks(self, incarnation: str) -> None:
        """Let go of the disks of an incarnation that has ended, which may take as long as writing does."""
        await asyncio.to_thread(self._launcher.release_disks, incarnation)

    def has_disks(self, incarnation: str) -> bool:
        """Whether `release_disks` has anything to do."""
        return self._launcher.has_disks(incarnation)

    async def create(
        self, container: ContainerSpec, place: Incarnation, networks: Mapping[str, NetworkSpec]
    ) -> StartFailure | None:
        """A process that waits for its release, with its links; or why the program cannot be executed.

        What an error leaves is the caller's to remove.
        """
        wanted = [
            (endpoint, networks[endpoint.network])
            for endpoint in container.endpoints.values()
            if endpoint.bound and endpoint.network in networks
        ]
        if not wanted:
            return await self._launch(container, place, None)
        begun = await self._ahead.begin(place.id, wanted)
        made = False
        try:
            failure = await self._launch(container, place, begun)
            made = failure is None
            return failure
        finally:
            await self._ahead.settle(begun, made=made)

    async def _launch(self, container: ContainerSpec, place: Incarnation, begun: Begun | None) -> StartFailure | None:
        path = "" if begun is None else begun.path
        launching = self._spawner.run(self._launcher.launch, container, place.id, self.runtime, path)
        starting = asyncio.ensure_future(launching)
        try:
            launched = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A thread cannot be stopped: only what it has started can be undone.
            await asyncio.wait((starting,))
            if starting.exception() is None:
                await asyncio.to_thread(starting.result().abandon)
                starting.result().close()
            raise
        if begun is not None:
            self._ahead.plug(begun)
        record: Record | StartFailure | None = None
        try:
            record = await self._record(container, place, launched)
        finally:
            if not isinstance(record, Record):
                await asyncio.to_thread(launched.abandon)
            launched.close()
            if any(mount.subpath or mount.capacity_bytes is not None for mount in container.mounts.values()):
                await self._spawner.run(self._launcher.release_mounts, place.id)
        if isinstance(record, StartFailure):
            return record
        place.save(record)
        self._exits.watch(place, record)
        return None

    async def _record(self, container: ContainerSpec, place: Incarnation, launched: Launched) -> Record | StartFailure:
        """Wait for the runtime, and write down what it made."""
        try:
            async with asyncio.timeout(self._runtime_seconds):
                report = await shim.report(launched.report)
        except TimeoutError:
            waited = f"{self.runtime.path} did not create the process within {self._runtime_seconds:g} s"
            raise failed("prepare", f"{waited}; see what it waits for, or remove the container.", place.id) from None
        if not report.pid:
            return self._refused(container, place.id, report.message)
        return self._checked(container, place, launched, report.pid)

    def _refused(self, container: ContainerSpec, incarnation: str, message: str) -> StartFailure:
        failure = self.runtime.refusal(message)
        if failure is None:
            reason = message.strip()[-2000:] or "it ended without a word"
            raise failed("prepare", f"{self.runtime.path} could not create the process: {reason}", incarnation)
        rootfs = str(self._paths.rootfs(container.id))
        user = users.resolve(rootfs, container.process.user)
        return lookup.explained(failure, container, user, rootfs)

    def _checked(
        self, container: ContainerSpec, place: Incarnation, launched: Launched, pid: int
    ) -> Record | StartFailure:
        """What the runtime says it made, as far as the kernel agrees."""
        init, holder = process.identify(pid), process.identify(launched.shim)
        waiting = process.executable(pid)
        ours = self._cgroups.path(place.id) in process.groups(pid)
        if init is None or holder is None or waiting is None or not ours:
            raise failed("prepare", f"{self.runtime.path} reported a process that is not the container's.", place.id)
        if container.process.init:
            user = users.resolve(str(self._paths.rootfs(container.id)), container.process.user)
            failure = lookup.check_program(container, user, f"/proc/{pid}/root")
            if failure is not None:
                return failure
        return Record(
            container=container.id,
            runtime=self.runtime.name,
            init=init,
            shim=holder,
            waiting=waiting,
            terminal=container.terminal,
            stdin=container.stdin,
            log_offset=launched.log_offset,
        )
