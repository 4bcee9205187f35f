"""The numbers that the port layer promises, and whether a run reached them."""

from __future__ import annotations

from bench import results as r
from bench.results import Measure, Results, Verdict

US, US_ON_RUNC = "portlayer", "portlayer on runc"
DOCKERD, PODMAN, CTR, CRUN, RUNC = "dockerd", "podman", "ctr", "crun", "runc"


def verdicts(results: Results) -> list[Verdict]:
    """Every promise with what was reached, in the order of the table that they come from."""
    return [
        *_faster(results, r.EXIT_BRIDGE, US, {DOCKERD: (10, 18), PODMAN: (12, 24)}),
        _times(results, r.EXIT_BRIDGE, US, CRUN, 1.3, 0.9),
        _times(results, r.LIFE_BRIDGE, US, CRUN, 1.3, 0.9),
        *_faster(results, r.AHEAD, US, {DOCKERD: (30, 100), PODMAN: (30, 100)}),
        *_faster(results, r.RATE_BRIDGE, US, {DOCKERD: (8, 15), PODMAN: (7, 13), CTR: (3.5, 6)}),
        Verdict("memory of the idle server, MB", 80, 40, results.median(r.IDLE, US), lower_is_better=True),
        _times(results, r.PER_CONTAINER, US, PODMAN, 1.0, 0.5),
        _times(results, r.EXIT_BRIDGE, US_ON_RUNC, RUNC, 1.6, 1.25),
        _times(results, r.LIFE_BRIDGE, US_ON_RUNC, RUNC, 1.6, 1.25),
        *_faster(results, r.EXIT_BRIDGE, US_ON_RUNC, {DOCKERD: (4, 6)}),
    ]


def _faster(results: Results, measure: Measure, us: str, bounds: dict[str, tuple[float, float]]) -> list[Verdict]:
    """How many times better we are than each peer."""
    return [
        Verdict(
            f"{measure.title}: {us} against {peer}, times better",
            at_least,
            aim,
            _ratio(results, measure, *((peer, us) if measure.lower_is_better else (us, peer))),
            lower_is_better=False,
        )
        for peer, (at_least, aim) in bounds.items()
    ]


def _times(results: Results, measure: Measure, us: str, peer: str, at_least: float, aim: float) -> Verdict:
    """Our value as a multiple of a peer's."""
    title = f"{measure.title}: {us} as a multiple of {peer}"
    return Verdict(title, at_least, aim, _ratio(results, measure, us, peer), lower_is_better=True)


def _ratio(results: Results, measure: Measure, over: str, under: str) -> float | None:
    above, below = results.median(measure, over), results.median(measure, under)
    return above / below if above is not None and below else None
