"""Planning: from what is committed and observed to what is wanted, as steps. Pure.

A plan has two halves. `before` runs before the record is changed: each of its steps has an undo, except Stop, which
comes last and is judged by its evidence. `after` runs once the record is changed and only rolls forward.

    before   MakeNetwork  MakeRootfs  MakeVolume  Prepare  Unplug  Plug  RewriteFiles  Update  Publish  Pause  Resume
             Stop
    after    Release  Unpublish  Retire  RemoveRootfs  RemoveVolume

An idle container keeps a process prepared, so that its start is only a Release, and a Publish of each endpoint that
publishes ports. That process is a cache: any change that it cannot follow makes another one and retires it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from portlayer.model.base import Value
from portlayer.model.changes import AnyChange, ChangeState, RemoveContainer
from portlayer.model.errors import InvalidState
from portlayer.model.execution import ContainerSpec, Observed, replace
from portlayer.model.signals import parse_signal


class Step(Value, tag_field="step"):
    """Base of the tagged union; every step is about one container."""

    container: str


class MakeNetwork(Step, tag="MakeNetwork"):
    network: str


class MakeRootfs(Step, tag="MakeRootfs"):
    """fresh: this commit creates the container, so that undoing removes what was written. held_by: an incarnation that
    has the filesystem already."""

    fresh: bool
    held_by: str = ""


class MakeVolume(Step, tag="MakeVolume"):
    volume: str
    capacity_bytes: int | None = None


class Prepare(Step, tag="Prepare"):
    incarnation: str


class Plug(Step, tag="Plug"):
    incarnation: str
    network: str


class Unplug(Step, tag="Unplug"):
    incarnation: str
    network: str


class Publish(Step, tag="Publish"):
    network: str


class Unpublish(Step, tag="Unpublish"):
    endpoint: str


class RewriteFiles(Step, tag="RewriteFiles"):
    incarnation: str


class Update(Step, tag="Update"):
    incarnation: str


class Pause(Step, tag="Pause"):
    incarnation: str


class Resume(Step, tag="Resume"):
    incarnation: str


class Stop(Step, tag="Stop"):
    """Send `signal`, wait `timeout_seconds`, then kill. timeout_seconds 0: kill at once."""

    incarnation: str
    signal: int
    timeout_seconds: float


class Release(Step, tag="Release"):
    incarnation: str


class Retire(Step, tag="Retire"):
    incarnation: str


class RemoveRootfs(Step, tag="RemoveRootfs"):
    pass


class RemoveVolume(Step, tag="RemoveVolume"):
    volume: str
    name: str


AnyStep = (
    MakeNetwork
    | MakeRootfs
    | MakeVolume
    | Prepare
    | Plug
    | Unplug
    | Publish
    | Unpublish
    | RewriteFiles
    | Update
    | Pause
    | Resume
    | Stop
    | Release
    | Retire
    | RemoveRootfs
    | RemoveVolume
)


class Plan(Value):
    """observed is what holds once `before` is done; None leaves it as it is (Stop: the evidence says)."""

    before: tuple[AnyStep, ...] = ()
    after: tuple[AnyStep, ...] = ()
    observed: Observed | None = None


def plan(
    old: ContainerSpec | None,
    new: ContainerSpec,
    observed: Observed,
    changes: tuple[AnyChange, ...],
    incarnation: str,
    now: str,
    *,
    held: bool,
) -> Plan:
    """The steps from *old* and *observed* to *new*.

    incarnation: a fresh id, for a process that has to be made. now: RFC 3339. held: whether observed.prepared
    really waits there.

    Raises:
        InvalidState: pausing what does not run, removing what runs, a volume for what runs.
    """
    removal = next((change for change in changes if isinstance(change, RemoveContainer)), None)
    if removal is not None:
        return _removal(new, observed, removal)
    wanted = [change for change in changes if isinstance(change, ChangeState)]
    target = wanted[-1] if wanted else None
    if observed.state in ("running", "paused"):
        return _live(old or new, new, observed, target)
    if target is not None and target.state == "paused":
        raise InvalidState(
            f"{new.name} is {observed.state}; only a running container can be paused.",
            kind="container",
            id=new.id,
            state=observed.state,
        )
    if target is not None and target.state == "stopped" and observed.state == "stopped":
        observed = replace(observed, stop_requested=True)  # its restart policy has no say any more
    if target is None or target.state != "running":
        return _idle(old, new, observed, incarnation, "", held=held)
    counted = replace(observed, restarts=observed.restarts + 1 if target.restart else 0)
    return _idle(old, new, counted, incarnation, now, held=held)


def expected(observed: Observed, changes: tuple[AnyChange, ...]) -> Observed:
    """What *changes* make of *observed*, as far as that can be known before: for previews."""
    wanted = [change.state for change in changes if isinstance(change, ChangeState)]
    if not wanted or (wanted[-1] == "stopped" and observed.state == "created"):
        return observed
    return replace(observed, state=wanted[-1])


def _removal(spec: ContainerSpec, observed: Observed, change: RemoveContainer) -> Plan:
    live = observed.state in ("running", "paused")
    if live and not change.force:
        raise InvalidState(
            f"{spec.name} is {observed.state}; stop it first, or remove it with force.",
            kind="container",
            id=spec.id,
            state=observed.state,
        )
    kill = Stop(container=spec.id, incarnation=observed.incarnation, signal=9, timeout_seconds=0)
    retired = [name for name in (observed.incarnation, observed.prepared) if name]
    return Plan(
        before=(kill,) if live else (),
        after=(
            *_withdraw(spec),
            *(Retire(container=spec.id, incarnation=name) for name in retired),
            RemoveRootfs(container=spec.id),
            *(RemoveVolume(container=spec.id, volume=volume, name=name) for volume, name in change.volumes.items()),
        ),
    )


def _publish(spec: ContainerSpec, networks: Iterable[str]) -> Iterator[AnyStep]:
    """Ports lead to a container while it runs, not to one that is only prepared."""
    for network in networks:
        if spec.endpoints[network].publishes:
            yield Publish(container=spec.id, network=network)


def _withdraw(spec: ContainerSpec) -> Iterator[AnyStep]:
    """What is published outlives its process."""
    for endpoint in spec.endpoints.values():
        if endpoint.publishes:
            yield Unpublish(container=spec.id, endpoint=endpoint.id)


def _live(old: ContainerSpec, new: ContainerSpec, observed: Observed, target: ChangeState | None) -> Plan:
    if old.mounts != new.mounts:
        raise InvalidState(
            f"{new.name} is {observed.state}; volumes join and leave a stopped container.",
            kind="container",
            id=new.id,
            state=observed.state,
        )
    incarnation = observed.incarnation
    if target is not None and target.state == "stopped":
        seconds = new.stop_timeout_seconds if target.timeout_seconds is None else target.timeout_seconds
        stop = Stop(
            container=new.id, incarnation=incarnation, signal=parse_signal(new.stop_signal), timeout_seconds=seconds
        )
        retire = Retire(container=new.id, incarnation=incarnation)
        return Plan(before=(stop,), after=(*_withdraw(old), retire))
    steps: list[AnyStep] = list(_follow(old, new, incarnation))
    steps += _publish(new, [step.network for step in steps if isinstance(step, Plug)])
    state = observed.state
    if target is not None and target.state != state:
        state = target.state
        step = Pause if state == "paused" else Resume
        steps.append(step(container=new.id, incarnation=incarnation))
    return Plan(before=tuple(steps), observed=replace(observed, state=state))


def _idle(
    old: ContainerSpec | None, new: ContainerSpec, observed: Observed, fresh: str, started_at: str, *, held: bool
) -> Plan:
    """The container does not run. started_at: it shall start at that time; empty: it shall not."""
    keep = held and old is not None and _same_process(old, new)
    steps: list[AnyStep] = []
    after: list[AnyStep] = []
    incarnation = observed.prepared if keep else fresh
    if keep and old is not None:
        steps += _follow(old, new, incarnation)
    elif started_at or old is None or observed.prepared:
        steps += _prepare(old, new, incarnation, observed.prepared if held else "")
        if observed.prepared:
            after.append(Retire(container=new.id, incarnation=observed.prepared))
    else:
        return Plan(observed=observed)
    if not started_at:
        return Plan(before=tuple(steps), after=tuple(after), observed=replace(observed, prepared=incarnation))
    steps += _publish(new, new.endpoints)
    running = Observed(
        state="running",
        incarnation=incarnation,
        started_at=started_at,
        restarts=observed.restarts,
        stdin=new.stdin,
        terminal=new.terminal,
    )
    after.insert(0, Release(container=new.id, incarnation=incarnation))
    return Plan(before=tuple(steps), after=tuple(after), observed=running)


def _same_process(old: ContainerSpec, new: ContainerSpec) -> bool:
    """Whether a process prepared for *old* serves *new*: limits, links and names it can follow."""
    return (old.mounts, old.stdin, old.terminal) == (new.mounts, new.stdin, new.terminal)


def _prepare(old: ContainerSpec | None, new: ContainerSpec, incarnation: str, held_by: str) -> Iterator[AnyStep]:
    bound = [endpoint.network for endpoint in new.endpoints.values() if endpoint.bound]
    yield from (MakeNetwork(container=new.id, network=network) for network in bound)
    yield MakeRootfs(container=new.id, fresh=old is None, held_by=held_by)
    for mount in new.mounts.values():
        yield MakeVolume(container=new.id, volume=mount.volume, capacity_bytes=mount.capacity_bytes)
    yield Prepare(container=new.id, incarnation=incarnation)
    yield from (Plug(container=new.id, incarnation=incarnation, network=network) for network in bound)


def _follow(old: ContainerSpec, new: ContainerSpec, incarnation: str) -> Iterator[AnyStep]:
    """Steps that bring a prepared or live process from *old* to *new*."""
    before = {key: endpoint for key, endpoint in old.endpoints.items() if endpoint.bound}
    wanted = {key: endpoint for key, endpoint in new.endpoints.items() if endpoint.bound}
    for network, endpoint in before.items():
        if wanted.get(network) != endpoint:
            yield Unplug(container=new.id, incarnation=incarnation, network=network)
    for network, endpoint in wanted.items():
        if before.get(network) != endpoint:
            yield MakeNetwork(container=new.id, network=network)
            yield Plug(container=new.id, incarnation=incarnation, network=network)
    if before != wanted or (wanted and old.name != new.name):
        yield RewriteFiles(container=new.id, incarnation=incarnation)
    if old.resources != new.resources:
        yield Update(container=new.id, incarnation=incarnation)
