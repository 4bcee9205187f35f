"""Several mutations to be made in one round trip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Unpack

from portlayer.client.handles import ContainerHandle, NetworkHandle
from portlayer.client.options import CreateOptions, JoinOptions, Restart, create_request, join_request, restart_policy
from portlayer.model import execution as e
from portlayer.model import interaction as i
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.base import Value


@dataclass(frozen=True, slots=True)
class Steps:
    """A chain of mutations: `Steps().create("busybox", "true").join_network("lan").bind_network()`.

    Begins with a handle, or with `create`. Nothing is asked of the port layer before `execution.compose(steps)` or
    `execution.commit(steps)`. A value like handles are: each step gives another chain, and the old one stays good.
    """

    handle: ContainerHandle | None = None
    requests: tuple[tuple[str, Value], ...] = ()

    def _and(self, call: str, request: Value) -> Steps:
        return Steps(self.handle, (*self.requests, (call, request)))

    def create(self, image: str, *args: str, **options: Unpack[CreateOptions]) -> Steps:
        return self._and("execution/create", create_request(image, args, options))

    def set_state(
        self, state: Literal["running", "stopped", "paused"], *, timeout_seconds: float | None = None
    ) -> Steps:
        return self._and("execution/set-state", e.SetState(handle="", state=state, timeout_seconds=timeout_seconds))

    def set_labels(self, labels: Mapping[str, str | None]) -> Steps:
        return self._and("execution/set-labels", e.SetLabels(handle="", labels=dict(labels)))

    def set_resources(
        self, *, cpus: float | None = None, memory_bytes: int | None = None, pids: int | None = None
    ) -> Steps:
        resources = e.Resources(cpus=cpus, memory_bytes=memory_bytes, pids=pids)
        return self._and("execution/set-resources", e.SetResources(handle="", resources=resources))

    def set_restart_policy(self, policy: Restart) -> Steps:
        request = e.SetRestartPolicy(handle="", restart_policy=restart_policy(policy))
        return self._and("execution/set-restart-policy", request)

    def rename(self, name: str) -> Steps:
        return self._and("execution/rename", e.Rename(handle="", name=name))

    def join_volume(
        self, volume: str, destination: str, *, read_only: bool = False, subpath: str | None = None
    ) -> Steps:
        request = s.JoinVolume(handle="", volume=volume, destination=destination, read_only=read_only, subpath=subpath)
        return self._and("storage/join", request)

    def leave_volume(self, *, volume: str | None = None, destination: str | None = None) -> Steps:
        return self._and("storage/leave", s.LeaveVolume(handle="", volume=volume, destination=destination))

    def join_network(self, network: str | NetworkHandle, **options: Unpack[JoinOptions]) -> Steps:
        return self._and("network/join", join_request(network_ref(network), options))

    def bind_network(self, network: str | None = None) -> Steps:
        return self._and("network/bind", n.BindNetwork(handle="", network=network))

    def unbind_network(self, network: str | None = None) -> Steps:
        return self._and("network/unbind", n.BindNetwork(handle="", network=network))

    def leave_network(self, network: str) -> Steps:
        return self._and("network/leave", n.LeaveNetwork(handle="", network=network))

    def join_interaction(
        self, *, stdin: bool = False, stdout: bool = True, stderr: bool = True, terminal: bool = False
    ) -> Steps:
        request = i.JoinInteraction(handle="", stdin=stdin, stdout=stdout, stderr=stderr, terminal=terminal)
        return self._and("interaction/join", request)

    def bind_interaction(self) -> Steps:
        return self._and("interaction/bind", i.BindInteraction(handle=""))

    def unbind_interaction(self) -> Steps:
        return self._and("interaction/unbind", i.BindInteraction(handle=""))


def network_ref(network: str | NetworkHandle) -> str:
    """What a join names a network by."""
    return network if isinstance(network, str) else network.sealed
