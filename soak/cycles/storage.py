"""Images and volumes."""

from __future__ import annotations

import asyncio

from portlayer.client import Steps
from portlayer.model.errors import InUse, NotFound
from soak import image
from soak.scene import Scene, same


async def volumes(scene: Scene) -> None:
    """What one container writes to a volume another reads, who may not write."""
    name, words = scene.name("volume"), f"word {scene.rng.randrange(10**9)}"
    await scene.sure(lambda: scene.pl.storage.create_volume(name, idempotency_key=name))
    write = scene.container("sh", "-c", f"echo {words} > /jar/words", name=scene.name("w")).join_volume(name, "/jar")
    writer = await scene.commit(write.set_state("running"))
    same("writer's exit code", await scene.ended(writer.id), 0)
    script = "cat /jar/words; echo more > /jar/more || exit 8"
    read = scene.container("sh", "-c", script, name=scene.name("r")).join_volume(name, "/jar", read_only=True)
    reader = await scene.commit(read.set_state("running"))
    same("reader's exit code", await scene.ended(reader.id), 8)
    same("what it read", (await scene.log(reader.id))[0], f"{words}\n")
    await scene.refused(InUse, lambda: scene.pl.storage.remove_volume(name))
    await scene.remove(writer.id, reader.id)
    await scene.again(lambda: scene.pl.storage.remove_volume(name), happened=NotFound)
    await scene.refused(NotFound, lambda: scene.pl.storage.inspect_volume(name))


async def joined_and_left(scene: Scene) -> None:
    """A volume comes and goes with the container at rest."""
    name = scene.name("volume")
    await scene.sure(lambda: scene.pl.storage.create_volume(name, idempotency_key=name))
    one = await scene.commit(scene.container("sh", "-c", "test -d /jar && echo there; true"))
    expected = ""
    for joined in (True, False):
        steps = Steps(await scene.handle(one.id))
        steps = steps.join_volume(name, "/jar") if joined else steps.leave_volume(volume=name)
        await scene.commit(steps)
        await scene.commit(Steps(await scene.handle(one.id)).set_state("running"))
        same("exit code", await scene.ended(one.id), 0)
        expected += "there\n"  # the directory that was mounted on stays in the container's own filesystem
        same("log", (await scene.log(one.id))[0], expected)
    await scene.remove(one.id)
    await scene.again(lambda: scene.pl.storage.remove_volume(name), happened=NotFound)


async def anonymous(scene: Scene) -> None:
    """A volume without a name goes with its container."""
    volume = await scene.sure(lambda: scene.pl.storage.create_volume(idempotency_key=scene.name("anonymous")))
    one = await scene.commit(scene.container("touch", "/jar/x").join_volume(volume.id, "/jar").set_state("running"))
    same("exit code", await scene.ended(one.id), 0)
    await scene.remove(one.id, volumes=True)
    await scene.refused(NotFound, lambda: scene.pl.storage.inspect_volume(volume.id))


async def images(scene: Scene) -> None:
    """An image of its own comes, is used, and goes with its layers."""
    name = f"soak-{scene.number}:latest"
    archive = image.build(name, motto := f"motto {scene.rng.randrange(10**9)}")
    key = scene.name("image")
    await scene.sure(lambda: scene.pl.storage.import_image(archive, idempotency_key=key))
    one = await scene.commit(scene.container("cat", "/etc/motto", image=name).set_state("running"))
    same("exit code", await scene.ended(one.id), 0)
    same("what is in it", (await scene.log(one.id))[0], motto)
    await scene.refused(InUse, lambda: scene.pl.storage.remove_image(name))
    await scene.remove(one.id)
    await scene.again(lambda: scene.pl.storage.remove_image(name), happened=NotFound)
    await scene.refused(NotFound, lambda: scene.pl.storage.inspect_image(name))


async def copied(scene: Scene) -> None:
    """Two import the same content under different names at once: it is one image, which goes with its last name."""
    first, second = [f"copy-{index}-{scene.number}:latest" for index in range(2)]
    motto = f"motto {scene.rng.randrange(10**9)}"

    async def imported(name: str) -> str:
        archive = image.build(name, motto)
        (made,) = await scene.sure(lambda: scene.pl.storage.import_image(archive, idempotency_key=name))
        return made.id

    idents = await asyncio.gather(imported(first), imported(second))
    same("the images", idents[0], idents[1])
    await scene.again(lambda: scene.pl.storage.remove_image(first), happened=NotFound)
    one = await scene.commit(scene.container("cat", "/etc/motto", image=second).set_state("running"))
    same("exit code", await scene.ended(one.id), 0)
    same("what is in it", (await scene.log(one.id))[0], motto)
    await scene.remove(one.id)
    await scene.again(lambda: scene.pl.storage.remove_image(second), happened=NotFound)


KINDS = (volumes, joined_and_left, anonymous, images, copied)
