"""The axes along which planning foretells a run, against numbers counted by hand."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from raykd.methods import METHODS
from raykd.methods.cost import PlannedRun, by_images, by_images_of_jobs, by_images_of_members, by_members
from raykd.results import RunPlan
from tests.methods.toy import made_config


def planned(workers: int, batch: int, waves: int = 1, classes: int = 10) -> PlannedRun:
    return PlannedRun(workers, batch, steps=50, built=lambda: {"classes": classes, "total_steps": 50 * waves})


def unasked() -> Mapping[str, Any]:
    raise AssertionError("nothing needs to be built for this")


def test_images_are_shared_by_the_workers() -> None:
    axis = by_images(PlannedRun(4, 96, 50, unasked))
    assert (axis.counts, axis.planned, list(axis.sizes)) == ("images", 24, list(range(6, 25)))
    assert axis.knobs(6) == {"global_batch": 24}
    assert (axis.shares, axis.stages, axis.members) == ({"images_per_worker": 24}, (24,), 0)
    assert axis.smaller(13) == ["8 workers", "schedule.global_batch=52 (now 96)"], "8 x 12 is 96"
    assert axis.smaller(1) == []
    assert by_images(PlannedRun(1, 4, 50, unasked)).sizes[0] == 2, "one image has no variance"


def test_members_of_a_wave() -> None:
    axis = by_members(planned(workers=2, batch=200, waves=2))
    assert (axis.counts, axis.planned, axis.stages, axis.members) == ("members", 3, (3, 3), 3)
    assert axis.knobs(2) == {"wave": 2}
    assert axis.shares == {
        "classes_per_worker": 5, "images_per_class": 20, "images_per_worker": 60, "wave": 3, "waves": 2
    }  # fmt: skip
    assert axis.smaller(2) == ["wave: 2 in the cluster file (now 3)", "5 workers for a single wave"]
    assert axis.smaller(0) == ["schedule.global_batch=20 (now 200), fewer images of each class"]
    assert by_members(planned(2, 20)).smaller(0) == [], "no class can have fewer than two images"


def test_a_wave_that_no_capacity_gives_is_not_tried() -> None:
    """Of 10 classes, a capacity of 8 makes two waves of 5, as one of 5, 6 or 7 does."""
    assert list(by_members(planned(workers=1, batch=1000)).sizes) == [1, 2, 3, 4, 5, 10]


def test_images_of_members_that_learn_together() -> None:
    axis = by_images_of_members(planned(workers=3, batch=200))
    assert (axis.counts, axis.planned, axis.stages, axis.members) == ("images of a member", 20, (20,), 4)
    assert axis.knobs(5) == {"global_batch": 50}
    assert axis.shares["wave"] == 4
    assert axis.smaller(7) == ["schedule.global_batch=70 (now 200)"]
    assert axis.smaller(1) == []


def test_jobs_are_whole_on_each_worker_one_after_the_other() -> None:
    axis = by_images_of_jobs(planned(workers=3, batch=100, waves=2))
    assert (axis.counts, axis.planned, axis.stages, axis.members) == ("images of a job", 100, (100, 100), 0)
    assert (axis.sizes[0], axis.knobs(40)) == (8, {"global_batch": 40})
    assert axis.shares == {"images_per_worker": 100, "jobs_per_worker": 2}
    assert axis.smaller(7) == ["schedule.global_batch=7 (now 100)"]
    assert axis.smaller(1) == []


def test_what_a_worker_has_of_a_run_is_part_of_a_plan() -> None:
    run, known = planned(workers=2, batch=200), {one.name for one in fields(RunPlan)}
    for name, method in METHODS.items():
        assert set(method.cost_axis(made_config(name), run).shares) <= known, name


def test_who_grows_with_what() -> None:
    run = planned(workers=2, batch=200)
    counts = {name: method.cost_axis(made_config(name), run).counts for name, method in METHODS.items()}
    assert {name for name, count in counts.items() if count != "images"} == {"lsgdfd", "pixel_inversion"}
    assert counts["pixel_inversion"] == "images of a job"
    assert counts["lsgdfd"] == "members"
    whole = METHODS["lsgdfd"].cost_axis(made_config("lsgdfd", statistics="global"), run)
    assert whole.counts == "images of a member"
