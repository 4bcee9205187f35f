"""What keeps the report of one failure from ending all tests of a worker."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest


class Reports:
    """A plugin. A report parses the source that it shows, in which CPython 3.11 fails with SystemError where something
    else is parsed in the middle of it (python/cpython#106905): by a finalizer of garbage that is collected just then,
    as there is much of after a test that was cut off."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        gc.disable()
        try:
            return (yield)
        finally:
            gc.enable()
