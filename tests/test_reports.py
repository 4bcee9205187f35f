"""Of failures, as pytest makes them here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LITTERS = """
import ast

over = False

class Litter:
    def __init__(self):
        self.mine = self

    def __del__(self):
        ast.parse("(a, b)")
        if not over:
            Litter()

def test_that_fails():
    Litter()
    assert "this" == "that"

def test_that_comes_after_it():
    global over
    over = True
"""


def test_a_failure_is_told_while_garbage_is_about_whose_end_parses_something(tmp_path: Path) -> None:
    file = tmp_path / "test_litters.py"
    file.write_text(LITTERS + "much = (1, 2, 3)\n" * 2000)  # to parse it takes a while
    script = f"import pytest, reports; raise SystemExit(pytest.main(['-q', {str(file)!r}], [reports.Reports()]))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "AssertionError: assert 'this' == 'that'" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
