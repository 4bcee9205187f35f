"""Processes of different versions on one store: what a newer one writes neither kills nor fools an older one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from driver import ME
from harness import Harness
from vchs.conftest import change, delete, look, make

from portlayer.components import keys
from portlayer.interfaces.store import Put, Record, Store, Transaction
from portlayer.model import execution as e
from portlayer.model import grants as g
from portlayer.model import storage as s
from portlayer.model.changes import MergeLabels
from portlayer.model.errors import Unavailable
from portlayer.model.storage import Nothing


async def rewrite(store: Store, key: str, **fields: Any) -> Record:
    """A newer process writes the record under *key* anew, with *fields* of its own."""
    row = await store.get(key)
    assert row is not None
    value = msgspec.json.encode(msgspec.json.decode(row.value) | fields)
    await store.apply(Transaction(ops=[Put(key, value)]))
    written = await store.get(key)
    assert written is not None
    return written


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_container_of_a_newer_version_is_seen_and_not_changed_by_half(harness: Harness) -> None:
    made = await harness.run(name="newcomer")
    handle = await harness.handle("newcomer")
    for kind in ("containers", "observed"):
        key = keys.entity("default", kind, made.id)
        row = await rewrite(harness.store, key, future={"deep": True})
    row = await rewrite(harness.store, keys.entity("default", "containers", made.id), future=1)
    seen = await harness.pl.execution.get_container(ME, e.ContainerRef(ref="newcomer"))
    assert seen.state == "running"
    assert [one.name for one in (await harness.pl.execution.list_containers(ME, e.ListContainers())).containers] == [
        "newcomer"
    ]
    with pytest.raises(Unavailable, match="upgrade"):
        await harness.commit(await harness.set_labels(handle, colour="blue"))
    assert await harness.store.get(row.key) == row, "nothing of it was lost"
    await harness.commit(await harness.set_state(await harness.draft(name="other"), "running"))


async def test_a_vch_of_a_newer_version_works_and_keeps_what_it_has(harness: Harness) -> None:
    tenant = await make(harness, "tenant")
    row = await rewrite(harness.store, keys.vch("tenant"), future=1)
    await tenant.run(name="cookie")
    assert (await look(harness, "tenant")).usage.containers == 1
    with pytest.raises(Unavailable, match="upgrade"):
        await change(harness, "tenant", containers=3)
    assert await harness.store.get(row.key) == row
    await delete(harness, "tenant", force=True)


async def test_a_vch_that_makes_no_sense_here_keeps_no_other_from_being_looked_after(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await make(harness, "odd")
    await make(harness, "even")
    await rewrite(harness.store, keys.vch("odd"), state="levitating")
    await until(lambda: "VCH odd is not looked after here" in caplog.text)
    await delete(harness, "even", force=True)  # which waits for those who follow
    with pytest.raises(Unavailable, match="upgrade"):
        await look(harness, "odd")


async def test_a_host_that_makes_no_sense_here_stays_as_it_was_known(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    before = (await harness.pl.service.info(ME, Nothing())).hosts
    key = keys.host("local")
    row = await harness.store.get(key)
    assert row is not None
    await rewrite(harness.store, key, state="levitating")
    await until(lambda: f"{key} is not followed" in caplog.text)
    assert (await harness.pl.service.info(ME, Nothing())).hosts == before
    await harness.store.apply(Transaction(ops=[Put(key, row.value.replace(b'"up"', b'"starting"'))]))
    book = harness.pl.execution._book  # type: ignore[attr-defined]
    await until(lambda: book.state("local") == "starting")
    assert caplog.text.count("is not followed") == 1


async def test_a_volume_of_a_newer_version_gets_its_host_and_loses_nothing(harness: Harness) -> None:
    jar = await harness.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
    key = keys.entity("default", "volumes", jar.id)
    await rewrite(harness.store, key, future=1)
    await harness.run(name="cookie", volume="jar")
    row = await harness.store.get(key)
    assert row is not None
    assert msgspec.json.decode(row.value).items() >= {"host": "local", "future": 1}.items()


async def test_rights_of_a_newer_version_are_no_rights_here(harness: Harness) -> None:
    made = await harness.pl.service.create_token(ME, g.CreateToken(subject="ursula", role="user", vch="default"))
    assert await harness.authority.identify(made.secret) is not None
    await rewrite(harness.store, keys.grants("token") + made.token.id, only_on_sundays=True)
    with pytest.raises(Unavailable, match="upgrade"):
        await harness.authority.identify(made.secret)


async def test_a_handle_of_a_newer_version_is_not_committed_by_half(harness: Harness) -> None:
    class Levitate(MergeLabels, tag="levitate"):
        height: int = 1

    sealer = harness.drafts.sealer
    vch = (await look(harness, "default")).id
    draft = await sealer.open_draft(vch, await harness.draft(name="flyer"))
    newer = msgspec.structs.replace(draft, changes=(*draft.changes, Levitate(labels={})))
    handle = sealer.seal(newer)
    with pytest.raises(Unavailable, match="newer process"):
        await harness.commit(handle)
    assert not (await harness.pl.execution.list_containers(ME, e.ListContainers())).containers


async def test_a_fault_ends_no_following(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what nobody has foreseen, the log tells, and it goes on."""
    tenants = harness.drafts.records.tenants
    monkeypatch.setattr(tenants, "_look", faulty(tenants._look))
    await make(harness, "first")
    await until(lambda: "VCHs are followed: a fault has ended that" in caplog.text)
    assert [record.levelno for record in caplog.records if "a fault" in record.message] == [logging.ERROR]
    await delete(harness, "first", force=True)


def faulty(work: Callable[..., Any]) -> Callable[..., Any]:
    """*work*, which fails once as it never should."""
    left = [RuntimeError("as nobody has foreseen")]

    def fail(*args: Any) -> Any:
        if left:
            raise left.pop()
        return work(*args)

    return fail
