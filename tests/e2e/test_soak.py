"""`make soak`, short: mixed work while the server is killed; each outcome is right, and nothing is left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_short_soak(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ["--cycles", "62", "--kills", "3", "--seed", "1", "--round", "31", "--json", str(file)]
    ran = subprocess.run(
        [sys.executable, "-m", "soak", *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(file.read_bytes())
    assert (result["done"], len(result["recoveries"]), result["wrong"]) == (62, 3, [])
