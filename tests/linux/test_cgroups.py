"""Control groups v2, and what v1 cannot show on a real host, on trees of ordinary files that look like them.

v1 itself runs in every test that starts a container here.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from portlayer.model.errors import ResourceExhausted
from portlayer.model.execution import Resources
from portlayer.substrates.linux import cgroups
from portlayer.substrates.linux.cgroups import SplitCgroups, UnifiedCgroups, quota

PARENT = "portlayer-0000beef"


class Tree:
    """A directory with the files of a control group hierarchy."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def group(self, path: str, files: dict[str, str]) -> Path:
        group = self.root / path
        group.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (group / name).write_text(content)
        return group


LIMITS = {"cpu.max": "max 100000\n", "memory.max": "max\n", "pids.max": "max\n"}
STATE = {"cgroup.procs": "", "cgroup.events": "populated 0\nfrozen 0\n", "cgroup.freeze": "0\n", "cgroup.kill": ""}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.group("", {"cgroup.controllers": "cpuset cpu io memory hugetlb pids", "cgroup.subtree_control": "memory pids"})
    return tree


@pytest.fixture
def unified(tree: Tree) -> UnifiedCgroups:
    found = cgroups.detect("0000beef", tree.root)
    assert isinstance(found, UnifiedCgroups)
    return found


def test_the_parent_is_told_of_while_it_is_there(tree: Tree, unified: UnifiedCgroups) -> None:
    assert unified.parent() == ""
    tree.group(PARENT, {})
    assert (unified.parent(), unified.names()) == (f"/{PARENT}", [])
    unified.close()
    assert unified.parent() == ""


def test_v2_enables_what_is_available_and_not_enabled(tree: Tree, unified: UnifiedCgroups) -> None:
    tree.group(PARENT, {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "memory pids"})
    tree.group("", {"cgroup.controllers": "cpu memory hugetlb", "cgroup.subtree_control": "memory"})
    unified.start()
    assert (tree.root / "cgroup.subtree_control").read_text() == "+cpury"  # an ordinary file keeps what is longer
    assert (tree.root / PARENT / "cgroup.subtree_control").read_text() == "+cpury pids"


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(cpus=1.5, memory_bytes=64 << 20, pids=20), ["150000 100000", "67108864", "0", "20"]),
        (Resources(), ["max 100000", "max", "max", "max"]),
        (Resources(cpus=0.0001), ["1000 100000", "max", "max", "max"]),
    ],
)
def test_v2_limits(tree: Tree, unified: UnifiedCgroups, resources: Resources, expected: list[str]) -> None:
    names = ("cpu.max", "memory.max", "memory.swap.max", "pids.max")
    group = tree.group(f"{PARENT}/a", {**STATE, **dict.fromkeys(names, ""), "memory.current": "1000"})
    unified.limit("a", resources)
    assert [(group / name).read_text() for name in names] == expected


def test_v2_without_swap(tree: Tree, unified: UnifiedCgroups) -> None:
    group = tree.group(f"{PARENT}/a", {**STATE, **dict.fromkeys(("cpu.max", "memory.max", "pids.max"), "")})
    unified.limit("a", Resources(memory_bytes=1000))
    assert (group / "memory.max").read_text() == "1000"
    assert not (group / "memory.swap.max").exists()


def test_v2_refuses_what_would_kill(tree: Tree, unified: UnifiedCgroups) -> None:
    group = tree.group(f"{PARENT}/a", {**STATE, **LIMITS, "memory.current": str(64 << 20)})
    with pytest.raises(ResourceExhausted):
        unified.limit("a", Resources(memory_bytes=32 << 20))
    assert (group / "memory.max").read_text() == "max\n"


def test_v2_freezes(tree: Tree, unified: UnifiedCgroups) -> None:
    group = tree.group(f"{PARENT}/a", STATE)
    assert unified.state("a") == "thawed"
    unified.freeze("a", frozen=True)
    assert unified.state("a") == "freezing"
    (group / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert unified.state("a") == "frozen"
    unified.freeze("a", frozen=False)
    (group / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert unified.state("a") == "thawed"


def test_v2_kills_all_at_once(tree: Tree, unified: UnifiedCgroups) -> None:
    group = tree.group(f"{PARENT}/a", STATE)
    unified.kill("a")
    assert (group / "cgroup.kill").read_text() == "1"


def test_v2_counts_below_and_tells_of_memory(tree: Tree, unified: UnifiedCgroups) -> None:
    tree.group(f"{PARENT}/a", {**STATE, "cgroup.procs": "11\n12\n", "memory.events": "low 0\noom 2\noom_kill 0\n"})
    tree.group(f"{PARENT}/a/b/c", {**STATE, "cgroup.procs": "13\n"})
    assert sorted(unified.pids("a")) == [11, 12, 13]
    assert not unified.out_of_memory("a")
    (tree.root / PARENT / "a" / "memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 0\n")
    assert unified.out_of_memory("a")


@pytest.mark.parametrize("layout", ["v2", "v1"])
def test_a_group_that_is_not_there(tmp_path: Path, layout: str) -> None:
    if layout == "v2":
        (tmp_path / "cgroup.controllers").touch()
    found = cgroups.detect("0000beef", tmp_path)
    assert found.layout == layout
    assert found.names() == []
    assert found.pids("a") == []
    assert found.state("a") == "thawed"
    assert not found.out_of_memory("a")
    found.kill("a")
    found.freeze("a", frozen=True)
    assert found.remove("a")
    found.close()


def test_removing_takes_groups_below_along(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    found = cgroups.detect("0000beef", tmp_path)
    (tmp_path / PARENT / "a" / "b" / "c").mkdir(parents=True)
    assert found.names() == ["a"]
    assert found.remove("a")
    assert found.names() == []
    busy = tmp_path / PARENT / "busy"
    busy.mkdir()
    (busy / "cgroup.procs").touch()  # an ordinary file holds its directory as a process holds its group
    assert not found.remove("busy")


def test_a_group_that_somebody_removes_meanwhile() -> None:
    """On this host, where the kernel has words of its own for a group that is just going."""
    found = cgroups.detect(os.urandom(4).hex())
    found.start()
    places = [path / "a" for above in ("", "*/") for path in cgroups.ROOT.glob(f"{above}{found.parent()[1:]}")]
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for place in places:
                place.mkdir()
            for place in places:
                place.rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(3000):
            found.kill("a")
            found.freeze("a", frozen=True)
            assert found.pids("a") == []
    finally:
        over.set()
        thread.join()
        found.close()


def split(root: Path, *controllers: str) -> SplitCgroups:
    for name in controllers:
        (root / name).mkdir()
        (root / name / "cgroup.procs").touch()
    found = cgroups.detect("0000beef", root)
    assert isinstance(found, SplitCgroups)
    return found


def test_v1_layouts(tmp_path: Path) -> None:
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct" / "cgroup.procs").touch()
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    (tmp_path / "unified").mkdir()
    found = split(tmp_path, "memory", "freezer")
    assert found.layout == "hybrid"
    assert not found.counts_swap
    found.start()
    parents = sorted(path.parent.name for path in tmp_path.glob(f"*/{PARENT}"))
    assert parents == ["cpu", "cpu,cpuacct", "freezer", "memory"]  # the first is the second
    assert found.path("a") == f"/{PARENT}/a"


def test_v1_gives_a_new_group_its_processors(tmp_path: Path) -> None:
    found = split(tmp_path, "cpuset")
    (tmp_path / "cpuset" / "cpuset.cpus").write_text("0-3\n")
    (tmp_path / "cpuset" / "cpuset.mems").write_text("0\n")
    parent = tmp_path / "cpuset" / PARENT
    parent.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):
        (parent / name).touch()
    found.start()
    assert (parent / "cpuset.cpus").read_text() == "0-3\n"
    assert (parent / "cpuset.mems").read_text() == "0\n"


@pytest.mark.parametrize(
    ("cpus", "microseconds"), [(1, 100_000), (0.5, 50_000), (0.01, 1_000), (0.0001, 1_000), (64, 6_400_000)]
)
def test_quota(cpus: float, microseconds: int) -> None:
    assert quota(cpus) == microseconds
