"""Pictures of a page: what is in them, and that a damaged file costs its own picture alone."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from raykd.reporting.pages.facts import read_run
from raykd.reporting.pages.pictures import kernel_sheets, mean_images, sample_sheets
from raykd.reporting.pages.run_page import run_page
from raykd.results import ImageStatistics
from raykd.store.run_directory import RunDirectory
from tests.reporting.pages.made import PNG, made_run, parsed


def pixels(address: str) -> np.ndarray:
    head, _, content = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def kernels_of(run: RunDirectory, weights: dict[str, torch.Tensor]) -> list[tuple[str, np.ndarray]]:
    save_file(weights, run.student)
    return [(one.name, pixels(one.address)) for one in kernel_sheets(read_run(run))]


def test_kernels_are_those_of_the_first_layer_with_zero_as_grey(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    first = torch.tensor([[-2.0, 0.0], [1.0, 2.0]]).view(1, 1, 2, 2)
    weights = {"layer10.weight": torch.ones(9, 1, 2, 2), "layer2.weight": first, "layer1.bias": torch.ones(3)}
    ((name, drawn),) = kernels_of(run, weights)
    assert name == "student: 1 kernels of 1 × 2 × 2"
    size = drawn.shape[0] // 2
    corners = drawn[size // 2 :: size, size // 2 :: size]
    assert corners[..., 0].tolist() == [[0, 128], [191, 255]]
    assert (corners[..., 3] == 255).all()


def test_the_rows_of_a_first_linear_layer_are_kernels_and_many_are_cut(tmp_path: Path) -> None:
    ((name, drawn),) = kernels_of(made_run(tmp_path), {"fc.weight": torch.randn(100, 64)})
    assert name == "student: 64 of 100 kernels of 1 × 8 × 8"
    assert drawn.shape[1] == 4 * drawn.shape[0] + 12, "4 rows of 16, but for the gaps"


def test_the_teacher_comes_first_where_its_weights_are_there(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    teacher = read_run(run).experiment.teacher
    assert teacher is not None
    (tmp_path / teacher.run_id).mkdir()
    save_file({"conv.weight": torch.ones(2, 1, 3, 3)}, RunDirectory(tmp_path / teacher.run_id).student)
    names = [one.name for one in kernel_sheets(read_run(run))]
    assert [name.partition(":")[0] for name in names] == ["teacher", "student"]


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100])
def test_weights_that_cannot_be_read_cost_their_picture_alone(tmp_path: Path, content: bytes) -> None:
    run = made_run(tmp_path)
    run.student.write_bytes(content)
    assert kernel_sheets(read_run(run)) == []
    assert parsed(run_page(read_run(run), run.path, "run")).one("p", "big").text == "91.25%"


def test_classes_without_images_and_what_is_no_picture_have_no_mean_image(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    run.write_image_statistics(ImageStatistics((1, 0, 2), (PNG, PNG, PNG), {}))
    assert [one.name for one in mean_images(read_run(run))] == ["zero", "two"]
    run.write_image_statistics(ImageStatistics((1, 1, 2), ("javascript:é", "QUJD", PNG), {}))
    assert [one.name for one in mean_images(read_run(run))] == ["two"]


def test_a_page_has_mean_images_kernels_and_the_gaps_of_layers(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    root = parsed(run_page(read_run(run), run.path, "run"))
    assert [one.one("figcaption").text for one in root.one("div", "thumbs").all("figure")] == ["zero", "two"]
    assert [one.one("figcaption").text for one in root.all("figure", "kernels")] == [
        "student: 64 of 80 kernels of 1 × 3 × 3"
    ]
    texts = [one.text for one in root.all("span")]
    assert texts.index("0.50") > texts.index("norm1")
    assert "1.25" in texts


def test_names_and_shapes_of_others_do_not_end_a_page(tmp_path: Path) -> None:
    weights = {"conv1²3": torch.ones(1, 1, 2, 2), "conv0": torch.ones(0, 1, 2, 2), "fc0": torch.ones(0, 64)}
    ((name, _),) = kernels_of(made_run(tmp_path), weights)
    assert name == "student: 1 kernels of 1 × 2 × 2"


def test_a_sheet_that_is_gone_is_left_out(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    run.write_sample_sheet(4, base64.b64decode(PNG))
    ((_, sheet),) = run.sample_sheets()
    sheet.with_name("step_9.png").symlink_to("nowhere.png")
    assert [step for step, _ in run.sample_sheets()] == [4, 9]
    assert [one.name for one in sample_sheets(read_run(run))] == ["step 4"]


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"images": [1], "means": ["a", "b"], "gaps": {}}',
        '{"images": [Infinity], "means": [], "gaps": {}}',
    ],
)
def test_damaged_statistics_are_taken_as_unknown(tmp_path: Path, content: str) -> None:
    run = made_run(tmp_path)
    (run.path / "image_statistics.json").write_text(content)
    assert run.image_statistics() is None
    assert parsed(run_page(read_run(run), run.path, "run")).all("div", "thumbs") == []
