"""Every command of the operator's pages, run as it stands there, on real servers and containers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import images
import pytest
from docs.pages import Block, blocks, matches
from linux.netlab import two_hosts

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted((DOCS / "operate").glob("*.md"))
SECONDS = 150
pytestmark = pytest.mark.timeout(600)


class Shell:
    """A shell in *scratch* that stays, as a reader's does. inside: what starts it on a host of its own."""

    def __init__(self, directory: Path, scratch: Path, inside: Sequence[str] = ()) -> None:
        self._directory = directory
        self._log = directory / "log"
        mine = {name: value for name, value in os.environ.items() if not name.startswith("PORTLAYER_")}
        self._environment = mine | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PORTLAYER_STATE": str(directory / "state"),
            "PORTLAYER_RUN": str(directory / "run"),
        }
        self._inside = inside
        with self._log.open("wb") as errors:
            self._shell = subprocess.Popen(
                [*inside, "bash", "-eu"],
                cwd=scratch,
                env=self._environment,
                stdin=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def run(self, block: Block) -> str:
        """What *block* prints."""
        printed, done = self._directory / "printed", self._directory / "done"
        done.unlink(missing_ok=True)
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{{\n{block.commands}}} >{printed} </dev/null\necho >{done}\n".encode())
        self._shell.stdin.flush()
        deadline = time.monotonic() + SECONDS
        while not done.exists():
            if self._shell.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"line {block.line} has failed: {self._log.read_text()[-3000:]}")
            time.sleep(0.02)
        return printed.read_text()

    def end(self) -> None:
        """No server that a page has left runs on, nor anything else."""
        subprocess.run(["pkill", "-KILL", "--session", str(self._shell.pid)], check=False)
        with self._shell:
            self._shell.kill()
        subprocess.run(
            [*self._inside, "portlayer", "cleanup", "--apply"], env=self._environment, check=True, capture_output=True
        )


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "busybox.tar").write_bytes(images.busybox_image())
    return scratch


def follow(page: list[Block], shells: dict[str, Shell]) -> None:
    for block in page:
        printed = shells[block.host].run(block)
        assert block.output is None or matches(block.output, printed), f"line {block.line} printed:\n{printed}"


@pytest.mark.parametrize("name", [page.stem for page in PAGES if page.stem != "two-hosts"])
def test_a_page_is_as_it_says(name: str, tmp_path: Path, scratch: Path) -> None:
    shell = Shell(tmp_path, scratch)
    try:
        follow(blocks(DOCS / "operate" / f"{name}.md"), {"": shell})
    finally:
        shell.end()


def test_the_page_on_two_hosts_is_as_it_says(tmp_path: Path, scratch: Path) -> None:
    with two_hosts() as networks, contextlib.ExitStack() as closing:
        shells = {}
        for name, inside in (("west", ()), ("east", ("nsenter", f"--net={networks['east']}"))):
            (tmp_path / name).mkdir()
            shells[name] = Shell(tmp_path / name, scratch, inside)
            closing.callback(shells[name].end)
        follow(blocks(DOCS / "operate" / "two-hosts.md"), shells)


def test_pages_have_nothing_that_is_not_run() -> None:
    assert len(PAGES) >= 4
    for page in PAGES:
        assert blocks(page)[-1].commands.rstrip().endswith("portlayer cleanup"), "and each cleans up after itself"
        assert not [line for line in page.read_text().splitlines() if line.startswith("    ")], "no other commands"


@pytest.mark.parametrize(
    ("expected", "printed", "holds"),
    [
        ("a ... c\n", "a b c\n", True),
        ("a   b\n", "a b\n", True),
        ("a ...\n", "a b\nc\n", False),
        ("...\nc\n", "a\nb\nc\n", True),
        ("...\nc\n", "c\n", True),
        ("...\n", "", True),
        ("c\n", "b\nc\n", False),
        ("(a) [b]\n", "(a) [b]\n", True),
        ("a.b\n", "axb\n", False),
    ],
)
def test_output_is_compared(expected: str, printed: str, holds: bool) -> None:
    assert matches(expected, printed) is holds
