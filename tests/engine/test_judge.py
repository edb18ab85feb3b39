"""The judge of several students: none on what it has learnt from, none favoured, no collapse rewarded."""

import copy
import math
import random

import pytest
import torch
from torch import Tensor, nn

from raykd.distributed.world import World
from raykd.engine.blind_pool import BlindPool
from raykd.engine.judge import Contestant, _crossed, judge, near_chance_below, rank
from tests.methods.toy import SPEC, Plain, made_teacher

ALONE = World.alone()
CLASSES = SPEC.num_classes


def score(quality: float, hardness: float) -> float:
    return 100 / (1 + math.exp(-(quality - hardness)))


def table(quality: dict[str, float], hardness: dict[str, float]) -> dict[str, dict[str, float]]:
    """Agreements of students on the images of all others."""
    return {
        student: {source: score(q, d) for source, d in hardness.items() if source != student}
        for student, q in quality.items()
    }


def ranked(agreement: dict[str, dict[str, float]], controls: tuple[str, ...] = ()) -> list[str]:
    kl = {student: dict.fromkeys(row, 1.0) for student, row in agreement.items()}
    return rank(agreement, kl, dict.fromkeys(agreement, 1000.0), 10, controls).order


def test_whose_images_are_hard_gains_nothing_by_that() -> None:
    """By plain means b would lead: it alone is spared its own images, which are hard."""
    agreement = table({"a": 1.0, "b": 0.6, "c": 0.0}, {"a": 0.0, "b": 3.0, "c": 0.0})
    means = {name: sum(row.values()) / len(row) for name, row in agreement.items()}
    assert max(means, key=lambda name: means[name]) == "b"
    assert ranked(agreement) == ["a", "b", "c"]


def test_names_and_their_order_do_not_matter() -> None:
    random.seed(0)
    quality = {name: random.uniform(-2, 2) for name in "abcde"}
    hardness = {name: random.uniform(-1, 1) for name in "abcde"}
    before = ranked(table(quality, hardness))
    other = dict(zip("abcde", "ecadb", strict=True))
    shuffled = sorted("abcde", key=lambda name: other[name])
    again = table({other[n]: quality[n] for n in shuffled}, {other[n]: hardness[n] for n in reversed(shuffled)})
    assert before == sorted("abcde", key=lambda name: -quality[name])
    assert ranked(again) == [other[name] for name in before]


def test_what_is_within_an_error_is_told_apart_by_divergence_and_a_control_comes_last() -> None:
    agreement = {name: {"x": 80.0 + share} for name, share in zip("abn", (0.1, 0.0, 0.2), strict=True)}
    kl = {"a": {"x": 0.9}, "b": {"x": 0.2}, "n": {"x": 0.1}}
    verdict = rank(agreement, kl, {"x": 400.0}, 10, ["n"])
    assert verdict.order == ["b", "a", "n"]
    assert verdict.doubt is not None
    assert "b and a differ by 0.1 points" in verdict.doubt
    apart = rank({"a": {"x": 80.0}, "b": {"x": 50.0}}, {"a": {"x": 0.9}, "b": {"x": 0.2}}, {"x": 400.0}, 10)
    assert (apart.order, apart.doubt) == (["a", "b"], None)


def test_near_chance_is_said() -> None:
    verdict = rank({"a": {"x": 14.0}, "b": {"x": 10.0}}, {"a": {"x": 2.0}, "b": {"x": 2.3}}, {"x": 1000.0}, 10)
    assert verdict.doubt is not None
    assert verdict.near_chance
    assert "all are near chance: the best agrees on 14 %, where one class alone has 10 %" in verdict.doubt


class Always(nn.Module):
    """Answers one class."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), CLASSES)
        logits[:, 0] = 9.0
        return logits


def shaken(network: nn.Module) -> nn.Module:
    """A copy whose answers are somewhat others."""
    copied = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(9)
    for parameter in copied.parameters():
        parameter.data += 0.1 * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator)
    return copied


def pool(images: Tensor, teacher: nn.Module) -> BlindPool:
    found = BlindPool(SPEC, 0, mirrored=False)
    found.add(images, 0, teacher, ALONE)
    return found


def images_of(labels: set[int], teacher: nn.Module, seed: int) -> Tensor:
    """Noise that a teacher takes for some of its classes."""
    drawn = 3 * torch.randn(4000, SPEC.channels, SPEC.size, SPEC.size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        answers = teacher(drawn)[0].argmax(1)
    return drawn[torch.isin(answers, torch.tensor(sorted(labels)))][:400]


def contestant(
    name: str, student: nn.Module, images: BlindPool | None, *, family: str | None = None, control: bool = False
) -> Contestant:
    return Contestant(name, student, 1, images, images, family or name, control)


def test_a_student_of_one_class_cannot_win_and_its_images_judge_nobody() -> None:
    torch.manual_seed(0)
    teacher = made_teacher()
    with torch.no_grad():
        drawn = teacher(3 * torch.randn(4000, SPEC.channels, SPEC.size, SPEC.size))[0].argmax(1)
    (common,) = drawn.mode(0)[:1]
    whole = pool(images_of(set(range(CLASSES)), teacher, 1), teacher)
    other = pool(images_of(set(range(CLASSES)), teacher, 2), teacher)
    few = pool(images_of({int(common)}, teacher, 3), teacher)
    found = [
        contestant("good", teacher, whole),
        contestant("fair", shaken(teacher), other),
        contestant("collapsed", Always(), few),
    ]
    verdict = judge(found, SPEC, teacher, ALONE)
    assert verdict.order[0] == "good"
    assert verdict.order[-1] == "collapsed"
    assert "collapsed" not in {source for row in verdict.scores.values() for source in row}
    assert any("collapsed's images judge nobody" in note for note in verdict.notes)


def test_own_images_are_left_out_where_others_are_fit_and_a_control_s_always() -> None:
    torch.manual_seed(0)
    teacher = made_teacher()
    one, other = (pool(images_of(set(range(CLASSES)), teacher, seed), teacher) for seed in (1, 2))
    verdict = judge(
        [contestant("a", Plain(), one), contestant("b", Plain(), other), contestant("n", Plain(), one, control=True)],
        SPEC,
        teacher,
        ALONE,
    )
    assert {name: set(row) for name, row in verdict.scores.items()} == {
        "a": {"b", "a x b"},
        "b": {"a", "a x b"},
        "n": {"a", "b", "a x b"},
    }
    alone = judge([contestant("a", Plain(), one), contestant("n", Plain(), other, control=True)], SPEC, teacher, ALONE)
    assert {name: set(row) for name, row in alone.scores.items()} == {"a": {"a"}, "n": {"a"}}
    assert alone.is_on_own("a")
    assert not verdict.is_on_own("a")
    assert alone.doubt is not None
    assert "a is judged on its own held-out images" in alone.doubt


def test_variants_of_one_candidate_are_not_judged_on_each_other_s_images() -> None:
    torch.manual_seed(0)
    teacher = made_teacher()
    one, other = (pool(images_of(set(range(CLASSES)), teacher, seed), teacher) for seed in (1, 2))
    kin = [contestant("a", Plain(), one), contestant("a_1", Plain(), one, family="a")]
    verdict = judge([*kin, contestant("b", Plain(), other)], SPEC, teacher, ALONE)
    assert {name: set(row) for name, row in verdict.scores.items()} == {
        "a": {"b", "a x b"},
        "a_1": {"b", "a x b"},
        "b": {"a", "a_1", "a x b"},
    }
    among_themselves = judge(kin, SPEC, teacher, ALONE)
    assert {name: set(row) for name, row in among_themselves.scores.items()} == {"a": {"a_1"}, "a_1": {"a"}}


def test_families_count_alike_however_many_variants_they_have() -> None:
    kl = {name: dict.fromkeys("xyz", 1.0) for name in "ab"}
    scores = {"a": {"x": 80.0, "y": 20.0, "z": 20.0}, "b": {"x": 50.0, "y": 40.0, "z": 40.0}}
    images = dict.fromkeys("xyz", 1000.0)
    assert rank(scores, kl, images, 10).order == ["b", "a"]
    assert rank(scores, kl, images, 10, weights={"x": 1.0, "y": 0.5, "z": 0.5}).order == ["a", "b"]


def test_images_of_two_are_cut_together_in_the_middle() -> None:
    torch.manual_seed(0)
    teacher = made_teacher()
    plain = [torch.full((64, SPEC.channels, SPEC.size, SPEC.size), value) for value in (0.25, 0.75)]
    pools = [pool(images, teacher) for images in plain]
    found = _crossed([contestant("b", Plain(), pools[1]), contestant("a", Plain(), pools[0])], SPEC, teacher, ALONE)
    assert list(found) == ["a x b"]
    halves = {tuple(row[0, 4, [0, -1]].tolist()) for row in found["a x b"].as_made}
    assert {(0.25, 0.75), (0.75, 0.25)} <= halves


def test_sources_that_contradict_each_other_lower_the_confidence() -> None:
    kl = {name: dict.fromkeys("xyz", 1.0) for name in "ab"}
    images = dict.fromkeys("xyz", 5000.0)
    scores = {"a": {"x": 90.0, "y": 50.0, "z": 60.0}, "b": {"x": 50.0, "y": 60.0, "z": 50.0}}
    verdict = rank(scores, kl, images, 10)
    assert (verdict.order, verdict.doubt) == (["a", "b"], "on the images of y b is better than a")
    agreeing = {"a": {"x": 90.0, "y": 70.0, "z": 60.0}, "b": scores["b"]}
    assert rank(agreeing, kl, images, 10).doubt is None


def test_two_classes_leave_room_above_chance() -> None:
    assert (near_chance_below(2), near_chance_below(10)) == (55.0, 19.0)
    kl = {"a": {"x": 0.1}, "b": {"x": 0.2}}
    good = rank({"a": {"x": 96.0}, "b": {"x": 70.0}}, kl, {"x": 1000.0}, 2)
    assert (good.near_chance, good.doubt) == (False, None)
    assert rank({"a": {"x": 53.0}, "b": {"x": 50.0}}, kl, {"x": 1000.0}, 2).near_chance


def test_scores_that_are_not_finite_or_none_come_last_and_spoil_nobody_s() -> None:
    kl = {"a": {"x": 0.9, "y": 0.9}, "b": {"x": 0.2, "y": 0.2}, "bad": {"x": math.nan, "y": 1.0}, "none": {}}
    scores = {"a": {"x": 80.0, "y": 80.0}, "b": {"x": 80.0, "y": 80.0}, "bad": {"x": 99.0, "y": 99.0}, "none": {}}
    images = dict.fromkeys("xy", 400.0)
    verdict = rank(scores, kl, images, 10)
    assert verdict.order == ["b", "a", "bad", "none"]
    assert verdict.kl == pytest.approx({"a": 0.9, "b": 0.2})
    assert verdict.agreement["bad"] == verdict.agreement["none"] == 0.0
    assert [note.partition(" ")[0] for note in verdict.notes] == ["bad", "none"]
    nobody = rank({"a": {"x": math.nan}}, {"a": {"x": 1.0}}, images, 10)
    assert (nobody.order, nobody.near_chance, nobody.scores) == (["a"], True, {"a": {}})


def test_one_rival_and_its_control_are_judged_on_the_same_held_out_images() -> None:
    torch.manual_seed(0)
    teacher = made_teacher()
    learnt, held_out = (pool(images_of(set(range(CLASSES)), teacher, seed), teacher) for seed in (1, 2))
    student = Plain()
    found = [Contestant("a", student, 1, learnt, held_out, "a"), Contestant("n", student, 1, None, None, "n", True)]
    scores = judge(found, SPEC, teacher, ALONE).scores
    assert scores["a"] == scores["n"] == {"a": held_out.score(student, ALONE)["agreement"]}
