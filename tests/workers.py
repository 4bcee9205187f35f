"""What makes each worker of pytest-xdist a host of its own, so that tests of real containers run side by side.

`pytest -n auto` has a worker for each core; where no such hosts can be made it says why, and runs one test after the
other. Workers prove that their tests left nothing as a run without them does (`host_is_left_as_it_was`); here is the
proof that none of it came through to the host that they all run on.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hoststate
import pytest
import worker

RESOLVER = "/run/systemd/resolve"


class Workers:
    """A plugin of the process that hands out the tests; it does nothing where there are no workers."""

    def __init__(self) -> None:
        self._lack = ""
        self._before: dict[str, set[str]] | None = None
        self._directory = Path(tempfile.gettempdir(), f"portlayer-tests-{uuid.uuid4().hex[:8]}")

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_xdist_auto_num_workers(self) -> int:
        self._lack = self._try()
        return 0 if self._lack else len(os.sched_getaffinity(0))

    def pytest_report_header(self) -> list[str]:
        return [f"no workers, as they cannot be hosts of their own here: {self._lack}"] if self._lack else []

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: list[Any]) -> None:
        lack = self._try()
        if lack:
            raise pytest.UsageError(f"workers cannot be hosts of their own here, so leave -n out: {lack}")
        self._before = hoststate.picture()
        self._directory.mkdir()
        basetemp = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        for spec in specs:
            spec.python = shlex.join(self._command([config.rootpath, basetemp]))

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        yield
        if self._before is None:
            return
        worker.tidy(self._directory.name)  # xdist has ended them by now: with a signal, where they did not hear
        shutil.rmtree(self._directory)
        left = hoststate.left_since(self._before)
        if left:
            _fail(session, f"the tests left on this host: {left}")

    def _try(self) -> str:
        """What is in the way of a worker; "" for nothing."""
        self._directory.mkdir()
        try:
            done = subprocess.run([*self._command([]), "-c", ""], capture_output=True, text=True, check=False)
        finally:
            shutil.rmtree(self._directory)
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1] if done.returncode else ""

    def _command(self, kept: Sequence[Path]) -> list[str]:
        """To which a worker's arguments to Python are added."""
        paths = ":".join(map(str, [RESOLVER, sys.prefix, *kept]))
        return [sys.executable, worker.__file__, str(self._directory), paths]


def _fail(session: pytest.Session, why: str) -> None:
    """As a test would that is called after the host."""
    report = pytest.TestReport("host", ("host", None, "host"), {}, "failed", why, "teardown")
    session.config.hook.pytest_runtest_logreport(report=report)
    if session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
