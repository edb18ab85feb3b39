"""Which other images are shown: ranked by a teacher, the best of an index, or every class equally often."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from raykd.config.runtime import Runtime
from raykd.data.datasets import Images, load_images
from raykd.data.index import best_rows
from raykd.data.streamed import StreamedImages
from raykd.distributed.world import World
from raykd.engine.build import Built, build
from raykd.errors import UsageError
from raykd.recipe.experiment import resolve
from raykd.recipe.recipe import Recipe, load_recipe
from tests.engine.other_images import workspace
from tests.tasks.ranked import COUNT, ranked, ranking_place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return ranking_place(tmp_path)


def entropies(place: Path) -> tuple[Tensor, Tensor]:
    """Entropy of every image, and its class, by another formula than the one that is tested."""
    built = build(resolve(load_recipe_of(place)), World.alone(), Runtime(), workspace(place))
    spec = built.spec
    assert built.teacher is not None
    pixels = load_images("ours", "train", spec, place).pixels
    with torch.no_grad():
        logits = built.teacher(spec.normalise(pixels.float() / 255))[0].double()
    return torch.distributions.Categorical(logits=logits).entropy(), logits.argmax(1)


def load_recipe_of(place: Path, *pairs: str, data: str = "{name: digits, ood: ours}") -> Recipe:
    teacher = f"teacher={{model: lenet5, weights: {place / 'teacher.safetensors'}}}"
    schedule = "schedule={steps: 4, report_every: 2, global_batch: 30}"
    return load_recipe("blind_kd_mnist", [f"data={data}", teacher, schedule, *pairs])


def built_with(place: Path, data: str) -> Built:
    return build(resolve(load_recipe_of(place, data=data)), World.alone(), Runtime(), workspace(place))


def test_images_come_in_the_order_of_their_entropy(place: Path) -> None:
    expected, classes = entropies(place)
    table = pq.read_table(ranked(place))
    order = torch.tensor(table.column("row").to_pylist())
    assert sorted(order.tolist()) == list(range(COUNT))
    found = torch.tensor(table.column("entropy").to_pylist(), dtype=torch.float64)
    assert (found.diff() <= 0).all()
    torch.testing.assert_close(found, expected[order], rtol=1e-4, atol=1e-4)
    assert table.column("predicted").to_pylist() == classes[order].tolist()
    best = best_rows(str(place / "index.parquet"), "ours", 20, place, None)
    torch.testing.assert_close(expected[best].sum(), expected.topk(20).values.sum(), rtol=1e-4, atol=1e-4)
    assert best.tolist() == sorted(best.tolist())


def test_certain_predictions_have_entropy_zero_and_not_nan(place: Path) -> None:
    weights = place / "teacher.safetensors"
    tensors = load_file(weights)
    for name in [key for key in tensors if key.endswith(("weight", "bias"))][-2:]:
        tensors[name] *= 1e4
    last = list(tensors)[-2:]
    save_file({name: value * (1e6 if name in last else 1) for name, value in tensors.items()}, weights)
    found = torch.tensor(pq.read_table(ranked(place)).column("entropy").to_pylist())
    assert found.isfinite().all()
    assert (found == 0).any()
    log_p = F.log_softmax(torch.tensor([[0.0, 2000.0]]), 1)
    assert (log_p.exp() * log_p.exp().log()).sum().isnan(), "what the usual formula gives"


def test_an_index_chooses_what_is_shown(place: Path) -> None:
    path = ranked(place, 40)
    expected = best_rows(str(path), "ours", None, place, None)
    assert len(expected) == 40
    for extra, chosen in (("", expected), (", ood_images: 32", best_rows(str(path), "ours", 32, place, None))):
        built = built_with(place, f"{{name: digits, ood: ours, ood_index: index.parquet{extra}}}")
        images = built.streams["ood"].images
        assert isinstance(images, Images)
        whole = load_images("ours", "train", built.spec, place)
        assert torch.equal(images.pixels, whole.pixels[chosen])
    streamed = built_with(place, "{name: digits, ood: ours, ood_index: index.parquet, buffer: 60}")
    stream = streamed.streams["ood"].images
    assert isinstance(stream, StreamedImages)
    assert stream.count == 40
    assert streamed.opened.by_role()["ood"] == ["ours/train"]


def test_balanced_images_show_every_class_equally_often(place: Path) -> None:
    _, classes = entropies(place)
    counts = classes.bincount()
    assert counts[counts > 0].max() > 2 * counts[counts > 0].min(), "else this would show nothing"
    stream = built_with(place, "{name: digits, ood: ours, ood_balanced: true}").streams["ood"]
    seen = torch.zeros(10)
    for step in range(200):
        shown = stream.batch(step)
        assert shown.teacher_logits is not None
        seen += shown.teacher_logits.argmax(1).bincount(minlength=10)
    share = seen[counts.nonzero().flatten()] / seen.sum()
    assert (share * len(share) - 1).abs().max() < 0.15


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        (["data.ood_index=x.parquet"], "'ood_index' chooses of the set that 'ood' names"),
        (["data.ood_balanced=true"], "'ood_balanced' chooses of the set that 'ood' names"),
        (["data.buffer=0"], "buffer"),
    ],
)
def test_choices_need_a_set(pairs: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe("kd_digits", pairs)


def test_balance_needs_all_images_in_memory() -> None:
    with pytest.raises(UsageError, match="'ood_balanced' needs all images in memory"):
        load_recipe("blind_kd_mnist", ["data.ood_balanced=true", "data.buffer=5000"])
