"""LS-GDFD's control: one generator for all classes, told the class or not."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from raykd.distributed.world import World
from raykd.errors import UsageError
from raykd.generators import EVERY, GeneratorBank
from raykd.methods.lsgdfd_single import LsgdfdSingle
from tests.methods.patterns import (
    ADAM,
    CLASSES,
    EACH,
    PLAIN_SGD,
    double_precision,
    pattern_setting,
    teacher_of_patterns,
)
from tests.methods.toy import advance, assert_same, made_config, made_method


def single(context: Any = None, **fields: Any) -> LsgdfdSingle:
    given = {"generator_optim": ADAM, "jitter": 0, "tv_weight": 0.003, **fields}
    method = made_method("lsgdfd_single", context or pattern_setting(), **given)
    assert isinstance(method, LsgdfdSingle)
    return method


@pytest.mark.parametrize("statistics", ["global", "class"])
def test_told_the_class_it_makes_that_class(statistics: str) -> None:
    method = single(pattern_setting(steps=50), statistics=statistics)
    rows = advance(method, 50)
    assert rows[0]["teacher/hit"] < 60
    assert sum(row["teacher/hit"] for row in rows[-5:]) / 5 > 90
    assert rows[-1]["loss/moments"] < 0.7 * rows[0]["loss/moments"]
    about = method.products_manifest()
    config = made_config("lsgdfd_single", generator=about["generator"]).generator
    bank = GeneratorBank(
        about["classes"], config, channels=about["channels"], size=about["size"], conditions=about["conditions"]
    )
    assert about["classes"] == [EVERY]
    bank.load_member(EVERY, method.products()["class_every"])
    labels = torch.arange(CLASSES).repeat(25)
    logits, _ = teacher_of_patterns()(bank.eval().mixed(torch.randn(100, 6), labels))
    assert (logits.argmax(1) == labels).float().mean() > 0.85


def test_untold_it_makes_what_the_teacher_is_sure_of() -> None:
    method = single(pattern_setting(steps=40), conditional=False)
    rows = advance(method, 40)
    assert rows[-1]["loss/class"] < 0.6 * rows[0]["loss/class"]
    assert rows[-1]["loss/moments"] < rows[0]["loss/moments"]
    assert "teacher/hit" not in rows[0]
    assert method.products_manifest()["conditions"] == 0


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("statistics", ["global", "class"])
def test_a_step_is_the_gradient_of_the_equations(conditional: bool, statistics: str) -> None:
    if statistics == "class" and not conditional:
        return
    with double_precision():
        weights = {"class_weight": 0.7, "moment_weight": 1.3, "tv_weight": 0.0, "l2_weight": 0.0}
        method = single(conditional=conditional, statistics=statistics, generator_optim=PLAIN_SGD, **weights)
        generator = copy.deepcopy(method.generator)
        z, labels = method.draw(0, 0)
        method.step({})
        images, teacher = generator(z), teacher_of_patterns().network
        logits = teacher(images)
        targets = labels if conditional else logits.argmax(1)
        loss = -0.7 * logits.log_softmax(1)[torch.arange(len(logits)), targets].mean()
        norm: Any = teacher.body[1]  # type: ignore[index]
        inputs = teacher.body[0](images)  # type: ignore[index, operator]
        groups = [labels == cls for cls in range(CLASSES)] if statistics == "class" else [labels >= 0]
        for cls, group in enumerate(groups):
            rows = inputs[group].transpose(0, 1).flatten(1)
            wanted: Any = (norm.running_mean, norm.running_var)
            if statistics == "class":
                wanted = [row[cls] for row in (method.context.statistics or [])[0]]
            apart = (rows.mean(1) - wanted[0].float()).norm() + (rows.var(1, correction=0) - wanted[1].float()).norm()
            loss = loss + 1.3 * apart / len(groups)
        loss.backward()
        assert (z.shape[2] == 6 + CLASSES) == conditional
        moved = dict(method.generator.named_parameters())
        for name, before in generator.named_parameters():
            assert before.grad is not None
            torch.testing.assert_close(before - moved[name], before.grad, rtol=1e-5, atol=1e-8, msg=name)


@pytest.mark.parametrize("batch", [16, 3, 6])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_class_has_its_turn(batch: int, workers: int) -> None:
    batch *= workers if batch == 16 else 1
    places = [World(rank, workers, torch.device("cpu")) for rank in range(workers)]
    methods = [single(replace(pattern_setting(world=place), global_batch=batch)) for place in places]
    counts = torch.zeros(CLASSES, dtype=torch.int64)
    for step in range(CLASSES):
        drawn = [method.draw(step, step) for method in methods]
        labels = torch.cat([labels for _, labels in drawn])
        z = torch.cat([z[0] for z, _ in drawn])
        assert torch.equal(z[:, 6:].argmax(1), labels)
        assert all(torch.equal(own, own.sort().values) for _, own in drawn)
        alone_z, alone_labels = single(replace(pattern_setting(), global_batch=batch)).draw(step, step)
        key = z[:, 0].argsort(), alone_z[0, :, 0].argsort()
        assert torch.equal(z[key[0]], alone_z[0][key[1]])
        assert torch.equal(labels[key[0]], alone_labels[key[1]])
        counts += labels.bincount(minlength=CLASSES)
        assert counts.max() - counts.min() <= 1
    assert counts.tolist() == [batch] * CLASSES


def test_classes_must_divide_the_batch_where_each_is_matched() -> None:
    uneven = replace(pattern_setting(), global_batch=EACH * CLASSES + 1)
    assert single(uneven, statistics="global")
    with pytest.raises(UsageError, match="not 17: make schedule.global_batch a multiple of 4"):
        single(uneven, statistics="class")
    with pytest.raises(UsageError, match="raykd statistics"):
        single(pattern_setting(statistics=None), statistics="class")
    with pytest.raises(ValidationError, match="conditional: true"):
        made_config("lsgdfd_single", statistics="class", conditional=False)


def test_the_generator_is_finished_at_the_last_step_and_going_on_is_bit_exact() -> None:
    whole, first = single(), single()
    advance(whole, 6), advance(first, 3)
    assert not first.milestone
    assert first.products() == {}
    second = single()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    advance(second, 3)
    assert whole.milestone
    assert_same(second.products(), whole.products())


def test_samples_are_of_all_classes_in_turn() -> None:
    method = single()
    advance(method, 2)
    first, again, other = method.sample(8, 1), method.sample(8, 1), method.sample(8, 2)
    assert first.shape == (8, 1, 8, 8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    expected = copy.deepcopy(method.generator).eval().mixed(z, torch.arange(8) % CLASSES)
    torch.testing.assert_close(first, expected.detach())
    assert method.generator.training
