"""Streams: in, out, followed, attached to."""

from __future__ import annotations

import asyncio

from portlayer.client import Attachment, Steps
from portlayer.model.errors import InvalidState, Unavailable
from soak.scene import SECONDS, Scene, Wrong, same

ECHO = 'while read line; do echo "got $line"; done; exit 6'


async def echo(scene: Scene) -> None:
    """Each line that goes in comes out. One whose arrival is not known is sent again."""
    one = await scene.commit(
        scene.container("sh", "-c", ECHO).join_interaction(stdin=True).bind_interaction().set_state("running")
    )
    lines = [f"line {scene.rng.randrange(10**9)}" for _ in range(scene.rng.randint(1, 8))]
    before = scene.repeated
    await scene.again(lambda: _talk(scene, one.id, lines))
    same("exit code", await scene.ended(one.id), 6)
    out, err = await scene.log(one.id)
    came = out.splitlines() if scene.repeated == before else list(dict.fromkeys(out.splitlines()))
    same("what came out", (came, err), ([f"got {line}" for line in lines], ""))
    await scene.remove(one.id)


async def _talk(scene: Scene, ref: str, lines: list[str]) -> None:
    try:
        async with asyncio.timeout(SECONDS), scene.pl.interaction.attach(ref, stdin=True, logs=True) as attachment:
            output, seen = aiter(attachment), b""
            for line in lines:
                wanted = f"got {line}\n".encode()
                if wanted not in seen:
                    await attachment.write(f"{line}\n".encode())
                while wanted not in seen:
                    seen += (await anext(output)).data
            await attachment.close_stdin()
            async for _ in output:
                pass
    except StopAsyncIteration:
        raise Wrong(f"{ref} ended before it had answered") from None
    except InvalidState:
        if not scene.repeated:
            raise


async def attached(scene: Scene) -> None:
    """Who attaches before the start misses nothing, and is told the exit code."""
    lines, code = scene.rng.randint(1, 200), scene.rng.randrange(100)
    script = f"i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); done; exit {code}"
    one = await scene.commit(scene.container("sh", "-c", script))
    start = await scene.staged(Steps(await scene.handle(one.id)).set_state("running"))
    seen = b""
    try:
        async with asyncio.timeout(SECONDS), scene.pl.interaction.attach(one.id) as attachment:
            await scene.commit_handle(start)
            seen = await _rest(attachment)
            same("exit code told", attachment.exit_code, code)
    except Unavailable:
        await scene.commit_handle(start)
        seen = (await scene.log(one.id, follow=True))[0].encode()
    same("output", seen.decode(), "".join(f"{line}\n" for line in range(lines)))
    same("exit code", await scene.ended(one.id), code)
    await scene.remove(one.id)


async def _rest(attachment: Attachment) -> bytes:
    return b"".join([output.data async for output in attachment])


async def followed(scene: Scene) -> None:
    """A log that is followed goes on to the end."""
    lines = scene.rng.randint(1, 20)
    script = f"i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); sleep 0.01; done"
    one = await scene.commit(scene.container("sh", "-c", script).set_state("running"))
    out, _ = await scene.log(one.id, follow=True)
    same("log", out, "".join(f"{line}\n" for line in range(lines)))
    same("exit code", await scene.ended(one.id), 0)
    await scene.remove(one.id)


async def terminal(scene: Scene) -> None:
    """A program that asks for a terminal has one."""
    one = await scene.commit(scene.container("sh", "-c", "test -t 1 && echo tty", terminal=True).set_state("running"))
    same("exit code", await scene.ended(one.id), 0)
    same("log", await scene.log(one.id), ("tty\r\n", ""))
    await scene.remove(one.id)


KINDS = (echo, attached, followed, terminal)
