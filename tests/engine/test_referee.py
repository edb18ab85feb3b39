"""The referee pools the images of several runs, and leaves out those of a run that failed."""

import logging

import pytest
import torch

from raykd.data.datasets import Images
from raykd.distributed.world import World
from raykd.engine.referee import Referee, Source
from raykd.errors import RunFailed
from tests.methods.toy import SPEC, Plain, made_images, made_teacher

ALONE = World.alone()


def source(run: str, images: Images, fault: str | None = None) -> Source:
    from raykd.data.streams import evaluation_batches
    from raykd.models.logits import compute_logits

    batches = (batch.images for batch in evaluation_batches(images, SPEC, ALONE, 500))
    return Source(run, images, SPEC, compute_logits(made_teacher(), batches, ALONE), fault)


def test_a_source_that_failed_is_left_out_where_another_did_not(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    good, bad, student = source("a", made_images(40)), source("b", made_images(40, seed=7), "few"), Plain()
    both = Referee([good, bad], ALONE)
    assert both.score(student) == Referee([good], ALONE).score(student) != Referee([bad], ALONE).score(student)
    with caplog.at_level(logging.WARNING):
        both.check()
    assert "left out of the referee's images: b: few" in caplog.text


def test_several_sources_are_one_set() -> None:
    torch.manual_seed(0)
    first, second, student = made_images(40), made_images(40, seed=7), Plain()
    whole = Images(torch.cat([first.pixels, second.pixels]), torch.cat([first.labels, second.labels]))
    parts = Referee([source("a", first), source("b", second)], ALONE).score(student)
    assert parts == pytest.approx(Referee([source("ab", whole)], ALONE).score(student))


def test_a_referee_that_failed_altogether_is_refused() -> None:
    referee = Referee([source("a", made_images(40), "show 10 %")], ALONE)
    assert referee.score(Plain())["agreement"] >= 0  # as for a plan, whose networks are untrained
    with pytest.raises(RunFailed, match="a: show 10 %.* name others, as in 'referee="):
        referee.check()
