"""The demo tells the same story whoever runs where, on real containers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demo" / "demo.py"


@pytest.mark.parametrize("topology", ["together", "apart", "storage-apart", "two-hosts", "moving"])
def test_the_demo_is_the_same_in_every_topology(topology: str) -> None:
    command = (sys.executable, str(DEMO), "--topology", topology)
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "Done, and nothing is left behind" in done.stdout
    assert ("a handle from before the move is committed after it" in done.stdout) == (topology == "moving")
    assert ("the same handle commits" in done.stdout) == (topology == "two-hosts")
