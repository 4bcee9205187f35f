"""What tests look at a host with."""

from __future__ import annotations

import threading
from pathlib import Path

import hoststate
import pytest


def test_groups_may_go_while_they_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hoststate, "CGROUPS", str(tmp_path))
    stays = tmp_path / "cpu" / "portlayer-1"
    stays.mkdir(parents=True)
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            for name in ("a", "b", "c"):
                (tmp_path / name / "portlayer-2").mkdir(parents=True)
            for name in ("a", "b", "c"):
                (tmp_path / name / "portlayer-2").rmdir()
                (tmp_path / name).rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        seen = [hoststate.cgroups() for _ in range(2000)]
    finally:
        over.set()
        thread.join()
    assert all(str(stays) in found for found in seen)
