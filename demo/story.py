"""How the demo tells what it does: steps with their times, and what came of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

_WIDTH = 100


class Story:
    """Prints chapters, steps and what is shown."""

    def __init__(self) -> None:
        self.console = Console(width=_WIDTH, highlight=False)
        self._began = time.perf_counter()

    def chapter(self, title: str) -> None:
        """A new part."""
        self.console.print()
        self.console.rule(f"[bold]{title}", align="left", style="dim")

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Do what is inside; say what it was and how long it took."""
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self.console.print(Text(f"  ✘ {what}", style="red"))
            raise
        took = (time.perf_counter() - began) * 1000
        line = Text("  ✔ ", style="green").append(what, style="default")
        line.append(" " * max(1, _WIDTH - 12 - line.cell_len)).append(f"{took:7.1f} ms", style="cyan")
        self.console.print(line, soft_wrap=True)

    def show(self, text: str, style: str = "dim") -> None:
        """Show what something said."""
        for line in text.rstrip("\n").splitlines():
            self.console.print(Text(f"      {line}", style=style), soft_wrap=True)

    def end(self, words: str) -> None:
        """The last line."""
        self.console.print()
        self.console.print(Text(f"{words} ({time.perf_counter() - self._began:.1f} s in all)", style="bold green"))
