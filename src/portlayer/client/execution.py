"""Execution: containers, their state, and commit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Unpack, cast, runtime_checkable

import msgspec

from portlayer.client.component import PAGE, Component, pages
from portlayer.client.handles import ContainerHandle, Ref, container_ref
from portlayer.client.options import CreateOptions, Restart
from portlayer.client.steps import Steps
from portlayer.model import execution as m
from portlayer.model.base import Value
from portlayer.model.caller import Caller
from portlayer.model.errors import InvalidArgument
from portlayer.model.names import new_id

State = Literal["created", "running", "paused", "stopped", "unknown"]


class Composed(Protocol):
    """The answers of a compose, as JSON has them, and the last handle unless it was committed."""

    @property
    def answers(self) -> tuple[dict[str, Any] | None, ...]: ...

    @property
    def handle(self) -> str | None: ...


@runtime_checkable
class Composing(Protocol):
    """What an execution behind REST offers beside its Protocol: several mutations in one round trip."""

    async def compose(self, caller: Caller, steps: Sequence[Mapping[str, Any]]) -> Composed: ...


class Execution(Component):
    """Handles in and out: what a call gives is the next handle, and `commit` makes it so."""

    async def create(self, image: str, *args: str, **options: Unpack[CreateOptions]) -> ContainerHandle:
        """A handle to a container that does not exist before its commit. *args* replace the image's command."""
        return await self._stage(Steps().create(image, *args, **options))

    async def get_container(self, ref: Ref) -> ContainerHandle:
        """A handle to a committed container, by name or id. Raises NotFound."""
        answer = await self._components.execution.handle(self._caller, m.ContainerRef(ref=container_ref(ref)))
        return ContainerHandle(answer.id, answer.handle)

    async def set_state(
        self,
        container: ContainerHandle,
        state: Literal["running", "stopped", "paused"],
        *,
        timeout_seconds: float | None = None,
    ) -> ContainerHandle:
        """Stage a state. timeout_seconds: how long a stop waits before it kills; None: as the container says."""
        return await self._stage(Steps(container).set_state(state, timeout_seconds=timeout_seconds))

    async def set_labels(self, container: ContainerHandle, labels: Mapping[str, str | None]) -> ContainerHandle:
        """Stage labels, merged key by key; None deletes one."""
        return await self._stage(Steps(container).set_labels(labels))

    async def set_resources(
        self,
        container: ContainerHandle,
        *,
        cpus: float | None = None,
        memory_bytes: int | None = None,
        pids: int | None = None,
    ) -> ContainerHandle:
        """Stage limits, which replace all present ones; None is no limit."""
        return await self._stage(Steps(container).set_resources(cpus=cpus, memory_bytes=memory_bytes, pids=pids))

    async def set_restart_policy(self, container: ContainerHandle, policy: Restart) -> ContainerHandle:
        """Stage a restart policy, by its name or whole."""
        return await self._stage(Steps(container).set_restart_policy(policy))

    async def rename(self, container: ContainerHandle, name: str) -> ContainerHandle:
        """Stage a name."""
        return await self._stage(Steps(container).rename(name))

    async def inspect(self, container: ContainerHandle) -> m.Inspected:
        """What a commit of the handle would do."""
        return await self._components.execution.inspect(self._caller, m.Inspect(handle=container.sealed))

    async def compose(self, steps: Steps) -> ContainerHandle:
        """All of *steps* in one round trip, where the port layer is behind REST; the last handle."""
        return await self._run(steps)

    async def commit(
        self, container: ContainerHandle | Steps, *, strict: bool = False, idempotency_key: str | None = None
    ) -> m.Committed:
        """Make so what the handle carries, as one change. Steps are composed and committed in one round trip.

        It may be repeated where its answer was lost, and happens once: by its handle, or, for steps, under the same
        idempotency_key. Without one, each call has a key of its own, and repeats itself where the connection is lost.

        strict: refuse where anything was committed to the container since the handle was taken.
        Raises Conflict (its `collisions` name what another commit changed), SubstrateFailed (undone), NotFound.
        """
        if isinstance(container, Steps) and container.handle and not container.requests:
            container = container.handle
        if isinstance(container, Steps):
            return await self._commit_steps(container, strict, idempotency_key)
        request = m.Commit(handle=container.sealed, strict=strict)
        caller = self._creating(idempotency_key)
        return cast("m.Committed", await self._components.execution.commit(caller, request))

    async def recall(self, idempotency_key: str) -> tuple[m.Committed, ...] | None:
        """What was committed under a key, of each container; None where nothing has been so far."""
        caller = self._creating(idempotency_key)
        return (await self._components.execution.recall(caller, m.Recall())).committed

    async def commit_all(
        self, containers: Sequence[ContainerHandle], *, strict: bool = False
    ) -> tuple[m.Committed, ...]:
        """Several containers as one change: all, or none."""
        request = m.Commit(handles=tuple(each.sealed for each in containers), strict=strict)
        committed = await self._components.execution.commit(self._caller, request)
        return cast("m.CommittedMany", committed).containers

    async def discard(self, container: ContainerHandle) -> None:
        """Give back the addresses that the handle holds; they would expire by themselves, only later."""
        await self._components.execution.discard(self._caller, m.Discard(handle=container.sealed))

    async def list(
        self, *, state: State | None = None, name: str | None = None, labels: Sequence[str] = ()
    ) -> tuple[m.Container, ...]:
        """All containers, by id. labels: filters `key` or `key=value`, all of which must hold."""

        async def ask(after: str | None) -> m.Containers:
            request = m.ListContainers(state=state, name=name, label=tuple(labels), limit=PAGE, after=after)
            return await self._components.execution.list_containers(self._caller, request)

        return tuple([container async for page in pages(ask) for container in page.containers])

    async def inspect_container(self, ref: Ref) -> m.Container:
        """What is committed and observed of a container. Raises NotFound."""
        return await self._components.execution.get_container(self._caller, m.ContainerRef(ref=container_ref(ref)))

    async def remove(self, ref: Ref, *, force: bool = False, volumes: bool = False) -> None:
        """Remove a container. force: even one that runs. volumes: its anonymous volumes too."""
        request = m.DeleteContainer(ref=container_ref(ref), force=force, volumes=volumes)
        await self._components.execution.delete_container(self._caller, request)

    async def signal(self, ref: Ref, signal: str = "SIGTERM") -> None:
        """Send a signal to the main task. Raises InvalidState where it does not run."""
        await self._components.execution.signal(self._caller, m.Signal(ref=container_ref(ref), signal=signal))

    async def wait(
        self,
        ref: Ref,
        condition: Literal["exited", "running", "removed"] = "exited",
        *,
        timeout_seconds: float | None = None,
    ) -> m.Waited:
        """Wait until the container is so; its exit code, where it has one. Raises DeadlineExceeded."""
        request = m.Wait(ref=container_ref(ref), condition=condition, timeout_seconds=timeout_seconds)
        return await self._components.execution.wait(self._caller, request)

    async def _commit_steps(self, steps: Steps, strict: bool, key: str | None) -> m.Committed:
        _check(steps)
        execution = self._components.execution
        if isinstance(execution, Composing):
            commit = {"call": "execution/commit", **({"strict": True} if strict else {})}
            composed = await execution.compose(self._creating(key or new_id()), [*_calls(steps), commit])
            return msgspec.convert(composed.answers[-1], m.Committed)
        caller, fingerprint = self._creating(key), None if key is None else _fingerprint(steps)
        if key is not None:
            first = await execution.recall(caller, m.Recall(fingerprint=fingerprint))
            if first.committed is not None:
                return first.committed[0]
        handle = await self._run(steps, caller)
        request = m.Commit(handle=handle.sealed, strict=strict, fingerprint=fingerprint)
        return cast("m.Committed", await execution.commit(caller, request))

    async def _run(self, steps: Steps, caller: Caller | None = None) -> ContainerHandle:
        _check(steps)
        execution = self._components.execution
        if isinstance(execution, Composing):
            composed = await execution.compose(self._caller, _calls(steps))
            first = composed.answers[0] or {}
            return ContainerHandle(steps.handle.id if steps.handle else first["id"], composed.handle or "")
        handle = steps.handle
        for call, request in steps.requests:
            answer = await self._invoke(call, request, handle, caller)
            handle = ContainerHandle(handle.id if handle else answer.id, answer.handle)
        return cast("ContainerHandle", handle)


def _check(steps: Steps) -> None:
    if steps.handle is None and (not steps.requests or not isinstance(steps.requests[0][1], m.Create)):
        raise InvalidArgument("Steps begin with a handle, or with create.", pointer="/steps/0")


def _calls(steps: Steps) -> list[dict[str, Any]]:
    calls = [{**_fields(request), "call": call} for call, request in steps.requests]
    if steps.handle is not None and calls:
        calls[0]["handle"] = steps.handle.sealed
    return calls


def _fingerprint(steps: Steps) -> str:
    return hashlib.sha256(msgspec.json.encode(_calls(steps), order="deterministic")).hexdigest()


def _fields(request: Value) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(request)
    fields.pop("handle", None)
    return fields
