"""What a caller may rely on: the laws of handles and of commit."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest
from harness import ME, Harness
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portlayer.components import keys, observer
from portlayer.components.handles import ROTATE_SECONDS, KeyRing
from portlayer.components.records import Records, decode
from portlayer.components.vchs import ensure_vch
from portlayer.model import execution as e
from portlayer.model import network as n
from portlayer.model import storage as s
from portlayer.model.caller import Caller
from portlayer.model.errors import (
    AlreadyExists,
    Conflict,
    HandleInvalid,
    InUse,
    InvalidArgument,
    InvalidState,
    NotFound,
    PortlayerError,
    ResourceExhausted,
    SubstrateFailed,
)
from portlayer.model.service import VchRef


async def leases(harness: Harness) -> int:
    return await harness.store.count("/v/default/leases/")


async def test_nothing_happens_before_commit(harness: Harness) -> None:
    await harness.network()
    handle = await harness.set_state(await harness.draft(network="gibson_network", name="cookie"), "running")
    assert harness.world.incarnations == {}
    assert harness.world.networks == {}
    with pytest.raises(NotFound):
        await harness.inspect("cookie")
    committed = await harness.commit(handle)
    assert committed.state == "running"
    assert committed.endpoints[0].address == "10.210.0.2"


async def test_inspect_tells_what_commit_would_do(harness: Harness) -> None:
    handle = await harness.set_state(await harness.draft(name="cookie"), "running")
    told = await harness.pl.execution.inspect(ME, e.Inspect(handle=await harness.set_labels(handle, colour="red")))
    assert told.current is None
    assert (told.proposed.state, told.proposed.labels) == ("running", {"colour": "red"})
    assert [change["change"] for change in told.changes] == ["create", "setState", "setLabels"]
    committed = await harness.commit(handle)
    assert committed.state == told.proposed.state


async def test_the_same_handle_commits_once(harness: Harness) -> None:
    handle = await harness.set_state(await harness.draft("sleep", "1000"), "running")
    first = await harness.commit(handle)
    assert await harness.commit(handle) == first
    assert len(harness.world.incarnations) == 1
    await harness.crash()
    assert await harness.commit(handle) == first
    await harness.remove(first.id, force=True)
    assert await harness.commit(handle) == first
    with pytest.raises(NotFound):
        await harness.inspect(first.id)


async def test_the_same_handle_at_the_same_time_acts_once(harness: Harness) -> None:
    handle = await harness.set_state(await harness.draft("sleep", "1000"), "running")
    answers = await asyncio.gather(*(harness.commit(handle) for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert len(harness.world.incarnations) == 1


async def test_old_handles_stay_good_and_branch(harness: Harness) -> None:
    created = await harness.commit(await harness.draft(name="cookie"))
    base = await harness.handle(created.id)
    red = await harness.set_labels(base, colour="red")
    blue = await harness.set_labels(base, taste="sweet")
    await harness.commit(red)
    await harness.commit(blue)
    assert (await harness.inspect("cookie")).labels == {"colour": "red", "taste": "sweet"}


async def test_overlapping_commits_collide_by_name(harness: Harness) -> None:
    created = await harness.commit(await harness.draft(name="cookie"))
    base = await harness.handle(created.id)
    await harness.commit(await harness.set_labels(base, colour="red"))
    stale = await harness.set_labels(await harness.set_labels(base, colour="blue"), taste="sweet")
    with pytest.raises(Conflict) as caught:
        await harness.commit(stale)
    assert caught.value.facts["collisions"] == ("labels/colour",)
    assert (await harness.inspect("cookie")).labels == {"colour": "red"}


async def test_strict_refuses_any_rebase(harness: Harness) -> None:
    created = await harness.commit(await harness.draft())
    base = await harness.handle(created.id)
    await harness.commit(await harness.set_labels(base, colour="red"))
    with pytest.raises(Conflict):
        await harness.commit(await harness.set_labels(base, taste="sweet"), strict=True)


async def test_two_branches_of_one_creation_make_one_container(harness: Harness) -> None:
    handle = await harness.draft(name="cookie")
    await harness.commit(await harness.set_labels(handle, colour="red"))
    with pytest.raises(Conflict):
        await harness.commit(await harness.set_labels(handle, colour="blue"))


async def test_a_handle_to_a_removed_container_is_not_found(harness: Harness) -> None:
    created = await harness.commit(await harness.draft())
    handle = await harness.handle(created.id)
    await harness.remove(created.id)
    with pytest.raises(NotFound):
        await harness.set_labels(handle, colour="red")
    with pytest.raises(NotFound):
        await harness.commit(handle)


async def test_a_branch_of_its_creation_does_not_bring_a_removed_container_back(harness: Harness) -> None:
    handle = await harness.draft(name="cookie")
    created = await harness.commit(handle)
    await harness.remove(created.id)
    with pytest.raises(NotFound):
        await harness.commit(await harness.set_labels(handle, colour="red"))
    assert (await harness.commit(handle)).id == created.id
    with pytest.raises(NotFound):
        await harness.inspect(created.id)
    assert (await harness.commit(await harness.draft(name="cookie"))).id != created.id


async def test_fifty_callers_that_touch_different_things_all_succeed(harness: Harness) -> None:
    created = await harness.commit(await harness.draft())
    base = await harness.handle(created.id)
    handles = [await harness.set_labels(base, **{f"k{index}": "v"}) for index in range(50)]
    await asyncio.gather(*(harness.commit(handle) for handle in handles))
    assert len((await harness.inspect(created.id)).labels) == 50


async def test_fifty_callers_that_join_different_networks_all_succeed(harness: Harness) -> None:
    for state in ("created", "running"):
        name = f"is-{state}"
        await (harness.run(name=name) if state == "running" else harness.commit(await harness.draft(name=name)))
        base = await harness.handle(name)
        networks = [f"{state}-{index}" for index in range(50)]

        async def join(network: str, base: str = base) -> None:
            await harness.network(network)
            joined = await harness.pl.network.join(ME, n.JoinNetwork(handle=base, network=network))
            bound = await harness.pl.network.bind(ME, n.BindNetwork(handle=joined.handle))
            await harness.commit(bound.handle)

        await asyncio.gather(*map(join, networks))
        found = await harness.inspect(name)
        assert {endpoint.network for endpoint in found.endpoints if endpoint.state == "bound"} == set(networks)
        (process,) = [one for one in harness.world.live() if one.spec.id == found.id]
        assert len(process.links) == 50


async def test_fifty_callers_that_rename_one_wins(harness: Harness) -> None:
    created = await harness.commit(await harness.draft())
    base = await harness.handle(created.id)
    handles = [await harness.rename(base, f"name{index}") for index in range(50)]
    answers = await asyncio.gather(*(harness.commit(handle) for handle in handles), return_exceptions=True)
    lost = [answer for answer in answers if isinstance(answer, Conflict)]
    assert len(lost) == 49
    assert all(answer.facts["collisions"] == ("name",) for answer in lost)


async def test_fifty_callers_that_want_one_name_one_wins(harness: Harness) -> None:
    handles = [await harness.draft(name="cookie") for _ in range(50)]
    answers = await asyncio.gather(*(harness.commit(handle) for handle in handles), return_exceptions=True)
    assert sum(isinstance(answer, AlreadyExists) for answer in answers) == 49
    assert len(await harness.store.range("/v/default/containers/")) == 1


class TestHandles:
    async def test_tampered_foreign_and_truncated_ones_are_refused_alike(self, harness: Harness) -> None:
        handle = await harness.draft()
        network = await harness.network()
        pin = (await harness.pl.network.handle(ME, n.NetworkRef(ref=network.id))).handle
        vch = (await harness.pl.service.get_vch(ME, VchRef(ref="default"))).id
        loop = asyncio.get_running_loop()

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def wrong(data: st.DataObject) -> None:
            at = data.draw(st.integers(0, len(handle) - 1))
            kind = data.draw(st.sampled_from(["flip", "cut", "text", "foreign"]))
            tampered = {
                "flip": handle[:at] + ("A" if handle[at] != "A" else "B") + handle[at + 1 :],
                "cut": handle[:at],
                "text": data.draw(st.text(max_size=80)),
                "foreign": pin,
            }[kind]
            sealer = harness.pl.execution._drafts.sealer  # type: ignore[attr-defined]
            with pytest.raises(HandleInvalid) as caught:
                asyncio.run_coroutine_threadsafe(sealer.open_draft(vch, tampered), loop).result()
            assert caught.value.detail == HandleInvalid().detail
            assert caught.value.facts == {}

        await asyncio.to_thread(wrong)

    async def test_a_handle_of_another_tenant_is_refused(self, harness: Harness) -> None:
        await ensure_vch(Records(harness.store), "other", "now")
        handle = await harness.draft()
        with pytest.raises(HandleInvalid):
            await harness.pl.execution.commit(Caller(vch="other"), e.Commit(handle=handle))

    async def test_a_handle_survives_a_restart(self, harness: Harness) -> None:
        handle = await harness.draft(name="cookie")
        await harness.crash()
        assert (await harness.commit(handle)).state == "created"

    async def test_a_key_that_another_process_has_made_since_opens_handles(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The one that has run for longer need not start anew for it."""
        before, today = await harness.draft(name="before"), time.time
        monkeypatch.setattr(time, "time", lambda: today() + ROTATE_SECONDS)
        other = await harness.another()
        monkeypatch.setattr(time, "time", today)
        for one, another in ((harness, other), (other, harness)):
            handle = await another.set_state(await one.draft(name=f"c{id(one)}"), "running")
            assert (await one.commit(handle)).state == "running"
        assert (await other.commit(before)).state == "created"
        await other.stop()

    async def test_a_process_that_runs_for_long_makes_new_keys(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, today = await harness.draft(name="before"), time.time
        monkeypatch.setattr(time, "time", lambda: today() + ROTATE_SECONDS)
        handle = await harness.draft(name="after")
        ring = await harness.store.get(keys.KEY_RING)
        assert ring is not None
        assert len(decode(KeyRing, ring.value).keys) == 2
        assert (await harness.commit(handle)).state == (await harness.commit(before)).state == "created"

    async def test_a_handle_does_not_show_what_it_carries(self, harness: Harness) -> None:
        handle = await harness.draft(name="topsecretname")
        raw = base64.urlsafe_b64decode(handle + "=" * (-len(handle) % 4))
        assert b"topsecretname" not in raw

    async def test_too_many_changes_are_refused(self, harness: Harness) -> None:
        handle = await harness.draft()
        with pytest.raises(PortlayerError) as caught:
            for _ in range(100):
                handle = await harness.set_labels(handle, big="x" * 60_000)
        assert caught.value.code == "InvalidArgument"


class TestAddresses:
    async def test_binding_twice_gives_the_same_address(self, harness: Harness) -> None:
        await harness.network()
        created = await harness.pl.execution.create(
            ME, e.Create(image="busybox", process=e.ProcessRequest(args=("true",)))
        )
        joined = await harness.pl.network.join(ME, n.JoinNetwork(handle=created.handle, network="gibson_network"))
        first = await harness.pl.network.bind(ME, n.BindNetwork(handle=joined.handle))
        second = await harness.pl.network.bind(ME, n.BindNetwork(handle=joined.handle))
        assert first.endpoints[0].address == second.endpoints[0].address
        assert first.handle != second.handle
        await harness.pl.execution.discard(ME, e.Discard(handle=first.handle))
        await harness.commit(second.handle)
        assert await leases(harness) == 0

    async def test_discard_gives_the_lease_back(self, harness: Harness) -> None:
        network = await harness.network()
        handle = await harness.draft(network=network.name)
        assert await leases(harness) == 1
        await harness.pl.execution.discard(ME, e.Discard(handle=handle))
        assert await leases(harness) == 0
        assert (await harness.pl.network.get_network(ME, n.NetworkRef(ref=network.id))).allocated_addresses == 0
        with pytest.raises(Conflict, match="bind again"):
            await harness.commit(handle)

    async def test_out_of_addresses(self, harness: Harness) -> None:
        subnet = n.Subnet(subnet="10.99.0.0/29")
        await harness.network("small", subnets=(subnet,))
        for _ in range(5):
            await harness.commit(await harness.draft(network="small"))
        with pytest.raises(ResourceExhausted):
            await harness.draft(network="small")
        one = (await harness.pl.execution.list_containers(ME, e.ListContainers())).containers[0]
        await harness.remove(one.id)
        again = await harness.commit(await harness.draft(network="small"))
        assert again.endpoints[0].address == one.endpoints[0].address

    async def test_an_address_that_is_asked_for_may_be_taken(self, harness: Harness) -> None:
        await harness.network(subnets=(n.Subnet(subnet="10.99.0.0/24"),))
        for attempt in range(2):
            handle = await harness.draft()
            join = n.JoinNetwork(handle=handle, network="gibson_network", address="10.99.0.77")
            handle = (await harness.pl.network.join(ME, join)).handle
            if attempt:
                with pytest.raises(AlreadyExists):
                    await harness.pl.network.bind(ME, n.BindNetwork(handle=handle))
                return
            bound = await harness.pl.network.bind(ME, n.BindNetwork(handle=handle))
            assert bound.endpoints[0].address == "10.99.0.77"
            await harness.commit(bound.handle)

    async def test_many_binds_at_once_never_share_an_address(self, harness: Harness) -> None:
        await harness.network()
        handles = await asyncio.gather(*(harness.draft(network="gibson_network") for _ in range(40)))
        committed = await asyncio.gather(*(harness.commit(handle) for handle in handles))
        assert len({one.endpoints[0].address for one in committed}) == 40

    async def test_joined_but_not_bound_has_no_link(self, harness: Harness) -> None:
        await harness.network()
        handle = await harness.draft()
        join = n.JoinNetwork(handle=handle, network="gibson_network")
        handle = (await harness.pl.network.join(ME, join)).handle
        committed = await harness.commit(await harness.set_state(handle, "running"))
        assert committed.endpoints[0].state == "joined"
        assert committed.endpoints[0].address == ""
        assert not harness.world.live(committed.id)[0].links

    async def test_a_running_container_is_bound_and_unbound(self, harness: Harness) -> None:
        await harness.network()
        running = await harness.run("sleep", "1000")
        handle = await harness.handle(running.id)
        handle = (await harness.pl.network.join(ME, n.JoinNetwork(handle=handle, network="gibson_network"))).handle
        await harness.commit((await harness.pl.network.bind(ME, n.BindNetwork(handle=handle))).handle)
        assert len(harness.world.live(running.id)[0].links) == 1
        leave = n.LeaveNetwork(handle=await harness.handle(running.id), network="gibson_network")
        await harness.commit((await harness.pl.network.leave(ME, leave)).handle)
        assert not harness.world.live(running.id)[0].links
        await harness.pl.network.delete_network(ME, n.NetworkRef(ref="gibson_network"))
        assert harness.world.networks == {}


class TestStates:
    async def test_the_life_of_a_container(self, harness: Harness) -> None:
        created = await harness.commit(await harness.draft("sleep", "1000", name="cookie"))
        assert created.state == "created"
        for state in ("running", "paused", "running", "stopped", "running"):
            handle = await harness.set_state_at_once(await harness.handle("cookie"), state)
            assert (await harness.commit(handle)).state == state
        with pytest.raises(InvalidState):
            await harness.remove("cookie")
        await harness.remove("cookie", force=True)
        assert harness.world.incarnations == {}
        assert harness.world.rootfs == {}

    @pytest.mark.parametrize("state", ["running", "paused"])
    async def test_what_waits_for_nothing_takes_no_time_to_wait(self, harness: Harness, state: str) -> None:
        with pytest.raises(InvalidArgument) as refused:
            await harness.set_state(await harness.draft(), state, timeout_seconds=5)
        assert refused.value.facts["pointer"] == "/timeoutSeconds"

    async def test_an_exit_is_seen_with_its_code(self, harness: Harness) -> None:
        running = await harness.run("sh", "-c", "exit 7")
        assert (await harness.wait(running.id)).exit_code == 7

    async def test_a_program_that_is_not_there_is_a_result(self, harness: Harness) -> None:
        result = await harness.run("nosuchprogram")
        assert (result.state, result.exit_code) == ("stopped", 127)
        assert result.start_error is not None

    async def test_a_kill_behind_our_back_is_seen(self, harness: Harness) -> None:
        running = await harness.run("sleep", "1000")
        harness.world.kill(harness.world.live(running.id)[0].id)
        assert (await harness.wait(running.id)).exit_code == 137

    async def test_remove_on_exit(self, harness: Harness) -> None:
        running = await harness.run("true", remove_on_exit=True)
        assert (await harness.wait(running.id, "removed")).state == "removed"

    async def test_on_failure_counts(self, harness: Harness) -> None:
        policy = e.RestartPolicy(name="on-failure", maximum_retry_count=2)
        running = await harness.run("sh", "-c", "exit 1", restart_policy=policy)
        async with asyncio.timeout(20):
            while (seen := await harness.inspect(running.id)).restarts < 2 or seen.state != "stopped":
                await asyncio.sleep(0.01)
        assert seen.revision == running.revision

    async def test_a_stop_while_it_waits_to_be_restarted_holds(
        self, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(observer, "FIRST_BACKOFF_SECONDS", 0.5)
        running = await harness.run("sh", "-c", "exit 1", restart_policy=e.RestartPolicy(name="always"))
        await harness.wait(running.id)
        await harness.commit(await harness.set_state(await harness.handle(running.id), "stopped"))
        async with asyncio.timeout(20):
            while harness.pl.execution._observer._reacting:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
        seen = await harness.inspect(running.id)
        assert (seen.state, seen.restarts) == ("stopped", 0)
        events = await harness.store.range(keys.entities("default", "events"))
        assert sum(b'"container.exited"' in row.value for row in events) == 1

    async def test_a_stop_is_not_restarted(self, harness: Harness) -> None:
        running = await harness.run("sleep", "1000", restart_policy=e.RestartPolicy(name="always"))
        await harness.commit(await harness.set_state(await harness.handle(running.id), "stopped", timeout_seconds=0))
        harness.failpoints.seen.clear()
        other = await harness.run("true")
        await harness.wait(other.id)
        assert (await harness.inspect(running.id)).state == "stopped"

    async def test_exits_of_the_meantime_are_known_after_a_restart(self, harness: Harness) -> None:
        dying, living = await harness.run("sleep", "1000"), await harness.run("sleep", "1000")
        await harness.stop()
        harness.world.kill(harness.world.live(dying.id)[0].id)
        await harness.start()
        assert (await harness.wait(dying.id)).exit_code == 137
        assert (await harness.inspect(living.id)).state == "running"

    async def test_after_a_reboot_all_are_stopped(self, harness: Harness) -> None:
        running = await harness.run("sleep", "1000")
        await harness.stop()
        harness.world.reboot()
        await harness.start()
        await harness.wait(running.id)
        assert (await harness.run("true")).state == "running"


class TestFailures:
    STEPS = ("network.make_network", "storage.make_rootfs", "storage.make_volume", "execution.prepare", "network.plug")

    @pytest.mark.parametrize("step", STEPS)
    async def test_a_failing_step_leaves_nothing_and_is_named(self, harness: Harness, step: str) -> None:
        await harness.network()
        await harness.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
        before = {row.key for row in await harness.store.range("/v/default/") if "/events/" not in row.key}
        handle = await harness.draft(network="gibson_network", volume="jar", name="cookie")
        handle = await harness.set_state(handle, "running")
        harness.world.fail(step, SubstrateFailed("the host says no"))
        with pytest.raises(SubstrateFailed, match="the host says no") as caught:
            await harness.commit(handle)
        assert caught.value.facts["step"]
        assert harness.world.incarnations == {}
        assert harness.world.rootfs == {}
        after = {row.key for row in await harness.store.range("/v/default/") if "/events/" not in row.key}
        assert {key for key in after - before if "/leases/" not in key and "/addresses/" not in key} <= {
            key for key in after if "/hosts/" in key
        }
        assert (await harness.commit(handle)).state == "running"

    async def test_used_things_cannot_be_deleted(self, harness: Harness) -> None:
        await harness.network()
        await harness.pl.storage.create_volume(ME, s.CreateVolume(name="jar"))
        one = await harness.commit(await harness.draft(network="gibson_network", volume="jar"))
        with pytest.raises(InUse):
            await harness.pl.network.delete_network(ME, n.NetworkRef(ref="gibson_network"))
        with pytest.raises(InUse):
            await harness.pl.storage.delete_volume(ME, s.VolumeRef(ref="jar"))
        with pytest.raises(InUse):
            await harness.pl.storage.delete_image(ME, s.DeleteImage(ref="busybox"))
        await harness.remove(one.id)
        await harness.pl.network.delete_network(ME, n.NetworkRef(ref="gibson_network"))
        await harness.pl.storage.delete_volume(ME, s.VolumeRef(ref="jar"))
        await harness.pl.storage.delete_image(ME, s.DeleteImage(ref="busybox"))
        assert harness.world.layers == {}


async def test_several_containers_in_one_commit(harness: Harness) -> None:
    await harness.network()
    handles = [
        await harness.set_state(await harness.draft(network="gibson_network", name=f"c{index}"), "running")
        for index in range(5)
    ]
    harness.world.fail("execution.prepare", SubstrateFailed("no"), nth=5)
    with pytest.raises(SubstrateFailed):
        await harness.pl.execution.commit(ME, e.Commit(handles=tuple(handles)))
    assert harness.world.incarnations == {}
    done = await harness.pl.execution.commit(ME, e.Commit(handles=tuple(handles)))
    assert isinstance(done, e.CommittedMany)
    assert [one.state for one in done.containers] == ["running"] * 5
    assert await harness.pl.execution.commit(ME, e.Commit(handles=tuple(handles))) == done
