"""What the host or a runtime could not do, as the commit that wanted it tells it."""

from __future__ import annotations

from portlayer.model.errors import PortlayerError, SubstrateFailed


def failed(step: str, reason: str, incarnation: str) -> PortlayerError:
    """*step* of a commit went wrong. reason: a clause that says why, and what to do."""
    return SubstrateFailed(f"Step {step} failed: {reason}", step=step, id=incarnation)
