"""A page of docs/ as something to run: its `sh` blocks in their order, and what each says that it prints.

```sh            commands; ```sh west: on the host called west
```output        what the block before prints: `...` stands for any text, alone on a line for any lines
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Commands of one block. line: where it stands. output: what it says that they print; None: it says nothing."""

    line: int
    host: str
    commands: str
    output: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of *page*. Raises ValueError for a fence that is neither commands nor their output."""
    text = page.read_text()
    found: list[Block] = []
    for fence in _FENCE.finditer(text):
        kind, _, host = fence[1].partition(" ")
        line = text.count("\n", 0, fence.start()) + 1
        if kind == "sh":
            found.append(Block(line, host, fence[2], None))
        elif kind == "output" and found and found[-1].output is None:
            last = found.pop()
            found.append(Block(last.line, last.host, last.commands, fence[2]))
        else:
            raise ValueError(f"{page}:{line} is neither sh nor the output of one")
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether *printed* is what the page says; how much space there is between words does not matter."""
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            words = (re.escape(word).replace(re.escape("..."), ".*?") for word in line.split())
            pattern += r"[^\S\n]*" + r"[^\S\n]+".join(words) + r"[^\S\n]*\n"
    return re.fullmatch(pattern, printed) is not None
