"""What is told of commits: metrics, and the spans of a trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from portlayer.metrics import Metrics, Timed
from portlayer.model.errors import Conflict, DeadlineExceeded, PortlayerError, SubstrateFailed, Unavailable
from portlayer.tracing import Span, Tracer, current

PHASES = (
    "queue",  # for its turn
    "wait",  # for another commit of its container
    "gather",
    "claims",
    "transaction 1",
    "before",
    "stop",
    "transaction 2",
    "after",
    "transaction 3",
    "undo",
)
"""Of a commit, whose steps are in `before`, `stop` and `after`."""


class Figures:
    """The commits of one process."""

    def __init__(self, metrics: Metrics, tracer: Tracer) -> None:
        self._tracer = tracer
        self._silent = tracer.silent
        self._results = metrics.counter(
            "commits_total",
            "Commits by result: ok, conflict, failed (with its step), unavailable, refused (any other reason), fault.",
            ("result", "step"),
        )
        self._whole = metrics.histogram("commit_seconds", "From the call to the answer, of commits that succeeded.")
        phases = metrics.histogram("commit_phase_seconds", "The phases of commits.", "phase")
        self._phase = {name: phases.of(name) for name in PHASES}
        self._steps = metrics.histogram("commit_step_seconds", "The steps of commits on the host.", "step")
        self._undone = metrics.histogram("commit_undo_seconds", "Steps of failed commits, being undone.", "step")

    def commit(self, vch: str, containers: Sequence[str]) -> AbstractContextManager[Span]:
        """The span of a whole commit."""
        if current() is None:  # of our own accord
            return self._tracer.request("commit", None)
        return self._tracer.span("commit", vch=vch, container=" ".join(containers))

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Within it, a commit is in this phase."""
        timed = Timed(self._phase[name])
        return timed if self._silent else self._traced(timed, name)

    def step(self, name: str, container: str) -> AbstractContextManager[None]:
        """Within it, a step is done."""
        timed = Timed(self._steps.of(name))
        return timed if self._silent else self._traced(timed, name, container)

    def undoing(self, name: str, container: str) -> AbstractContextManager[None]:
        """Within it, a step is undone."""
        timed = Timed(self._undone.of(name))
        return timed if self._silent else self._traced(timed, f"undo {name}", container)

    @contextmanager
    def _traced(self, timed: Timed, name: str, container: str = "") -> Iterator[None]:
        with timed, self._tracer.span(name) as span:
            if container:
                span.note("container", container)
            yield

    def answered(self, answer: asyncio.Future[Any], began: float) -> None:
        """A commit that *began* then, by `time.perf_counter`, has its *answer*."""
        error = answer.exception()
        if error is None:
            self._whole.of().add(time.perf_counter() - began)
        self._results.add(*_result(error))

    def turned_away(self, error: PortlayerError) -> None:
        """A commit was not even begun."""
        self._results.add(*_result(error))


def _result(error: BaseException | None) -> tuple[str, str]:
    """The values of `result` and `step`."""
    match error:
        case None:
            return "ok", ""
        case Conflict():
            return "conflict", ""
        case SubstrateFailed():
            return "failed", str(error.facts.get("step", ""))
        case Unavailable() | DeadlineExceeded():
            return "unavailable", ""
        case PortlayerError():
            return "refused", ""
        case _:
            return "fault", ""
