"""What is tried side by side: recipes whose budget and settings can be others."""

import pytest

from raykd.recipe.candidates import Candidate, candidates
from raykd.recipe.experiment import resolve


@pytest.mark.parametrize("candidate", candidates(), ids=lambda one: f"{one.name}-{one.recipe}")
def test_each_has_a_schedule_of_any_length_and_settings_to_vary(candidate: Candidate) -> None:
    recipe = candidate.with_schedule(candidate.load(), 240, 20)
    assert (recipe.schedule.steps, recipe.schedule.report_every) == (240, 20)
    variants = candidate.variants(recipe)
    assert len({resolve(one).run_id for one in (recipe, *variants.values())}) == 1 + len(variants)
    assert len({one.name for one in variants.values()}) == len(variants)
    if candidate.control:
        assert not variants
    else:
        assert any(what.startswith("student_optim.lr=") for what in variants)


def test_what_is_scaled_is_a_share_of_the_steps() -> None:
    fast = next(one for one in candidates() if one.scaled)
    (key, share), recipe = next(iter(fast.scaled.items())), fast.load()
    leaf = key.rpartition(".")[2]
    assert getattr(fast.with_schedule(recipe, 1000, 10).method, leaf) == round(1000 * share)
    assert getattr(fast.with_schedule(recipe, 2, 1).method, leaf) == 1


def test_what_the_user_sets_is_neither_scaled_nor_varied() -> None:
    fast = next(one for one in candidates() if one.scaled)
    (key, _), recipe = next(iter(fast.scaled.items())), fast.load()
    own = fast.leaving([key, "student_optim.lr"])
    leaf = key.rpartition(".")[2]
    assert getattr(own.with_schedule(recipe, 1000, 10).method, leaf) == getattr(recipe.method, leaf)
    assert not any(what.startswith("student_optim.lr=") for what in own.variants(recipe))
    assert own.variants(recipe)
    assert not any(what.startswith("student_optim.") for what in fast.leaving(["student_optim"]).variants(recipe))


def test_a_variant_differs_in_one_number() -> None:
    dafl = next(one for one in candidates() if one.name == "dafl")
    recipe = dafl.load()
    assert recipe.student_optim is not None
    what, variant = next(iter(dafl.variants(recipe).items()))
    assert variant.student_optim is not None
    assert what == f"student_optim.lr={variant.student_optim.lr:g}"
    assert variant.student_optim.lr == pytest.approx(0.3 * recipe.student_optim.lr)
    same = variant.model_copy(update={"student_optim": recipe.student_optim, "name": recipe.name})
    assert same == recipe


def test_of_each_name_one_fits_any_teacher() -> None:
    for channels, size, batch_norm in ((1, 28, False), (1, 32, True), (3, 32, True), (3, 64, True), (3, 32, False)):
        fitting = {one.name for one in candidates() if one.fits(channels, size, batch_norm)}
        assert fitting == {one.name for one in candidates()}
