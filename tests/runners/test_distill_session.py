"""Choices of a session whose trainings and verdicts are given: alike however often it is stopped."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from raykd.cluster.config import Cluster
from raykd.engine.finite import Unhealthy
from raykd.engine.judge import Contestant
from raykd.engine.stop import Interrupted
from raykd.errors import CorruptError, InProgress, MissingData, RaykdError, RunFailed, UsageError
from raykd.recipe.candidates import candidates
from raykd.recipe.recipe import recipe_from_dict
from raykd.results import DistillResult, Figures, Verdict
from raykd.runners.distill import ending, slices
from raykd.runners.distill import session as session_module
from raykd.runners.distill.plan import session_name
from raykd.runners.distill.record import Member, Record, SessionPlan
from raykd.runners.distill.session import Session


class Killed(Exception):
    """The process ends where it is."""


def member(name: str, base: str | None = None, *, control: bool = False) -> Member:
    recipe = SimpleNamespace(schedule=SimpleNamespace(steps=100), data=None)
    experiment = cast("Any", SimpleNamespace(recipe=recipe, run_id=name))
    return Member(name, name, experiment, control, 10, 20, 0.1, 1.0, 2.0, 3.0, base)


MEMBERS = [member("fast"), member("fast_1", "fast"), member("dafl"), member("dafl_1", "dafl"), member("dfad"),
           member("noise", control=True)]  # fmt: skip


def verdict(*order: str, near_chance: bool = False) -> Verdict:
    agreement = {name: 90.0 - place for place, name in enumerate(order)}
    return Verdict(order=list(order), agreement=agreement, kl=dict.fromkeys(order, 1.0), error=0.1,
                   near_chance=near_chance, doubt=None, scores={}, notes=[])  # fmt: skip


VERDICTS = [
    verdict("fast", "dafl", "dfad", "noise"),
    verdict("fast_1", "dafl", "fast", "dfad", "noise"),
    verdict("dafl", "fast_1", "dfad", "fast", "noise"),
]


class Place:
    """What a session has around it: it trains nothing, and may be killed once so many rounds are noted."""

    def __init__(self, killed_at: int | None = None, fails: Mapping[tuple[str, int], Exception] | None = None) -> None:
        self.workspace = SimpleNamespace(
            run=lambda name: SimpleNamespace(rows=list, path=Path(name)), display_name=lambda name: f"runs/{name}"
        )
        self.noted: Record | None = None
        self.steps: dict[str, int] = {}
        self._killed_at, self._fails = killed_at, dict(fails or {})

    def write(self, record: Record) -> None:
        self.noted = record
        if self._killed_at is not None and len(record.rounds) == self._killed_at:
            self._killed_at = None
            raise Killed

    def step_of(self, experiment: Any) -> int:
        return self.steps.get(experiment.run_id, 0)

    def advance(self, experiment: Any, until: int) -> None:
        if self.step_of(experiment) >= until:
            return
        if error := self._fails.get((experiment.run_id, until)):
            self.steps[experiment.run_id] = until - 1
            raise error
        self.steps[experiment.run_id] = until

    def finish(self, experiment: Any) -> str:
        self.advance(experiment, 100)
        return "finished"

    def session(self, record: Record) -> Session:
        found = Session(cast("Any", self), record, cast("Any", self), 0.0)
        own: Any = found
        own._judge = lambda: VERDICTS[len(own._record.rounds)]
        return found


def begun(settings: int = 1) -> Record:
    return Record(SessionPlan(1.0, MEMBERS, settings, 2, {}, "", [], 1.0))


def choose(place: Place, record: Record | None = None) -> str:
    found = place.session(record or begun())
    return found._finish(found._search()).name


@pytest.mark.parametrize("fails", [{}, {("dafl", 20): Unhealthy("not finite")}, {("dafl", 100): Unhealthy("late")}])
@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_stop_after_any_round_changes_no_choice(rounds: int, fails: dict[tuple[str, int], Exception]) -> None:
    undisturbed = Place(fails=fails)
    chosen = choose(undisturbed)
    assert undisturbed.noted is not None
    assert [one.title for one in undisturbed.noted.rounds] == ["candidates", "settings of fast", "finalists"]
    assert set(undisturbed.noted.rounds[2].steps) == {"fast_1", "dafl"}
    assert chosen == ("fast_1" if fails else "dafl")
    place = Place(rounds, fails)
    with pytest.raises(Killed):
        choose(place)
    assert place.noted is not None
    assert choose(place, place.noted) == chosen
    assert [one.steps for one in place.noted.rounds] == [one.steps for one in undisturbed.noted.rounds]
    assert place.noted.failed == undisturbed.noted.failed


def test_a_leader_that_fails_late_still_was_the_leader() -> None:
    place = Place(2, {("fast", 100): Unhealthy("x")})
    with pytest.raises(Killed):
        choose(place)
    assert place.noted is not None
    assert choose(place, place.noted.with_failure("fast", "noted later")) == "dafl"
    assert [one.title for one in place.noted.rounds] == ["candidates", "settings of fast", "finalists"]


def test_the_steps_of_a_round_are_those_that_were_reached() -> None:
    place = Place(fails={("dfad", 10): Unhealthy("not finite")})
    choose(place)
    assert place.noted is not None
    assert place.noted.rounds[0].steps == {"fast": 10, "dafl": 10, "dfad": 9, "noise": 10}


@pytest.mark.parametrize(
    "error",
    [MissingData("no test split"), InProgress("another process"), UsageError("no number of workers divides"),
     RunFailed("the workers kept dying"), CorruptError("damaged data"), RuntimeError("a bug")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_fault_of_the_place_ends_the_command_and_is_nobody_s(error: Exception) -> None:
    place = Place(fails={("dafl", 100): error})
    with pytest.raises(type(error)):
        choose(place)
    assert place.noted is not None
    assert not place.noted.failed
    place._fails.clear()
    assert choose(place, place.noted) == "dafl"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RunFailed("worker 0: CUDA out of memory")]
)
def test_memory_that_is_out_is_the_candidate_s(error: Exception) -> None:
    place = Place(fails={("dafl", 100): error})
    assert choose(place) == "fast_1"
    assert place.noted is not None
    assert place.noted.failed["dafl"].round == 3


def judged_with(monkeypatch: pytest.MonkeyPatch, damaged: set[str]) -> list[str]:
    """Return who is judged of all members, whose runs can be read or are damaged."""
    asked: list[str] = []

    def read(run: Any, *_: object) -> Any:
        if run.path.name in damaged:
            raise CorruptError(f"{run.path.name} is damaged")
        return Contestant(run.path.name, torch.nn.Identity(), 1, None, None, run.path.name)

    def judge(found: list[Any], *_: object) -> Verdict:
        asked.extend(one.name for one in found)
        return verdict(*asked)

    teacher: Callable[..., Any] = lambda *_: (torch.nn.Identity(),)  # noqa: E731
    for name, stub in (("build_spec", lambda *_: None), ("load_teacher", teacher), ("judge", judge)):
        monkeypatch.setattr(session_module, name, stub)
    monkeypatch.setattr(session_module, "read_contestant", read)
    monkeypatch.setattr(Session, "_is_trained", lambda self, one: one.base is None)
    place = Place()
    Session(cast("Any", place), begun(), cast("Any", place), 0.0)._judge()
    return asked


def test_who_is_damaged_is_not_judged_while_others_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert judged_with(monkeypatch, {"dafl"}) == ["fast", "dfad", "noise"]
    assert "dafl is not judged: dafl is damaged" in caplog.text
    with pytest.raises(CorruptError, match="is damaged"):
        judged_with(monkeypatch, {"fast", "dafl", "dfad"})


@pytest.mark.parametrize("step", [0, 10])
def test_on_a_cluster_slices_end_at_their_step_and_the_test_split_waits_for_the_last_report(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    asked: list[tuple[bool, int | None]] = []
    reached = [step]

    def train(experiment: Any, *_: object, until: int | None, **__: object) -> Any:
        asked.append((experiment.recipe.data.test, until))
        reached[0] = until or 12
        if until is not None:
            raise Interrupted(until, 12)
        return "finished"

    monkeypatch.setattr(slices, "train", train)
    monkeypatch.setattr(slices.Trainer, "step_of", lambda *_: reached[0])
    one: Any = next(one for one in candidates() if one.name == "dafl")
    whole = one.with_schedule(one.load(), 12, 2)
    experiment = SimpleNamespace(recipe=whole, with_recipe=lambda recipe: SimpleNamespace(recipe=recipe))
    cluster = Cluster(name="two", workers=2)
    trainer = slices.Trainer(cluster, cast("Any", None), "runs", None, lambda: False)
    trainer.advance(cast("Any", experiment), 4)
    ended: Any = trainer.finish(cast("Any", experiment))
    assert ended == "finished"
    begun = [(False, 4), (False, 10), (True, None)]
    assert asked == (begun if step == 0 else begun[2:])


def test_a_stop_says_who_is_not_judged_yet() -> None:
    place = Place()
    place.steps["fast"] = 4
    assert "; not judged yet: fast in runs/fast; the same" in place.session(begun())._stopped(KeyboardInterrupt())


def test_all_that_failed_are_told_again() -> None:
    record = replace(begun(0), rounds=())
    place = Place(fails={(one.name, 10): Unhealthy("not finite") for one in MEMBERS})
    found: Any = place.session(record)
    found._judge = lambda: found._rivals([], found._record.failed)
    with pytest.raises(RaykdError, match="all candidates failed: fast: not finite; dafl: "):
        found._search()


def test_a_page_that_a_kill_has_left_out_is_written_when_the_session_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(folder: Path) -> None:
        (folder / "report.html").write_text("page")

    noted: list[Record] = []
    monkeypatch.setattr(ending, "keep_session_page", draw)
    folder: Any = SimpleNamespace(path=tmp_path, page=tmp_path / "report.html", write=noted.append)
    figures = Figures()
    result = DistillResult(
        session="s", directory="d", run="r", run_directory="runs/r", chosen="fast", student="lenet5",
        student_parameters=1, teacher_parameters=2, figures=figures, judged_agreement=None, judged_on_own=False,
        beats_control=None, doubt=None, warnings=[], recipe="best.yaml", report=None, export=None, candidates=[],
        rounds=[], seconds=1.0, search_seconds=0.5, notes=[],
    )  # fmt: skip
    found = ending.with_page(folder, replace(begun(), result=result))
    assert found.result is not None
    assert found.result.report == str(tmp_path / "report.html")
    assert noted == [found]
    assert ending.with_page(folder, found) is found
    assert len(noted) == 1


def test_a_choice_that_is_not_judged_in_the_end_is_compared_with_no_control() -> None:
    assert ending._beats_control(MEMBERS[0], begun(), verdict("dafl", "noise")) is None
    assert ending._beats_control(MEMBERS[0], begun(), verdict("fast", "noise")) is True


def test_a_session_is_called_by_its_teacher_s_sum_not_by_where_the_file_is() -> None:
    one = next(one for one in candidates() if one.name == "dafl")

    def name(weights: str, minutes: float, sha256: str | None = "ab", candidate: Any = one) -> str:
        content = candidate.load().model_dump(mode="json") | {"teacher": {"model": "lenet5", "weights": weights}}
        found = SimpleNamespace(sha256=sha256)
        proposed = [(candidate, recipe_from_dict(content))]
        return session_name(cast("Any", SimpleNamespace(title="t", found=found, candidates=proposed)), minutes)

    assert name("a.pt", 60) == name("b/a.pt", 60.0)
    assert name("a.pt", 60) != name("a.pt", 60, "cd")
    assert name("a.pt", 60, None) != name("b.pt", 60, None), "no sum, so the name tells"
    assert name("a.pt", 60) != name("a.pt", 60, candidate=one.leaving(["student_optim.lr"])), "another plan"
