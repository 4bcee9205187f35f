"""The pages on metrics and the metrics themselves name the same ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from apart.cluster import opened
from driver import ME

from portlayer.model.storage import Nothing
from portlayer.rest.server import Server

DOCS = Path(__file__).parents[2] / "docs"


def told() -> Iterator[str]:
    """The names in the table, those by which it points to other pages as patterns; `_x` is short for `portlayer_x`."""
    table = (DOCS / "observing.md").read_text().split("## Metrics")[1].split("## ")[0]
    for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE):
        for name in re.findall(r"`([a-z_*]+)`", row):
            yield f"portlayer{name}" if name.startswith("_") else name


@pytest.fixture
async def metrics(tmp_path: Path) -> set[str]:
    """The names of what a process with everything has to say, from the start on."""
    async with opened("all in one", tmp_path) as cluster:
        Server(cluster.served, metrics=cluster.entry.metrics)
        text = await cluster.served.service.metrics(ME, Nothing())
    return set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))


async def test_each_metric_is_in_the_table_and_each_of_the_table_is_there(metrics: set[str]) -> None:
    names = set(told())
    assert len(names) > 20
    whole = {name for name in names if "*" not in name}
    parts = [name.rstrip("*") for name in names - whole]
    assert sorted(whole - metrics) == []
    assert [part for part in parts if not any(name.startswith(part) for name in metrics)] == []
    assert sorted(name for name in metrics - whole if not name.startswith(tuple(parts))) == []
