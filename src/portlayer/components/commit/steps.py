"""Doing and undoing the steps of a plan on the substrate."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from portlayer.components.commit.intents import Piece
from portlayer.components.layers import Layers
from portlayer.interfaces.substrate import StartFailure, Substrate
from portlayer.model import plan as p
from portlayer.model.errors import SubstrateFailed
from portlayer.model.execution import ContainerSpec
from portlayer.model.network import NetworkSpec

KILL_PATIENCE_SECONDS = 30.0
_OF_A_PROCESS = (p.Plug, p.Publish, p.Release, p.Update, p.RewriteFiles)


class Steps:
    """Runs the steps of one commit. failures collects programs that cannot be executed, by container.

    layers: brings those that a container needs. waiting: within it, time passes in which nothing is done.
    """

    def __init__(
        self,
        substrate: Substrate,
        pieces: tuple[Piece, ...],
        networks: Mapping[str, NetworkSpec],
        layers: Layers,
        waiting: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self._on = substrate
        self._pieces = {piece.container: piece for piece in pieces}
        self._networks = networks
        self._layers = layers
        self._waiting = waiting
        self.failures: dict[str, StartFailure] = {}

    async def do(self, step: p.AnyStep) -> None:
        """Run *step*; nothing where its container's program has turned out not to be executable."""
        piece = self._pieces[step.container]
        new = piece.new
        if step.container in self.failures and isinstance(step, _OF_A_PROCESS):
            return
        match step:
            case p.MakeNetwork(network=network):
                await self._on.network.make_network(self._networks[network])
            case p.MakeRootfs(held_by=held_by):
                await self._layers.bring(new, self._waiting)
                await self._on.storage.make_rootfs(new, held_by)
            case p.MakeVolume(volume=volume, capacity_bytes=capacity_bytes):
                await self._on.storage.make_volume(volume, capacity_bytes)
            case p.Prepare(incarnation=incarnation):
                self._note(new.id, await self._on.execution.prepare(new, incarnation, self._networks))
            case p.Plug(incarnation=incarnation, network=network):
                await self._plug(new, incarnation, network)
            case p.Unplug(incarnation=incarnation, network=network):
                endpoint = (piece.old or new).endpoints[network]
                await self._on.network.unplug(new.id, incarnation, endpoint.id)
            case p.Publish(network=network):
                await self._on.network.publish(new.id, new.endpoints[network])
            case p.Unpublish(endpoint=endpoint_id):
                await self._on.network.unpublish(new.id, endpoint_id)
            case p.RewriteFiles(incarnation=incarnation):
                await self._on.network.rewrite_files(new, incarnation, self._networks)
            case p.Update(incarnation=incarnation):
                await self._on.execution.update(new.id, incarnation, new.resources)
            case p.Pause(incarnation=incarnation):
                await self._on.execution.pause(new.id, incarnation)
            case p.Resume(incarnation=incarnation):
                await self._on.execution.resume(new.id, incarnation)
            case p.Stop():
                await self._stop(step)
            case p.Release(incarnation=incarnation):
                self._note(new.id, await self._on.execution.release(new.id, incarnation))
            case p.Retire(incarnation=incarnation):
                await self._on.execution.remove(new.id, incarnation)
            case p.RemoveRootfs():
                await self._on.storage.remove_rootfs(new.id)
            case p.RemoveVolume(volume=volume):
                await self._on.storage.remove_volume(volume)

    def asks_for_time(self, stops: Sequence[p.Stop]) -> AbstractAsyncContextManager[None]:
        """To be held while *stops* are done: processes may take their time to end."""
        return self._waiting() if any(stop.timeout_seconds > 0 for stop in stops) else nullcontext()

    async def undo(self, step: p.AnyStep) -> None:
        """Take *step* back; fine where it was never done."""
        piece = self._pieces[step.container]
        old = piece.old
        match step:
            case p.MakeRootfs(fresh=True):
                await self._on.storage.remove_rootfs(step.container)
            case p.Prepare(incarnation=incarnation):
                await self._on.execution.remove(step.container, incarnation)
            case p.Plug(incarnation=incarnation, network=network):
                endpoint = piece.new.endpoints[network]
                await self._on.network.unplug(step.container, incarnation, endpoint.id)
            case p.Unplug(incarnation=incarnation, network=network) if old is not None:
                await self._plug(old, incarnation, network)
                if piece.observed.state in ("running", "paused") and old.endpoints[network].publishes:
                    await self._on.network.publish(step.container, old.endpoints[network])
            case p.Publish(network=network):
                await self._on.network.unpublish(step.container, piece.new.endpoints[network].id)
            case p.RewriteFiles(incarnation=incarnation) if old is not None:
                await self._on.network.rewrite_files(old, incarnation, self._networks)
            case p.Update(incarnation=incarnation) if old is not None:
                await self._on.execution.update(step.container, incarnation, old.resources)
            case p.Pause(incarnation=incarnation):
                await self._on.execution.resume(step.container, incarnation)
            case p.Resume(incarnation=incarnation):
                await self._on.execution.pause(step.container, incarnation)
            case p.Stop(incarnation=incarnation) if piece.observed.state == "paused":
                await self._freeze_again(step.container, incarnation)
            case _:
                pass  # networks and volumes belong to their own records; a stop is judged by its evidence

    async def _freeze_again(self, container: str, incarnation: str) -> None:
        """A stop thaws first; where the process has not ended by it, it is paused as it was."""
        if (await self._on.execution.observe(container, incarnation)).state == "running":
            await self._on.execution.pause(container, incarnation)

    def _note(self, container: str, failure: StartFailure | None) -> None:
        if failure is not None:
            self.failures[container] = failure

    async def withdraw(self, container: str) -> None:
        """What does not run after all publishes nothing."""
        for endpoint in self._pieces[container].new.endpoints.values():
            if endpoint.publishes:
                await self._on.network.unpublish(container, endpoint.id)

    async def _plug(self, spec: ContainerSpec, incarnation: str, network: str) -> None:
        await self._on.network.plug(spec.id, incarnation, spec.endpoints[network], self._networks[network])

    async def _stop(self, step: p.Stop) -> None:
        """Ask, wait, kill. A frozen process cannot hear: it is thawed first."""
        driver = self._on.execution
        await driver.resume(step.container, step.incarnation)
        if step.timeout_seconds > 0:
            await driver.signal(step.container, step.incarnation, step.signal)
            try:
                async with asyncio.timeout(step.timeout_seconds):
                    await driver.wait(step.container, step.incarnation)
            except TimeoutError:
                pass
            else:
                return
        await driver.signal(step.container, step.incarnation, signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_PATIENCE_SECONDS):
                await driver.wait(step.container, step.incarnation)
        except TimeoutError:
            raise SubstrateFailed(
                "The process has not ended by SIGKILL; it may hang in the kernel.", step="Stop", id=step.container
            ) from None
