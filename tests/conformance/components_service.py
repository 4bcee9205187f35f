"""What the service keeps of interfaces/service.py, whichever process is asked."""

from __future__ import annotations

import pytest
from driver import ME, Driver

from portlayer.client.streams import closing
from portlayer.model import service as v
from portlayer.model.errors import AlreadyExists, Conflict, InUse, InvalidArgument, NotFound
from portlayer.model.grants import CreateToken, GrantRef, ListGrants
from portlayer.model.storage import Nothing


class ServiceSuite:
    async def test_it_is_ready_and_says_who_runs_where(self, driver: Driver) -> None:
        info = await driver.pl.service.info(driver.me, Nothing())
        assert {one.name for one in info.components} == {"storage", "execution", "network", "interaction"}
        assert all(one.where for one in info.components)
        assert (await driver.pl.service.ready(driver.me, Nothing())).ready
        assert "portlayer_info" in await driver.pl.service.metrics(driver.me, Nothing())

    async def test_the_life_of_a_tenant(self, driver: Driver) -> None:
        service, name = driver.pl.service, f"{driver.me.vch}-other"
        made = await service.create_vch(ME, v.CreateVch(name=name, quota=v.Quota(containers=1)))
        with pytest.raises(AlreadyExists):
            await service.create_vch(ME, v.CreateVch(name=name))
        assert await service.get_vch(ME, v.VchRef(ref=name)) == made
        assert name in {one.name for one in (await service.list_vchs(ME, v.ListVchs(limit=1000))).vchs}
        tenant = driver.of(name)
        await tenant.image()
        await tenant.run("sleep", "1000", name="one")
        changed = await service.update_vch(ME, v.UpdateVch(ref=name, quota=v.QuotaChange(containers=2)))
        assert (changed.quota.containers, changed.usage.containers) == (2, 1)
        with pytest.raises(Conflict):
            await service.update_vch(ME, v.UpdateVch(ref=name, if_match=str(made.version)))
        with pytest.raises(InUse):
            await service.delete_vch(ME, v.DeleteVch(ref=name))
        await service.delete_vch(ME, v.DeleteVch(ref=name, force=True))
        with pytest.raises(NotFound):
            await service.get_vch(ME, v.VchRef(ref=name))

    async def test_small_values(self, driver: Driver) -> None:
        service, me = driver.pl.service, driver.me
        first = await service.put_kv(me, v.PutKv(key="k", value=b"\0one"))
        assert await service.get_kv(me, v.KvRef(key="k")) == first
        second = await service.put_kv(me, v.PutKv(key="k", value=b"two", if_match=first.etag))
        with pytest.raises(Conflict):
            await service.put_kv(me, v.PutKv(key="k", value=b"three", if_match=first.etag))
        await service.delete_kv(me, v.DeleteKv(key="k", if_match=second.etag))
        with pytest.raises(NotFound):
            await service.get_kv(me, v.KvRef(key="k"))

    async def test_events_tell_what_happened_and_go_on_from_a_cursor(self, driver: Driver) -> None:
        await driver.image()
        await driver.run("true", name="one")
        seen = []
        async with closing(await driver.pl.service.events(driver.me, v.Subscribe(since="0"))) as events:
            async for numbered in events:
                seen.append(numbered)
                if numbered.event.type == "container.exited":
                    break
        types = [one.event.type for one in seen]
        assert types.index("container.created") < types.index("container.started") < len(types) - 1
        async with closing(await driver.pl.service.events(driver.me, v.Subscribe(since=seen[0].cursor))) as events:
            assert await anext(events) == seen[1]
        with pytest.raises(InvalidArgument):
            await driver.pl.service.events(driver.me, v.Subscribe(since="nonsense"))

    async def test_an_import_is_told_by_the_name_that_it_gave(self, driver: Driver) -> None:
        for name in ("first", "second"):
            await driver.image(name)
        told = []
        async with closing(await driver.pl.service.events(driver.me, v.Subscribe(since="0"))) as events:
            async for numbered in events:
                if numbered.event.type == "image.imported":
                    told.append(numbered.event.name)
                if len(told) == 2:
                    break
        assert told == ["first:latest", "second:latest"]

    async def test_tokens_are_told_once(self, driver: Driver) -> None:
        service, vch = driver.pl.service, driver.me.vch
        made = await service.create_token(ME, CreateToken(subject=vch, role="user", vch=vch))
        listed = (await service.list_tokens(ME, ListGrants(limit=1000))).tokens
        (mine,) = [one for one in listed if one.subject == vch]
        assert made.secret not in repr(listed)
        await service.delete_token(ME, GrantRef(id=mine.id))
        with pytest.raises(NotFound):
            await service.delete_token(ME, GrantRef(id=mine.id))
