"""Every piece of configuration in the pages is one that a server takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from portlayer.compose.settings import read_settings

DOCS = Path(__file__).parents[2] / "docs"
PARTS = {
    "[hosts.": '[processes.west]\nhost = "west"\ncomponents = ["storage", "network", "execution", "interaction"]\n',
    "[tls]": '[processes.main]\naddress = "https://box:7443"\n',
}
"""What stands beside a piece that begins so."""


def pieces() -> list[tuple[str, str]]:
    """Page and text of each block that is a configuration: it is fenced as `toml`, or indented and begins with a table
    or the file's name."""
    found = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text()
        found += [(page.name, block) for block in re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
        for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE):
            piece = "\n".join(line[4:] for line in block.splitlines()).strip()
            if re.match(r"# topology\.toml$|\[[a-zA-Z.-]+\]$", piece, re.MULTILINE):
                found.append((page.name, piece))
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=page) for page, text in pieces()])
def test_it_is_taken(text: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    beside = [part for start, part in PARTS.items() if text.startswith(start)]
    config.write_text("\n".join([text, *beside]))
    read_settings({}, config)  # which refuses what it does not know


def test_there_are_some() -> None:
    assert {"access.md", "observing.md", "overload.md", "store.md", "topologies.md"} <= {page for page, _ in pieces()}
