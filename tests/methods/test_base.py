"""What a method declares: that it is true, and what the engine makes of it."""

from typing import Any, get_args

import pytest
from torch import Tensor

from raykd.methods import METHODS, Method, MethodConfig
from raykd.methods.base import BankMethod, PoolMethod
from raykd.methods.noise import Noise
from tests.methods.toy import BATCH, made_config, made_method


def test_the_table_and_the_union_have_the_same_configurations() -> None:
    configs = get_args(get_args(MethodConfig)[0])
    assert [method.config for method in METHODS.values()] == list(configs)
    for name, method in METHODS.items():
        assert get_args(method.config.model_fields["name"].annotation) == (name,)


@pytest.mark.parametrize("declared", [True, False])
def test_images_that_are_declared_and_not_made_are_refused(declared: bool) -> None:
    members = {"makes_images": declared} if declared else {"sample": lambda self, num_images, seed: None}
    with pytest.raises(TypeError, match=f"Wrong: makes_images is {declared}, which 'sample' must agree with"):
        type("Wrong", (Method,), members)


def test_a_method_may_take_over_how_another_samples() -> None:
    class Quiet(Noise):
        pass

    assert Quiet.makes_images


@pytest.mark.parametrize("name", METHODS)
def test_a_step_counts_what_the_student_or_the_generators_learn_from(name: str) -> None:
    fields: dict[str, Any] = {"mosaickd": {"student_steps": 3}, "adversarial": {"student_updates": 3}}.get(name, {})
    # MosaicKD's student takes as many as are made, three times.
    expected = {"mosaickd": 2 * 3 * BATCH, "adversarial": 3 * BATCH}.get(name, BATCH)
    steps = 10 if name != "pool_inversion" else 9 * 2  # its first call is warm-up, the others update the student twice
    assert METHODS[name].images_of(made_config(name, **fields), 10, BATCH) == expected * steps
    method = made_method(name, **fields)
    if name == "pool_inversion":
        assert method.images_per_step == BATCH, "what the warm-up makes"
        method.step({})
        assert method.images_per_step == BATCH + 2 * BATCH, "and then what the student is shown"
    else:
        assert method.images_per_step * method.total_steps == expected * method.context.steps


@pytest.mark.parametrize("name", METHODS)
def test_who_makes_images_samples_them(name: str) -> None:
    method = made_method(name)
    if isinstance(method, PoolMethod):
        method.step({})  # before that there are none
    if method.makes_images:
        images = method.sample(3, 1)
        assert isinstance(images, Tensor)
        assert images.shape == (3, 1, 8, 8)
    else:
        with pytest.raises(NotImplementedError):
            method.sample(3, 1)
    assert not isinstance(method, BankMethod) or method.makes_images
