"""A population whose members several tuners train."""

from pathlib import Path
from typing import Any

from raykd.search.study import GENERATION
from tests.search.test_population import Tuner, members, space, temperature


def test_two_tuners_that_ask_at_once_neither_break_nor_double_a_generation(tmp_path: Path) -> None:
    searched = space(tmp_path)
    one, two = Tuner(tmp_path, searched, "one"), Tuner(tmp_path, searched, "two")
    looked, others = one.population.has_room, list[tuple[str, Any]]()

    def has_room() -> bool | None:
        room = looked()
        while isinstance((asked := two.ask())[1], dict):  # in the moment between the look and the question
            others.append(asked)
        return room

    one.population.has_room = has_room  # type: ignore[method-assign]
    assert one.ask()[1] is None, "there is nothing left, and what the study made up instead is given back"
    assert len(others) == 4
    for trial, told in others:
        two.end(trial, temperature(told["recipe"]))
    one.population.has_room = looked  # type: ignore[method-assign]
    assert len(one.generation(temperature)) == 4
    assert len(two.generation(temperature)) == 4
    assert one.ask()[1] == two.ask()[1] == "FINISHED"
    assert [len(members(one.study, generation)) for generation in range(3)] == [4, 4, 4]


def test_two_tuners_share_a_population(tmp_path: Path) -> None:
    searched = space(tmp_path)
    tuners = [Tuner(tmp_path, searched, "one"), Tuner(tmp_path, searched, "two")]
    trained: dict[str, int] = {}
    for _ in range(100):
        asked = [(tuner, *tuner.ask()) for tuner in tuners]
        for tuner, trial, told in asked:
            if isinstance(told, dict):
                key = f"{told['run']} {told['stretch']}"
                trained[key] = trained.get(key, 0) + 1
                tuner.end(trial, temperature(told["recipe"]))
        if all(told == "FINISHED" for _, _, told in asked):
            break
    assert len(trained) == 12
    assert set(trained.values()) == {1}


def test_a_member_that_two_tuners_proposed_at_once_is_trained_once(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path, space(tmp_path))
    tuner.generation(temperature)
    first, _ = tuner.ask()
    for trial in [one for one in tuner.study.trials if one.user_attrs[GENERATION] == 1]:
        tuner.study.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=trial.user_attrs)
    tuner.end(first, 1.0)
    assert len(tuner.generation(temperature)) == 3
    assert [told["stretch"] for told in tuner.generation(temperature)] == [(40, None)] * 4
