"""Commits over etcd: some of what is asked of every store, and the kills that meet each of the three transactions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import etcdlab
import pytest
from commit import test_commit, test_kill
from harness import Harness, harness_over

from portlayer.compose import Settings
from portlayer.interfaces.store import Store
from portlayer.stores.etcd import EtcdStore


@pytest.fixture
async def harness(etcd: etcdlab.Cluster, tmp_path: Path, settings: Settings) -> AsyncIterator[Harness]:
    """A port layer on the memory substrate, over etcd, with the image busybox."""
    prefix = uuid.uuid4().hex

    async def open_store() -> Store:
        return await EtcdStore.open(etcd.access, prefix)

    async with harness_over(open_store, tmp_path, settings) as harness:
        yield harness
    await etcdlab.wipe(etcd.access, prefix)


test_nothing_happens_before_commit = test_commit.test_nothing_happens_before_commit
test_the_same_handle_commits_once = test_commit.test_the_same_handle_commits_once
test_the_same_handle_at_the_same_time_acts_once = test_commit.test_the_same_handle_at_the_same_time_acts_once
test_overlapping_commits_collide_by_name = test_commit.test_overlapping_commits_collide_by_name
test_fifty_callers_that_touch_different_things_all_succeed = (
    test_commit.test_fifty_callers_that_touch_different_things_all_succeed
)
test_fifty_callers_that_want_one_name_one_wins = test_commit.test_fifty_callers_that_want_one_name_one_wins
test_several_containers_in_one_commit = test_commit.test_several_containers_in_one_commit


@pytest.mark.parametrize("name", ["create and start", "several", "remove with its volume", "delete a network"])
async def test_kill_anywhere(harness: Harness, caplog: pytest.LogCaptureFixture, name: str) -> None:
    await test_kill.test_kill_anywhere(harness, caplog, name)
