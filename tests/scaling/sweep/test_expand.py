"""A design becomes trunks and branches whose steps, rates and shares of data are P1's, or is refused with reasons."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_nmm.config.check import check
from megatron_nmm.errors import ConfigError
from megatron_nmm.scaling.sweep.design import Candidate, Grid
from megatron_nmm.scaling.sweep.expand import Trunk, cooldown_steps, expand, only, short
from megatron_nmm.train.schedule import shape
from tests.scaling.sweep.designs import MIXTURE, RUN, WIDE, design

OUT = Path("out")


def test_one_trunk_carries_all_lengths_of_a_model() -> None:
    trunks = expand(design(), OUT)
    assert [(trunk.model.size, trunk.run.steps, trunk.run.save.at) for trunk in trunks] == [
        ("s", 320, (80, 160, 320)),
        ("m", 320, (80, 160, 320)),
    ]
    trunk = trunks[0]
    assert [(b.run.name, b.run.steps, b.start) for b in trunk.branches] == [
        ("early-s-60-0-40-s7-100k", 100, 80),
        ("early-s-60-0-40-s7-200k", 200, 160),
        ("early-s-60-0-40-s7-400k", 400, 320),
    ]
    assert trunk.run.evaluate.sources == () and trunk.run.save.keep == 1
    assert trunk.branches[0].run.init.continue_from == str(trunk.checkpoint(trunk.branches[0]))
    for run in (trunk.run, *(branch.run for branch in trunk.branches)):
        assert check(run, 1) == () and run.seed == 7
        assert run.folder == f"out/runs/{run.name}"


def test_a_branch_s_rate_is_its_trunk_s_until_it_cools_down() -> None:
    trunk = expand(design(), OUT)[0]
    for branch in trunk.branches:
        steps = branch.run.steps
        own = [shape(branch.run.schedule, steps, step) for step in range(1, steps + 1)]
        shared = [shape(trunk.run.schedule, trunk.run.steps, step) for step in range(1, branch.start + 1)]
        assert own[: branch.start] == shared
        assert own[branch.start] == 1.0 > own[branch.start + 1] > own[-1] > 0


def test_runs_share_a_trunk_where_p1_s_warm_up_is_the_same() -> None:
    """1,000 steps below 5,000; 2,500 below 15,000 (P1 appendix A)."""
    grid = replace(design().grids[0], tokens=(2e6, 4e6, 6e6, 10e6))
    trunks = [trunk for trunk in expand(design(grids=(grid,), warmup=None), OUT) if trunk.model.size == "s"]
    assert [(t.run.schedule.warmup, [b.run.steps for b in t.branches]) for t in trunks] == [
        (1000, [2000, 4000]),
        (2500, [6000, 10000]),
    ]


@pytest.mark.parametrize(("of", "steps", "expected"), [("training", 1000, 200), ("constant", 1000, 150)])
def test_both_readings_of_the_cooldown(of: Any, steps: int, expected: int) -> None:
    """Warm-up 100: a fifth of all 1,000, or of the 750 constant ones."""
    assert cooldown_steps(design(cooldown_of=of), steps, 100) == expected


def test_without_a_cooldown_a_branch_is_the_trunk_s_next_step() -> None:
    branch = expand(design(cooldown=0.0), OUT)[0].branches[0]
    assert (branch.start, branch.run.steps, branch.run.schedule.kind) == (99, 100, "constant")


def test_a_mixture_gives_each_kind_its_share() -> None:
    """Inside a kind the sources keep their proportions, 3 to 1."""
    data = expand(design(), OUT)[0].run.data
    assert [(source.corpus, source.weight) for source in data.train] == [
        ("data/photos", 45.0),
        ("data/scans", 15.0),
        ("data/web", 40.0),
    ]
    assert data.share_of == "tokens"


def test_changes_reach_every_run() -> None:
    for trunk in expand(design(), OUT, ["optim.learning_rate=0.25", "threads=3"]):
        for run in (trunk.run, *(branch.run for branch in trunk.branches)):
            assert (run.optim.learning_rate, run.threads) == (0.25, 3)


def _grid(*models: Candidate, tokens: Sequence[float] = (100e3, 200e3)) -> tuple[Grid, ...]:
    return (Grid(tuple(models), tuple(tokens), (MIXTURE,)),)


S, M = Candidate("early", "s", RUN), Candidate("early", "m", WIDE)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grids": _grid(S)}, "family early has one size (s), and a law's term in model needs several; add one"),
        ({"grids": _grid(S, M, tokens=[1e5])}, "family early has one number of tokens (100000)"),
        ({"grids": ()}, "it has no runs; give a Grid with models and tokens"),
        ({"grids": _grid(S, Candidate("early", "s", WIDE), M)}, "two models of family early are called s"),
        ({"grids": _grid(S, M) * 2}, "run early-m-60-0-40-s1234-100k stands in it twice"),
        ({"name": "my study"}, "name 'my study' cannot name files"),
        ({"kinds": {"photos": "caption", "web": "text"}}, "reads data/scans, of whose kind '' mixture 60-0-40 has no"),
        ({"warmup": 90}, "at 100k tokens has 100 steps, 20 of them for the cooldown, and 90 for the warm-up"),
    ],
)
def test_a_design_that_makes_no_sense_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        expand(design(**changes), OUT)
    assert told in str(raised.value)


def test_what_a_study_gives_its_runs_cannot_be_set() -> None:
    with pytest.raises(ConfigError, match="--set steps=5: a study gives this to each run itself"):
        expand(design(), OUT, ["steps=5"])


def _names(trunks: Sequence[Trunk]) -> list[str]:
    return [branch.run.name for trunk in trunks for branch in trunk.branches]


def test_only_narrows_to_some_runs() -> None:
    trunks = expand(design(), OUT)
    assert len(_names(only(trunks, ["size=s"]))) == 3
    assert _names(only(trunks, ["tokens=100k,400k", "size=m"])) == [
        "early-m-60-0-40-s7-100k",
        "early-m-60-0-40-s7-400k",
    ]
    (trunk,) = only(trunks, ["size=s", "tokens=100k,200k"])
    assert (trunk.run.steps, trunk.run.save.at) == (160, (80, 160)), "as long as they need it"
    with pytest.raises(ConfigError, match="--only size=xl: no run has size xl; there are m, s"):
        only(trunks, ["size=xl"])
    with pytest.raises(ConfigError, match="--only colour=red is no filter; write KEY=VALUE with KEY one of family"):
        only(trunks, ["colour=red"])


@pytest.mark.parametrize(("tokens", "text"), [(2.5e9, "2.5b"), (400e9, "400b"), (1.6e6, "1.6m"), (512, "512")])
def test_labels_of_tokens(tokens: float, text: str) -> None:
    assert short(tokens) == text
