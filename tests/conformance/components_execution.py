"""What execution keeps of interfaces/execution.py, wherever it is."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import pytest_asyncio
from driver import Driver

from portlayer.model import execution as e
from portlayer.model.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    HandleInvalid,
    InvalidArgument,
    InvalidState,
    NotFound,
)


class ExecutionSuite:
    @pytest_asyncio.fixture(loop_scope="module")
    async def driver(self, driver: Driver) -> Driver:
        """With the image busybox."""
        await driver.image()
        return driver

    async def test_nothing_is_there_before_its_commit(self, driver: Driver) -> None:
        handle = await driver.draft(name="one")
        with pytest.raises(NotFound):
            await driver.inspect("one")
        done = await driver.commit(handle)
        found = await driver.inspect("one")
        assert (found.id, found.state, found.revision) == (done.id, "created", done.revision)
        assert await driver.inspect(done.id) == found

    async def test_a_handle_says_what_it_would_do(self, driver: Driver) -> None:
        done = await driver.commit(await driver.draft(name="one"))
        handle = await driver.rename(await driver.set_labels(await driver.handle("one"), colour="blue"), "two")
        seen = await driver.pl.execution.inspect(driver.me, e.Inspect(handle=handle))
        assert seen.current is not None
        assert (seen.base, seen.current.name, seen.current.labels) == (done.revision, "one", {})
        assert (seen.proposed.name, seen.proposed.labels, len(seen.changes)) == ("two", {"colour": "blue"}, 2)
        assert (await driver.inspect("one")).labels == {}

    async def test_a_container_has_the_image_name_that_it_was_asked_for_by(self, driver: Driver) -> None:
        for name in ("busybox", "another"):
            image = await driver.image(name)
        await driver.commit(await driver.draft(name="one", image="another"))
        await driver.commit(await driver.draft(name="two", image=image.id))
        assert (await driver.inspect("one")).image == "another:latest"
        assert (await driver.inspect("two")).image in image.names

    async def test_a_handle_is_committed_once(self, driver: Driver) -> None:
        handle = await driver.set_state(await driver.draft(name="one"), "running")
        first = await driver.commit(handle)
        await driver.commit(await driver.set_labels(await driver.handle("one"), a="1"))
        assert await driver.commit(handle) == first
        assert (await driver.inspect("one")).labels == {"a": "1"}

    async def test_the_same_facet_collides_and_others_do_not(self, driver: Driver) -> None:
        await driver.commit(await driver.draft(name="one"))
        mine, yours = await driver.handle("one"), await driver.handle("one")
        await driver.commit(await driver.set_labels(yours, colour="blue"))
        with pytest.raises(Conflict) as caught:
            await driver.commit(await driver.set_labels(mine, colour="red"))
        assert caught.value.facts["collisions"] == ("labels/colour",)
        await driver.commit(await driver.set_labels(mine, flavour="mint"))
        assert (await driver.inspect("one")).labels == {"colour": "blue", "flavour": "mint"}
        with pytest.raises(Conflict):
            await driver.commit(await driver.set_labels(mine, shape="round"), strict=True)

    async def test_of_many_commits_at_once_one_wins(self, driver: Driver) -> None:
        await driver.commit(await driver.draft(name="one"))
        handle = await driver.handle("one")
        handles = [await driver.set_labels(handle, colour=str(number)) for number in range(8)]
        ended = await asyncio.gather(*(driver.commit(each) for each in handles), return_exceptions=True)
        assert sorted(type(each).__name__ for each in ended) == ["Committed", *["Conflict"] * 7]

    async def test_several_as_one_change(self, driver: Driver) -> None:
        handles = tuple([await driver.draft(name=name) for name in ("one", "two")])
        done = await driver.pl.execution.commit(driver.me, e.Commit(handles=handles))
        assert isinstance(done, e.CommittedMany)
        taken = tuple([await driver.draft(name=name) for name in ("three", "two")])
        with pytest.raises(AlreadyExists):
            await driver.pl.execution.commit(driver.me, e.Commit(handles=taken))
        listed = await driver.pl.execution.list_containers(driver.me, e.ListContainers())
        assert {each.name for each in listed.containers} == {"one", "two"}

    async def test_a_life(self, driver: Driver) -> None:
        await driver.run("sleep", "1000", name="one")
        await driver.commit(await driver.set_state(await driver.handle("one"), "paused"))
        assert (await driver.inspect("one")).state == "paused"
        await driver.commit(await driver.set_state(await driver.handle("one"), "running"))
        assert (await driver.wait("one", "running")).state == "running"
        with pytest.raises(InvalidState):
            await driver.remove("one")
        stopping = await driver.set_state(await driver.handle("one"), "stopped", timeout_seconds=0)
        assert (await driver.commit(stopping)).exit_code == 137
        assert (await driver.inspect("one")).state == "stopped"
        await driver.remove("one")
        with pytest.raises(NotFound):
            await driver.inspect("one")

    async def test_signals_and_waits(self, driver: Driver) -> None:
        await driver.run("sleep", "1000", name="one")
        waiting = asyncio.ensure_future(driver.wait("one"))
        gone = asyncio.ensure_future(driver.wait("one", "removed"))
        with pytest.raises(DeadlineExceeded):
            await driver.pl.execution.wait(driver.me, e.Wait(ref="one", timeout_seconds=0.01))
        await driver.pl.execution.signal(driver.me, e.Signal(ref="one", signal="SIGKILL"))
        assert (await waiting).exit_code == 137
        with pytest.raises(InvalidState):
            await driver.pl.execution.signal(driver.me, e.Signal(ref="one", signal="SIGKILL"))
        with pytest.raises(InvalidArgument):
            await driver.pl.execution.signal(driver.me, e.Signal(ref="one", signal="SIGNONE"))
        await driver.remove("one")
        with contextlib.suppress(NotFound):  # who was cut off in the middle, and asked again, finds it gone
            await gone

    async def test_a_wait_tells_the_end_of_what_ran_when_it_began(self, driver: Driver) -> None:
        """Whoever starts it again at once."""
        await driver.run("sleep", "1000", name="one")
        waiting = asyncio.ensure_future(driver.wait("one"))
        while not waiting.done():
            for state in ("stopped", "running"):
                await driver.commit(await driver.set_state_at_once(await driver.handle("one"), state))
        assert await waiting == e.Waited(exit_code=137, state="stopped")

    async def test_what_cannot_start_says_why(self, driver: Driver) -> None:
        done = await driver.run("elmo", name="one")
        assert done.exit_code == 127
        assert "elmo" in (done.start_error or "")

    async def test_a_restart_policy_is_kept(self, driver: Driver) -> None:
        policy = e.RestartPolicy(name="on-failure", maximum_retry_count=1)
        handle = await driver.draft("sh", "-c", "exit 3", name="one")
        request = e.SetRestartPolicy(handle=handle, restart_policy=policy)
        handle = (await driver.pl.execution.set_restart_policy(driver.me, request)).handle
        await driver.commit(await driver.set_state(handle, "running"))
        async with asyncio.timeout(20):
            while (found := await driver.inspect("one")).restarts < 1 or found.state != "stopped":
                await asyncio.sleep(0.01)
        assert (found.restart_policy, found.exit_code) == (policy, 3)

    async def test_resources_are_changed_whole(self, driver: Driver) -> None:
        await driver.run("sleep", "1000", name="one", resources=e.Resources(pids=7))
        request = e.SetResources(handle=await driver.handle("one"), resources=e.Resources(memory_bytes=64 << 20))
        await driver.commit((await driver.pl.execution.set_resources(driver.me, request)).handle)
        assert (await driver.inspect("one")).resources == e.Resources(memory_bytes=64 << 20)

    async def test_lists_are_filtered_and_paged(self, driver: Driver) -> None:
        for number in range(3):
            await driver.commit(await driver.draft(name=f"c{number}", labels={"odd": str(number % 2)}))
        await driver.commit(await driver.set_state(await driver.handle("c1"), "running"))

        async def names(**fields: object) -> set[str]:
            request = e.ListContainers(**fields)  # type: ignore[arg-type]
            return {each.name for each in (await driver.pl.execution.list_containers(driver.me, request)).containers}

        assert await names(label=("odd=0",)) == {"c0", "c2"}
        assert await names(state="running") == {"c1"}
        assert await names(name="c2") == {"c2"}
        seen, after = set(), None
        for _ in range(3):
            request = e.ListContainers(limit=1, after=after)
            page = await driver.pl.execution.list_containers(driver.me, request)
            seen |= {each.name for each in page.containers}
            after = page.next
        assert (seen, after) == ({"c0", "c1", "c2"}, None)

    async def test_what_is_no_handle_and_what_is_removed(self, driver: Driver) -> None:
        with pytest.raises(HandleInvalid):
            await driver.commit("nonsense")
        await driver.commit(await driver.draft(name="one"))
        handle = await driver.set_labels(await driver.handle("one"), a="1")
        await driver.remove("one")
        with pytest.raises(NotFound):
            await driver.commit(handle)
        with pytest.raises(NotFound):
            await driver.pl.execution.create(driver.me, e.Create(image="absent"))

    async def test_a_discard_gives_back_and_may_be_asked_twice(self, driver: Driver) -> None:
        network = await driver.network()
        handle = await driver.draft(network=network.name)
        for _ in range(2):
            await driver.pl.execution.discard(driver.me, e.Discard(handle=handle))
