from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench import report, targets
from bench import results as r
from bench.results import Results, Verdict


def a_run() -> Results:
    run = Results("2026-01-01T00:00:00+00:00", 3, {"kernel": "6"})
    run.versions = {"portlayer": "0.1.0", "dockerd": "20.10", "crun": "1.8"}
    for value in (20.0, 22.0, 30.0):
        run.add(r.EXIT_BRIDGE, "portlayer", value)
        run.add(r.EXIT_BRIDGE, "dockerd", value * 11)
        run.add(r.EXIT_NONE, "crun", value)
    run.add(r.RATE_BRIDGE, "portlayer", 60)
    run.add(r.RATE_BRIDGE, "dockerd", 5)
    run.verdicts = targets.verdicts(run)
    return run


def shown(run: Results) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        report.show(run, console)
    return capture.get()


def verdict(run: Results, measure: r.Measure, peer: str) -> Verdict:
    return next(v for v in run.verdicts if v.title.startswith(measure.title) and peer in v.title)


def test_a_peer_without_a_bridge_is_compared_by_what_it_makes() -> None:
    assert a_run().median(r.EXIT_BRIDGE, "crun") == 22
    assert "crun (without network)" in shown(a_run())


def test_a_target_is_judged_by_the_medians() -> None:
    found = verdict(a_run(), r.EXIT_BRIDGE, "dockerd")
    assert found.reached == 11
    assert (found.meets(found.at_least), found.meets(found.aim)) == (True, False)
    rate = verdict(a_run(), r.RATE_BRIDGE, "dockerd")
    assert rate.reached == 12
    assert verdict(a_run(), r.EXIT_BRIDGE, "crun").reached == 1


def test_a_target_without_its_peer_is_not_measured() -> None:
    found = verdict(a_run(), r.EXIT_BRIDGE, "podman")
    assert found.reached is None
    assert found.meets(found.at_least) is None
    assert "not measured" in report.judgement(found)


def test_lower_and_higher_bounds() -> None:
    assert Verdict("a", 80, 40, 79, lower_is_better=True).meets(80)
    assert not Verdict("a", 80, 40, 81, lower_is_better=True).meets(80)
    assert Verdict("a", 8, 15, 8, lower_is_better=False).meets(8)


def test_the_tables_say_who_was_left_out_and_why() -> None:
    run = a_run()
    run.skipped["podman"] = "no such program"
    assert "podman is left out: no such program" in shown(run)


def test_peers_are_ranked_the_best_first() -> None:
    assert report.ranking(a_run(), r.EXIT_BRIDGE) == ["portlayer", "crun", "dockerd"]
    assert report.ranking(a_run(), r.RATE_BRIDGE) == ["portlayer", "dockerd"]


def test_json_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "results" / "run.json"
    report.write_json(a_run(), path)
    assert report.read_json(path) == a_run()


def test_json_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    report.write_json(a_run(), path)
    path.write_bytes(path.read_bytes().replace(b'"rounds"', b'"turns"'))
    with pytest.raises(msgspec.ValidationError):
        report.read_json(path)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    report.write_plot(a_run(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
