"""What two trials tell of a third, and which are tried."""

from pathlib import Path
from typing import Any

import pytest

from raykd.config.runtime import Runtime
from raykd.methods.cost import by_images_of_members
from raykd.planning import predict as prediction
from raykd.planning.predict import Line, TrialSite, fit_line, predict
from raykd.recipe.experiment import resolve
from tests.planning.tiny import GIB, SHORT, Told, recipe, shard_by_classes, site, tried


def test_a_line_through_two_points_grows_and_never_falls() -> None:
    assert fit_line([(2, 5.0), (4, 9.0)]) == Line(1.0, 2.0)
    assert fit_line([(2, 5.0)]) == Line(5.0, 0.0)
    assert fit_line([(2, 5.0), (4, 4.0)]) == Line(4.0, 0.0), "noise is no saving"
    assert fit_line([(2, 1.0), (4, 9.0)]) == Line(0.0, 2.25), "nothing starts below zero"
    assert fit_line([(2, 5.0), (4, 9.0)]).fits(21.5) == 10
    assert fit_line([(2, 5.0), (4, 9.0)]).fits(0.5) == 0


def test_a_dear_size_is_foretold_and_a_cheap_one_is_tried(tmp_path: Path, made_up: list[int]) -> None:
    found = predict(resolve(recipe()), Runtime(), site(tmp_path), tmp_path / "a", memory=None)
    assert made_up == [64, 128], "0.74 s, and 8 times that for each of 7 steps"
    assert found.at("seconds") == pytest.approx(0.1 + 0.01 * 512)
    assert found.peak() == GIB + 512 * 100 * 2**20
    small = recipe(schedule={**SHORT, "global_batch": 32})
    assert set(predict(resolve(small), Runtime(), site(tmp_path), tmp_path / "b", memory=None).trials) == {8, 32}
    assert set(predict(resolve(small), Runtime(), site(tmp_path), tmp_path / "c", memory=4 * GIB).trials) == {8, 16}, (
        "no room"
    )
    assert set(
        predict(resolve(small), Runtime(), site(tmp_path), tmp_path / "d", memory=None, direct=False).trials
    ) == {8, 16}


@pytest.mark.usefixtures("made_up")
def test_members_that_learn_together_are_tried_with_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard_by_classes(monkeypatch, by_images_of_members)
    answer = prediction.run_in_process

    def together(task: str, told: Told, where: TrialSite) -> dict[str, Any]:
        images = tried(told)["schedule"]["global_batch"] // 40
        found = answer(task, told, where)
        return {**found, "seconds": 1.0 + images} if task == "measure" else found

    monkeypatch.setattr(prediction, "run_in_process", together)
    one = recipe(schedule={"steps": 400, "report_every": 100, "global_batch": 40 * 64})
    found = predict(resolve(one), Runtime(wave=40), site(tmp_path), tmp_path / "a", memory=None)
    axis = found.axis
    assert (axis.counts, axis.planned, axis.members, axis.stages) == ("images of a member", 64, 40, (64,))
    assert sorted(found.trials) == [8, 16]
    assert axis.smaller(20) == ["schedule.global_batch=800 (now 2560)"]
    assert axis.smaller(1) == []
    assert found.at("seconds") == pytest.approx(65)
