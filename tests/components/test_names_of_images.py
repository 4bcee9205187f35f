"""Names of images: each leads to one image, and moves with the import that gives it to another."""

from __future__ import annotations

from typing import Any

import images
import pytest
from harness import ME, Harness
from images import Built

from portlayer.model import storage as s
from portlayer.model.errors import NotFound

NAMES = ("app:1", "app:latest")
FIRST, SECOND = (images.tar([images.file("version", text)]) for text in (b"1", b"2"))


def archive(tar: bytes, *names: str) -> bytes:
    """One image under all *names*."""
    return images.docker_archive(*(Built([tar], name) for name in names))


async def named(harness: Harness, ref: str) -> s.Image:
    return await harness.pl.storage.get_image(ME, s.ImageRef(ref=ref))


async def test_several_names_move_at_once(harness: Harness) -> None:
    """As when a build is saved anew, with its version and as the latest."""
    (first,) = await harness.archive(archive(FIRST, *NAMES, "app:old"))
    (second,) = await harness.archive(archive(SECOND, *NAMES))
    assert {(await named(harness, name)).id for name in NAMES} == {second.id}
    assert (await named(harness, first.id)).names == ("app:old",)
    await harness.pl.storage.delete_image(ME, s.DeleteImage(ref=first.id))
    assert (await named(harness, "app:1")).names == NAMES


async def test_a_name_that_moves_while_it_is_deleted_takes_nothing_else_along(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = await harness.archive(archive(FIRST, "app:1", "app:old"))
    records = harness.drafts.records
    find = records.find

    async def find_and_move(*what: Any) -> Any:
        """By the time that it is answered, another import has the name."""
        found = await find(*what)
        monkeypatch.undo()
        await harness.archive(archive(SECOND, "app:1"))
        return found

    monkeypatch.setattr(records, "find", find_and_move)
    await harness.pl.storage.delete_image(ME, s.DeleteImage(ref="app:1"))
    assert (await named(harness, "app:old")).id == first.id
    with pytest.raises(NotFound):
        await named(harness, "app:1")
