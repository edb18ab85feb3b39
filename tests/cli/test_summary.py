"""The figures of finished runs."""

import json
import re
from typing import Any

from click.testing import CliRunner

from raykd.cli.summary import print_summary
from raykd.reporting.seeds import over_seeds
from raykd.results import RunResult
from tests.cli.conftest import Raykd, WriteRecipe


def test_controls_stand_in_the_table(raykd: Raykd, tiny: WriteRecipe) -> None:
    result = json.loads(raykd("train", tiny(), "--json").stdout)
    control = {**result, "blind": {**result["blind"], "accuracy/top1": 33.25}}
    both = RunResult.from_dict({**result, "controls": {"beside": control}})
    assert re.search(r"control beside .*33\.25", shown(both.to_dict()))


def shown(*results: dict[str, Any]) -> str:
    with CliRunner().isolation() as (out, *_):
        print_summary(over_seeds([RunResult.from_dict(result) for result in results]))
        return out.getvalue().decode()


def test_without_a_test_split_the_synthetic_agreement_is_what_is_shown() -> None:
    figures = {"step": 4, "blind/agreement": 87.5, "blind/kl": 0.25}
    result = {
        "run": "mine-0-s0",
        "seed": 0,
        "selected": "blind",
        "last": figures,
        "blind": figures,
        "images/classes": 9.0,
    }
    table = shown(result)
    assert "synthetic agreement %" in table
    assert re.search(r"blind \* .*87\.50", table)
    assert "best (oracle)" not in table
    assert RunResult.from_dict(result).to_dict()["blind"] == figures
    refused = shown({**result, "not_judged": "not to be judged: few classes"})
    assert "87.50" not in refused
    assert re.search(r"blind \* .*-", refused)
    assert "synthetic agreement  not to be judged: few classes" in refused


def test_phases_of_a_hundredth_of_the_time_are_told_the_longest_first() -> None:
    result = {"run": "mine-0-s0", "seed": 0, "phases": {"start": 2.0, "data": 0.5, "student": 97.5}}
    assert re.search(r"of the time +student 98 %, start 2 %\n", shown(result))
    assert "of the time" not in shown({"run": "mine-0-s0", "seed": 0}), "nor is it of runs of earlier releases"


def test_seeds_are_headed_by_mean_and_deviation_with_the_control_s_beside() -> None:
    def run(name: str, number: int, top1: float) -> dict[str, Any]:
        return {"run": f"{name}-0-s{number}", "seed": number, "selected": "blind", "blind": {"accuracy/top1": top1}}

    def seed(number: int) -> dict[str, Any]:
        return {**run("mine", number, 90.0 + 2 * number), "controls": {"noise": run("noise", number, 10.0 + number)}}

    table = shown(seed(0), seed(1), seed(2))
    assert "mine-0, 3 seeds: mean ± sd" in table
    assert re.search(r"blind \* .*92\.00 ± 2\.00", table)
    assert re.search(r"control noise .*11\.00 ± 1\.00", table)
    assert re.search(r"seed 2, top-1 94\.00 %", table)
