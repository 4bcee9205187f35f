"""Containers: what is committed, what is observed, requests and answers."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from portlayer.model.base import Value
from portlayer.model.interaction import InteractionSpec
from portlayer.model.network import Endpoint, EndpointSpec
from portlayer.model.storage import MountSpec

DEFAULT_STOP_TIMEOUT = 10.0


class Capabilities(Value, omit_defaults=False):
    """Difference to the default set of capabilities; names with or without `CAP_`, or `ALL`."""

    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class ProcessRequest(Value):
    """What to run, as asked. `args` replaces the image's cmd, `entrypoint` its entrypoint (and drops its cmd)."""

    args: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    cwd: str | None = None
    user: str | None = None
    terminal: bool = False
    capabilities: Capabilities = Capabilities()
    init: bool = False


class Process(Value, omit_defaults=False):
    """What to run, resolved against the image. `user` is `name|uid[:group|gid]`, resolved in the root
    filesystem when it is prepared."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    user: str = ""
    terminal: bool = False
    capabilities: Capabilities = Capabilities()
    init: bool = False


class Resources(Value):
    """Limits; what is None is not limited. cpus: cores (0.01 and more). memory_bytes: hard limit, swap included.
    pids: number of processes."""

    cpus: float | None = None
    memory_bytes: int | None = None
    pids: int | None = None


class RestartPolicy(Value, omit_defaults=False):
    """When a container that exited by itself is started again; only `on-failure` counts.

    `always` and `unless-stopped` are the same: what a caller stopped stays stopped, also when we start again.
    """

    name: Literal["no", "always", "unless-stopped", "on-failure"] = "no"
    maximum_retry_count: int = 0


class Placement(Value):
    """Which host a new container shall go to. spread: the one with the fewest containers; pack: the fullest that has
    room. labels: what the host must have. Who asks for a placement is promised room for the container's limits."""

    strategy: Literal["spread", "pack"] = "spread"
    labels: dict[str, str] = {}


class ContainerImage(Value):
    """The image that a container was made of; layers are diffIDs from the lowest up."""

    id: str
    name: str
    layers: tuple[str, ...]


class ContainerSpec(Value):
    """What was committed of a container. Endpoints are keyed by network id, mounts by destination.

    host: the machine that it is on. placed: that was chosen for it. placement: as it was asked for.
    """

    id: str
    vch: str
    name: str
    image: ContainerImage
    process: Process
    hostname: str
    created_at: str
    substrate: str
    host: str
    remove_on_exit: bool = False
    resources: Resources = Resources()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    restart_policy: RestartPolicy = RestartPolicy()
    stop_signal: str = "SIGTERM"
    stop_timeout_seconds: float = DEFAULT_STOP_TIMEOUT
    read_only_rootfs: bool = False
    endpoints: dict[str, EndpointSpec] = {}
    mounts: dict[str, MountSpec] = {}
    interaction: InteractionSpec | None = None
    placed: bool = False
    placement: Placement | None = None

    @property
    def stdin(self) -> bool:
        """Whether its next task gets a stdin."""
        return bool(self.interaction and self.interaction.bound and self.interaction.stdin)

    @property
    def terminal(self) -> bool:
        """Whether its next task gets a terminal."""
        joined = self.interaction
        return self.process.terminal or bool(joined and joined.bound and joined.terminal)


class Observed(Value):
    """What is known of a container's process; an exit never touches the committed record.

    incarnation: id of the present or last start. prepared: id of a process made ahead of its start, if any.
    stdin, terminal: what its present or last task has; the spec may say otherwise of the next one.
    Times are RFC 3339. stop_requested: its present or last end was asked for (restart policies look at it).
    """

    state: Literal["created", "running", "paused", "stopped"] = "created"
    incarnation: str = ""
    prepared: str = ""
    exit_code: int | None = None
    start_error: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    oom_killed: bool = False
    restarts: int = 0
    stop_requested: bool = False
    stdin: bool = False
    terminal: bool = False


class ContainerRecord(Value):
    """A container in the store. touched: at which revision each facet was changed last (see changes), but for some that
    were at revision `forgotten` or before."""

    spec: ContainerSpec
    revision: int
    touched: dict[str, int]
    forgotten: int = 0


class Task(Value):
    """A process of a container; the first is called `main`."""

    id: str
    state: str
    args: tuple[str, ...]
    terminal: bool
    exit_code: int | None = None


class Mount(Value):
    volume: str
    volume_id: str
    destination: str
    read_only: bool
    subpath: str


class Container(Value):
    """A container as the API shows it: committed and observed together. state: `unknown` for one that ran when its host
    was last heard of, while that is away."""

    id: str
    name: str
    image: str
    image_id: str
    state: str
    labels: dict[str, str]
    annotations: dict[str, str]
    process: Process
    resources: Resources
    restart_policy: RestartPolicy
    stop_signal: str
    stop_timeout_seconds: float
    read_only_rootfs: bool
    remove_on_exit: bool
    hostname: str
    endpoints: tuple[Endpoint, ...]
    mounts: tuple[Mount, ...]
    interaction: InteractionSpec | None
    tasks: tuple[Task, ...]
    substrate: str
    host: str
    revision: int
    created_at: str
    restarts: int
    exit_code: int | None = None
    start_error: str | None = None
    oom_killed: bool = False
    started_at: str | None = None
    finished_at: str | None = None
    placement: Placement | None = None


class Create(Value):
    """host: by name; or placement; or neither: any host, spread."""

    image: str
    name: str | None = None
    process: ProcessRequest = ProcessRequest()
    remove_on_exit: bool = False
    hostname: str | None = None
    resources: Resources = Resources()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    restart_policy: RestartPolicy = RestartPolicy()
    stop_signal: str | None = None
    stop_timeout_seconds: float = DEFAULT_STOP_TIMEOUT
    read_only_rootfs: bool = False
    substrate: str | None = None
    host: str | None = None
    placement: Placement | None = None


class Created(Value):
    handle: str
    id: str


class SetState(Value):
    handle: str
    state: Literal["running", "stopped", "paused"]
    timeout_seconds: float | None = None


class SetLabels(Value):
    handle: str
    labels: dict[str, str | None]


class SetResources(Value):
    handle: str
    resources: Resources


class SetRestartPolicy(Value):
    handle: str
    restart_policy: RestartPolicy


class Rename(Value):
    handle: str
    name: str


class Inspect(Value):
    handle: str


class Inspected(Value):
    """What a commit of the handle would do. `base` is the revision that the handle was taken at (0: none)."""

    handle: str
    base: int
    current: Container | None
    proposed: Container
    changes: tuple[dict[str, Any], ...]


class Commit(Value):
    """Exactly one of `handle` and `handles`. strict: refuse if anything was committed since.

    fingerprint: with an Idempotency-Key, what tells this request from others, where the handle does not.
    """

    handle: str | None = None
    handles: tuple[str, ...] = ()
    strict: bool = False
    fingerprint: str | None = None


class Committed(Value):
    """The result of a commit of one container."""

    id: str
    revision: int
    state: str
    endpoints: tuple[Endpoint, ...]
    tasks: tuple[Task, ...]
    exit_code: int | None = None
    start_error: str | None = None


class CommittedMany(Value):
    containers: tuple[Committed, ...]


class Recall(Value):
    """fingerprint: as the commit had it; None: whatever the key was used for."""

    fingerprint: str | None = None


class Recalled(Value):
    """committed: of each container of the commit, in order; None where none has succeeded under the key so far."""

    committed: tuple[Committed, ...] | None


class Discard(Value):
    handle: str


class ListContainers(Value):
    state: Literal["created", "running", "paused", "stopped", "unknown"] | None = None
    name: str | None = None
    label: tuple[str, ...] = ()
    limit: int = 100
    after: str | None = None


class Containers(Value):
    containers: tuple[Container, ...]
    next: str | None


class ContainerRef(Value):
    ref: str


class ContainerHandle(Value):
    handle: str
    id: str
    revision: int


class DeleteContainer(Value):
    ref: str
    force: bool = False
    volumes: bool = False


class Signal(Value):
    ref: str
    signal: str
    task_id: str | None = None


class Wait(Value):
    ref: str
    condition: Literal["exited", "running", "healthy", "removed"] = "exited"
    timeout_seconds: float | None = None


class Waited(Value):
    exit_code: int | None
    state: str


V = TypeVar("V", bound=Value)


def replace(value: V, **fields: Any) -> V:
    """*value* with *fields* changed; the original stays as it is."""
    return msgspec.structs.replace(value, **fields)
