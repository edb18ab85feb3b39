"""A population whose members several tuners train."""

from pathlib import Path

from optuna.trial import Trial

from raykd.search.attributes import GENERATION
from raykd.search.trials import DONE, WAIT, Proposal
from tests.search.test_population import Tuner, members, space, temperature


def test_two_tuners_that_ask_at_once_neither_break_nor_double_a_generation(tmp_path: Path) -> None:
    searched = space(tmp_path)
    one, two = Tuner(tmp_path, searched, "one"), Tuner(tmp_path, searched, "two")
    ask, proposals = one.study.ask, list[Proposal]()

    def ask_late() -> Trial:
        """Let the other tuner take all that waits between this one's look and its question."""
        while isinstance(proposal := two.ask(), Proposal):
            proposals.append(proposal)
        return ask()

    one.study.ask = ask_late  # type: ignore[method-assign, assignment]
    assert one.ask() is WAIT, "there is nothing left, and what the study made up instead is given back"
    assert len(proposals) == 4
    for proposal in proposals:
        two.end(proposal, temperature(proposal.experiment.recipe))
    one.study.ask = ask  # type: ignore[method-assign]
    assert len(one.generation(temperature)) == 4
    assert len(two.generation(temperature)) == 4
    assert one.ask() is two.ask() is DONE
    assert [len(members(one.study, generation)) for generation in range(3)] == [4, 4, 4]


def test_two_tuners_share_a_population(tmp_path: Path) -> None:
    searched = space(tmp_path)
    tuners = [Tuner(tmp_path, searched, "one"), Tuner(tmp_path, searched, "two")]
    trained: dict[str, int] = {}
    for _ in range(100):
        answers = [(tuner, tuner.ask()) for tuner in tuners]
        for tuner, proposal in answers:
            if isinstance(proposal, Proposal):
                key = f"{proposal.experiment.run_id} {proposal.segment}"
                trained[key] = trained.get(key, 0) + 1
                tuner.end(proposal, temperature(proposal.experiment.recipe))
        if all(proposal is DONE for _, proposal in answers):
            break
    assert len(trained) == 12
    assert set(trained.values()) == {1}


def test_a_member_that_two_tuners_proposed_at_once_is_trained_once(tmp_path: Path) -> None:
    tuner = Tuner(tmp_path, space(tmp_path))
    tuner.generation(temperature)
    first = tuner.ask()
    assert isinstance(first, Proposal)
    for trial in [one for one in tuner.study.trials if one.user_attrs[GENERATION] == 1]:
        tuner.study.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=trial.user_attrs)
    tuner.end(first, 1.0)
    assert len(tuner.generation(temperature)) == 3
    assert [proposal.segment for proposal in tuner.generation(temperature)] == [(40, None)] * 4
