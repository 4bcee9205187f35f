"""What is asked for by keyword, and the requests that it becomes. Units are in the names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model.base import Value

Environment = Mapping[str, str] | Iterable[str]
RestartName = Literal["no", "always", "unless-stopped", "on-failure"]
Restart = RestartName | e.RestartPolicy


class CreateOptions(TypedDict, total=False):
    """How a container differs from what its image says.

    env: a mapping, or strings `NAME=value`. user: `name|uid[:group|gid]`. cap_add, cap_drop: as `NET_ADMIN` or `ALL`.
    cpus: cores. pids: how many processes. init: a small init reaps and forwards signals. remove_on_exit: the
    container removes itself when it stops. host: which one it shall be on, or placement: what for a host; neither: any.
    """

    name: str
    entrypoint: Sequence[str]
    env: Environment
    cwd: str
    user: str
    terminal: bool
    init: bool
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    cpus: float
    memory_bytes: int
    pids: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    hostname: str
    restart_policy: Restart
    stop_signal: str
    stop_timeout_seconds: float
    read_only_rootfs: bool
    remove_on_exit: bool
    substrate: str
    host: str
    placement: e.Placement


class JoinOptions(TypedDict, total=False):
    """How a container joins a network. address, address6: those that it must get; without, bind chooses."""

    aliases: Sequence[str]
    address: str
    address6: str
    mac_address: str
    ports: Sequence[n.Port]


def create_request(image: str, args: tuple[str, ...], options: CreateOptions) -> e.Create:
    """*args* replace the image's command, unless there are none. Raises TypeError for an option that is none."""
    rest: dict[str, Any] = dict(options)
    rest["env"] = environment(rest.get("env", ()))
    rest["capabilities"] = e.Capabilities(add=tuple(rest.pop("cap_add", ())), drop=tuple(rest.pop("cap_drop", ())))
    if "entrypoint" in rest:
        rest["entrypoint"] = tuple(rest["entrypoint"])
    if "restart_policy" in rest:
        rest["restart_policy"] = restart_policy(rest["restart_policy"])
    for name in rest.keys() & {"labels", "annotations"}:
        rest[name] = dict(rest[name])
    process = e.ProcessRequest(args=args or None, **_taken(rest, e.ProcessRequest))
    return e.Create(image=image, process=process, resources=e.Resources(**_taken(rest, e.Resources)), **rest)


def join_request(network: str, options: JoinOptions) -> n.JoinNetwork:
    """A request without its handle."""
    rest: dict[str, Any] = dict(options)
    for name in rest.keys() & {"aliases", "ports"}:
        rest[name] = tuple(rest[name])
    return n.JoinNetwork(handle="", network=network, **rest)


def environment(env: Environment) -> tuple[str, ...]:
    """`NAME=value` strings."""
    return tuple(f"{name}={value}" for name, value in env.items()) if isinstance(env, Mapping) else tuple(env)


def restart_policy(policy: Restart) -> e.RestartPolicy:
    """The policy that a name stands for."""
    return policy if isinstance(policy, e.RestartPolicy) else e.RestartPolicy(name=policy)


def _taken(options: dict[str, Any], kind: type[Value]) -> dict[str, Any]:
    """The options that are fields of *kind*, taken out."""
    return {name: options.pop(name) for name in kind.__struct_fields__ if name in options}
