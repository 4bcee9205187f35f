"""Processes of one port layer that start at once agree on which it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from portlayer.compose import Settings, make_paths

PROCESSES = 4


def test_all_have_one_instance(tmp_path: Path) -> None:
    with ThreadPoolExecutor(PROCESSES) as threads:
        for number in range(50):
            home, together = tmp_path / str(number), Barrier(PROCESSES)

            def start(_: int, home: Path = home, together: Barrier = together) -> str:
                together.wait()
                return make_paths(Settings(state=f"{home}/state", run=f"{home}/run")).instance

            (instance,) = set(threads.map(start, range(PROCESSES)))
            assert len(instance) == 8
            assert [file.name for file in (home / "state").iterdir()] == ["instance"]
