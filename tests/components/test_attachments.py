"""An attachment that ends is not in the store any more, however it ends: a removal on exit would wait for it."""

from __future__ import annotations

import asyncio

import pytest
from harness import ME, Harness

from portlayer.components import keys
from portlayer.interfaces.interaction import Attachment
from portlayer.model import interaction as i


async def attached(harness: Harness) -> tuple[Attachment, str]:
    """To a container that goes with its exit; and where that stands in the store."""
    created = await harness.commit(await harness.draft(name="brief", remove_on_exit=True))
    attachment = await harness.pl.interaction.attach(ME, i.Attach(ref="brief"))
    return attachment, keys.attachments("default", created.id)


async def test_also_where_who_closes_it_is_cut_off(harness: Harness) -> None:
    attachment, prefix = await attached(harness)
    assert await harness.store.count(prefix) == 1
    closing = asyncio.create_task(attachment.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert await harness.store.count(prefix) == 0
    assert not [task for task in asyncio.all_tasks() if "_announce_again" in repr(task)]


async def test_also_where_who_reads_it_is_cut_off_twice(harness: Harness) -> None:
    attachment, prefix = await attached(harness)
    reading = asyncio.ensure_future(anext(aiter(attachment)))
    for _ in range(3):
        await asyncio.sleep(0)
    for _ in range(2):
        reading.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await harness.store.count(prefix) == 0
