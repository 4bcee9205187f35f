"""Handles and commits: together, against each other, abandoned, and such as are refused."""

from __future__ import annotations

import asyncio
from functools import partial

from portlayer.client import ContainerHandle, Steps
from portlayer.model.errors import (
    AlreadyExists,
    Conflict,
    HandleInvalid,
    InvalidArgument,
    InvalidState,
    NotFound,
    PortlayerError,
    Unsupported,
)
from soak.scene import Scene, Wrong, same


async def together(scene: Scene) -> None:
    """Several containers started by one commit, which reach each other's addresses."""
    many, network = scene.rng.randint(2, 4), scene.networks(1)[0]
    handles = []
    for index in range(many):
        steps = scene.container("sh", "-c", f"exit {index}", name=scene.name(f"t{index}"))
        handles.append(await scene.staged(steps.join_network(network).bind_network().set_state("running")))
    try:
        all_of_them = await scene.sure(lambda: scene.pl.execution.commit_all(handles))
    except Conflict as error:
        if "has run out" not in error.detail:
            raise
        return
    for one in all_of_them:
        scene.took(one)
    again = await scene.sure(lambda: scene.pl.execution.commit_all(handles))
    same("the same handles give the same", again, all_of_them)
    for index, one in enumerate(all_of_them):
        same("exit code", await scene.ended(one.id), index)
    await scene.remove(*(one.id for one in all_of_them))


async def together_or_not(scene: Scene) -> None:
    """One of several cannot be: none is."""
    taken = await scene.commit(scene.container("true"))
    network = scene.networks(1)[0]
    steps = [scene.container("true", name=scene.name(f"t{index}")) for index in range(scene.rng.randint(1, 3))]
    steps.insert(scene.rng.randint(0, len(steps)), scene.container("true"))
    handles = [await scene.staged(each.join_network(network).bind_network().set_state("running")) for each in steps]
    await scene.refused(PortlayerError, lambda: scene.pl.execution.commit_all(handles))
    for handle in handles:
        await scene.refused(NotFound, partial(scene.pl.execution.inspect_container, handle))
        await scene.again(partial(scene.pl.execution.discard, handle))
    await scene.remove(taken.id)


async def one_wins(scene: Scene) -> None:
    """Several rename one container at the same time: one does, the others are told what collided."""
    one = await scene.commit(scene.container("true"))
    old = await scene.handle(one.id)
    names = [scene.name(f"r{index}") for index in range(scene.rng.randint(2, 4))]
    handles = [await scene.staged(Steps(old).rename(name)) for name in names]
    outcomes = await asyncio.gather(*(scene.commit_handle(each) for each in handles), return_exceptions=True)
    won = [name for name, outcome in zip(names, outcomes, strict=True) if not isinstance(outcome, BaseException)]
    same("how many won", len(won), 1)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, Conflict):
                raise outcome
            same("what collided", tuple(outcome.facts["collisions"]), ("name",))
    same("name", (await scene.sure(lambda: scene.pl.execution.inspect_container(one.id))).name, won[0])
    await scene.remove(one.id)


async def all_win(scene: Scene) -> None:
    """Several change different things of one container at the same time: all do; a strict one may not."""
    one = await scene.commit(scene.container("sleep", "1000").set_state("running"))
    old = await scene.handle(one.id)
    keys = [f"k{index}" for index in range(scene.rng.randint(2, 5))]
    handles = [await scene.staged(Steps(old).set_labels({key: key})) for key in keys]
    handles.append(await scene.staged(Steps(old).set_resources(pids=100)))
    network = scene.networks(1)[0]
    await asyncio.gather(*map(scene.commit_handle, handles), scene.commit(Steps(old).join_network(network)))
    seen = await scene.sure(lambda: scene.pl.execution.inspect_container(one.id))
    same("labels", seen.labels, {key: key for key in keys})
    same("pids and networks", (seen.resources.pids, [each.network for each in seen.endpoints]), (100, [network]))
    late = await scene.staged(Steps(old).set_labels({"late": "1"}))
    await scene.refused(Conflict, lambda: scene.pl.execution.commit(late, strict=True))
    await scene.remove(one.id, force=True)


async def once(scene: Scene) -> None:
    """Composed and committed in one call, which is repeated under its key: one container, and one answer."""
    steps, key = scene.container("sh", "-c", "exit 5").set_state("running"), scene.name("once")
    first = await scene.sure(lambda: scene.pl.execution.commit(steps, idempotency_key=key))
    scene.took(first)
    same("exit code", await scene.ended(first.id), 5)
    await scene.remove(first.id)
    same("a retry", await scene.sure(lambda: scene.pl.execution.commit(steps, idempotency_key=key)), first)
    await scene.refused(NotFound, lambda: scene.pl.execution.inspect_container(first.id))


async def abandoned(scene: Scene) -> None:
    """A handle that is dropped or discarded has made nothing; its leases end."""
    steps = scene.container("true")
    for network in scene.networks():
        steps = steps.join_network(network).bind_network(network)
    handle = await scene.staged(steps)
    proposed = await scene.sure(lambda: scene.pl.execution.inspect(handle))
    for endpoint in proposed.proposed.endpoints:
        scene.in_range(endpoint)
    await scene.refused(NotFound, lambda: scene.pl.execution.inspect_container(handle))
    if scene.rng.random() < 0.5:
        await scene.again(lambda: scene.pl.execution.discard(handle))


async def branched(scene: Scene) -> None:
    """An old handle stays good, and one that was committed gives its first result, even after the removal."""
    draft = await scene.staged(scene.container("true"))
    one = await scene.commit_handle(draft)
    base = await scene.handle(one.id)
    left, right = [await scene.staged(Steps(base).set_labels({side: "1"})) for side in ("left", "right")]
    results = [await scene.commit_handle(left), await scene.commit_handle(right)]
    same("a retry", await scene.commit_handle(left), results[0])
    labels = (await scene.sure(lambda: scene.pl.execution.inspect_container(one.id))).labels
    same("labels", labels, {"left": "1", "right": "1"})
    await scene.remove(one.id)
    same("a retry after the removal", await scene.sure(lambda: scene.pl.execution.commit(draft)), one)
    await scene.refused(NotFound, lambda: scene.pl.execution.commit(base))


async def refusals(scene: Scene) -> None:
    """Bad input is told apart and changes nothing."""
    pl, create = scene.pl, scene.pl.execution.create
    image, forged = scene.ledger.image, ContainerHandle("0" * 32, "forged")
    asked = [
        (NotFound, lambda: create("no-such-image")),
        (InvalidArgument, lambda: create(image, name="not a name")),
        (InvalidArgument, lambda: create(image, memory_bytes=1)),
        (InvalidArgument, lambda: create(image, cwd="relative")),
        (NotFound, lambda: pl.execution.get_container("nobody")),
        (NotFound, lambda: pl.execution.signal("nobody")),
        (NotFound, lambda: pl.network.get_network("nowhere")),
        (NotFound, lambda: pl.storage.remove_volume("nothing")),
        (HandleInvalid, lambda: pl.execution.commit(forged)),
        (HandleInvalid, lambda: pl.network.bind(forged)),
        (InvalidArgument, lambda: pl.network.create_network("bad", subnets=["10.0.0.0/33"])),
        (InvalidArgument, lambda: pl.storage.import_image(b"no archive", name="bad")),
    ]
    for error, ask in scene.rng.sample(asked, 4):
        await scene.refused(error, ask)
    one = await scene.commit(scene.container("true"))
    taken = await scene.staged(scene.container("true"))
    await scene.refused(AlreadyExists, lambda: pl.execution.commit(taken))
    await scene.refused(InvalidState, lambda: pl.execution.signal(one.id))
    await scene.refused(Unsupported, lambda: pl.execution.wait(one.id, "healthy"))  # type: ignore[arg-type]
    if (await scene.sure(lambda: pl.execution.inspect_container(one.id))).state != "created":
        raise Wrong("a refusal has changed something")
    await scene.remove(one.id)


KINDS = (together, together_or_not, one_wins, all_win, once, abandoned, branched, refusals)
