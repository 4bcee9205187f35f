"""Containers, their state and their ends."""

from __future__ import annotations

import contextlib
import signal

from portlayer.client import Steps
from portlayer.model.errors import InvalidState, NotFound
from portlayer.model.execution import RestartPolicy
from soak.scene import Scene, same

FOREVER = ("sleep", "1000")


async def life(scene: Scene) -> None:
    """Created and started by one commit; its exit code and every line that it wrote are kept."""
    code, lines = scene.rng.randrange(100), scene.rng.randrange(100)
    script = f"i=0; while [ $i -lt {lines} ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit {code}"
    one = await scene.commit(scene.container("sh", "-c", script).set_state("running"))
    same("exit code", await scene.ended(one.id), code)
    wanted = tuple("".join(f"{stream} {line}\n" for line in range(lines)) for stream in ("out", "err"))
    same("log", await scene.log(one.id), wanted)
    await scene.remove(one.id)


async def started_later(scene: Scene) -> None:
    """Created by one commit, started by another, and once more after its end."""
    one = await scene.commit(scene.container("sh", "-c", "echo here; exit 4"))
    same("state", one.state, "created")
    for times in range(1, scene.rng.randint(2, 3)):
        await scene.commit(Steps(await scene.handle(one.id)).set_state("running"))
        same("exit code", await scene.ended(one.id), 4)
        same("log", await scene.log(one.id), ("here\n" * times, ""))
    await scene.remove(one.id)


async def failing(scene: Scene) -> None:
    """A program that cannot be executed is a result."""
    program, code = scene.rng.choice([("elmo", 127), ("/no/such", 127), ("/etc", 126)])
    one = await scene.commit(scene.container(program).set_state("running"))
    same("state and exit code", (one.state, one.exit_code), ("stopped", code))
    same("reason given", bool(one.start_error), True)
    same("exit code", await scene.ended(one.id), code)
    await scene.remove(one.id)


async def signalled(scene: Scene) -> None:
    """Ended by a signal, whatever it does about it."""
    name = scene.rng.choice(["SIGTERM", "SIGKILL", "SIGUSR1", "SIGINT"])
    trap = scene.rng.random() < 0.5 and name != "SIGKILL"
    if trap:
        script = f"trap 'exit 7' {name.removeprefix('SIG')}; echo up; while :; do sleep 0.05; done"
        steps = scene.container("sh", "-c", script)
    else:
        steps = scene.container("sh", "-c", "echo up; exec sleep 1000", init=True)
    one = await scene.commit(steps.set_state("running"))
    await scene.said(one.id, "up")
    await scene.again(lambda: scene.pl.execution.signal(one.id, name), happened=InvalidState)
    same(f"exit code after {name}", await scene.ended(one.id), 7 if trap else 128 + signal.Signals[name])
    await scene.remove(one.id)


async def stopped(scene: Scene) -> None:
    """Stopped in time, or killed when its time is over."""
    gently = scene.rng.random() < 0.5
    script = f"trap '{'exit 9' if gently else ':'}' TERM; echo up; while :; do sleep 0.02; done"
    one = await scene.commit(scene.container("sh", "-c", script).set_state("running"))
    await scene.said(one.id, "up")
    steps = Steps(await scene.handle(one.id)).set_state("stopped", timeout_seconds=20 if gently else 0.1)
    done = await scene.commit(steps)
    same("state and exit code", (done.state, done.exit_code), ("stopped", 9 if gently else 137))
    await scene.remove(one.id)


async def paused(scene: Scene) -> None:
    """Held still, it writes nothing; let go, it goes on."""
    script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"
    one = await scene.commit(scene.container("sh", "-c", script).set_state("running"))
    await scene.said(one.id, "1\n")
    same("state", (await scene.commit(Steps(await scene.handle(one.id)).set_state("paused"))).state, "paused")
    before = await scene.log(one.id)
    await scene.refused(InvalidState, lambda: scene.pl.execution.remove(one.id))
    same("log while paused", await scene.log(one.id), before)
    same("state", (await scene.commit(Steps(await scene.handle(one.id)).set_state("running"))).state, "running")
    await scene.said(one.id, f"\n{len(before[0].splitlines())}\n")
    await scene.remove(one.id, force=True)


async def restarted(scene: Scene) -> None:
    """Started again by its policy, so often and no more."""
    most = scene.rng.randint(1, 2)
    policy = RestartPolicy(name="on-failure", maximum_retry_count=most)
    steps = scene.container("sh", "-c", "echo once more; exit 5", restart_policy=policy)
    one = await scene.commit(steps.set_state("running"))

    async def given_up() -> bool:
        seen = await scene.pl.execution.inspect_container(one.id)
        return seen.state == "stopped" and seen.restarts == most

    await scene.until(f"{most} restarts", given_up)
    same("log", await scene.log(one.id), ("once more\n" * (most + 1), ""))
    await scene.remove(one.id)


async def removed_on_exit(scene: Scene) -> None:
    """It goes by itself."""
    one = await scene.commit(scene.container("true", remove_on_exit=True).set_state("running"))
    with contextlib.suppress(NotFound):  # it may be gone before anybody waits
        await scene.again(lambda: scene.pl.execution.wait(one.id, "removed", timeout_seconds=60))
    await scene.refused(NotFound, lambda: scene.pl.execution.inspect_container(one.id))
    scene.went(one.id)


async def edited(scene: Scene) -> None:
    """Labels, limits, policy and name, at rest or while it runs."""
    steps = scene.container(*FOREVER, labels={"old": "1", "kept": "2"}, memory_bytes=32 << 20)
    one = await scene.commit(steps.set_state("running") if scene.rng.random() < 0.5 else steps)
    steps = Steps(await scene.handle(one.id)).set_labels({"old": None, "new": "3"}).rename(scene.name("renamed"))
    await scene.commit(steps.set_resources(pids=50).set_restart_policy("unless-stopped"))
    seen = await scene.sure(lambda: scene.pl.execution.inspect_container(scene.name("renamed")))
    same("id", seen.id, one.id)
    same("labels", seen.labels, {"kept": "2", "new": "3"})
    same("resources", (seen.resources.pids, seen.resources.memory_bytes), (50, None))
    same("policy", seen.restart_policy.name, "unless-stopped")
    await scene.refused(NotFound, lambda: scene.pl.execution.inspect_container(scene.name("c")))
    await scene.remove(one.id, force=True)


KINDS = (life, started_later, failing, signalled, stopped, paused, restarted, removed_on_exit, edited)
