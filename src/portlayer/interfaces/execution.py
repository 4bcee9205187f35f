"""Execution: containers, their state, and commit. Every call may raise the taxonomy's errors."""

from __future__ import annotations

from typing import Protocol

from portlayer.model import execution as m
from portlayer.model.caller import Caller
from portlayer.model.storage import HandleAnswer


class Execution(Protocol):
    async def create(self, caller: Caller, request: m.Create) -> m.Created:
        """A handle to a container that does not exist before its commit."""

    async def set_state(self, caller: Caller, request: m.SetState) -> HandleAnswer:
        """Stage running, stopped or paused; never binds anything by itself."""

    async def set_labels(self, caller: Caller, request: m.SetLabels) -> HandleAnswer:
        """Stage labels, merged key by key; None deletes one."""

    async def set_resources(self, caller: Caller, request: m.SetResources) -> HandleAnswer:
        """Stage limits; they replace all of the present ones."""

    async def set_restart_policy(self, caller: Caller, request: m.SetRestartPolicy) -> HandleAnswer:
        """Stage a restart policy."""

    async def rename(self, caller: Caller, request: m.Rename) -> HandleAnswer:
        """Stage a name."""

    async def inspect(self, caller: Caller, request: m.Inspect) -> m.Inspected:
        """What commit would do."""

    async def commit(self, caller: Caller, request: m.Commit) -> m.Committed | m.CommittedMany:
        """All that the handle carries, as one change. CommittedMany answers `handles`.

        Under an idempotency key, whatever else is committed under it afterwards gets the same answer, once it has
        succeeded; with another fingerprint it is refused (InvalidArgument).

        Raises Conflict (with collisions), SubstrateFailed (undone), NotFound (removed since), HandleInvalid.
        """

    async def recall(self, caller: Caller, request: m.Recall) -> m.Recalled:
        """What was committed under the caller's idempotency key. Raises InvalidArgument where it has none, or where it
        was used with another fingerprint."""

    async def discard(self, caller: Caller, request: m.Discard) -> None:
        """Give the handle's leases back."""

    async def list_containers(self, caller: Caller, request: m.ListContainers) -> m.Containers:
        """By id."""

    async def get_container(self, caller: Caller, request: m.ContainerRef) -> m.Container:
        """By name or id."""

    async def handle(self, caller: Caller, request: m.ContainerRef) -> m.ContainerHandle:
        """A handle to a committed container."""

    async def delete_container(self, caller: Caller, request: m.DeleteContainer) -> None:
        """Remove; nothing of it is on the host when this returns. Raises InvalidState while running without force."""

    async def signal(self, caller: Caller, request: m.Signal) -> None:
        """Send a signal to a task. Raises InvalidState where it does not run."""

    async def wait(self, caller: Caller, request: m.Wait) -> m.Waited:
        """`exited`: the end of what runs now, also where that is started again at once, or removed; of what does not
        run yet, the first end that comes. Raises DeadlineExceeded past timeout_seconds."""
