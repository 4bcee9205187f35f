"""The units for systemd, as systemd itself judges them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this host has no systemd")
def test_systemd_finds_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/usr/bin/portlayer", "/bin/true")  # where it is installed is the host's matter
        (tmp_path / unit.name.replace("@.", "@rest.")).write_text(text)
    units = [str(unit) for unit in tmp_path.iterdir()]
    said = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


def test_containers_outlive_the_service() -> None:
    for unit in UNITS.glob("*.service"):
        lines = unit.read_text().splitlines()
        assert "KillMode=process" in lines
        assert not [line for line in lines if line.startswith(("Protect", "Private", "Restrict", "SystemCall"))]
