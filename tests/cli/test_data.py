"""Images of one's own, from their files to a data root."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.cli.conftest import Raykd


def picture(level: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8), level, np.uint8))


def foreign(folder: Path) -> None:
    """Write train and test as Hugging Face has them."""
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        file = io.BytesIO()
        picture(9).save(file, "PNG")
        images = [{"bytes": file.getvalue(), "path": None}] * 10
        features = {"label": {"names": [f"kind {k}" for k in range(10)], "_type": "ClassLabel"}}
        table = pa.table({"image": images, "label": list(range(10))})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def test_a_folder_of_images_becomes_a_set_and_remarks_are_on_stderr(raykd: Raykd, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog", ".ipynb_checkpoints"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            picture(9).save(tmp_path / "pets" / split / name / "0.png")
    done = raykd("data", "imagefolder", "--source", "pets", "--out", "data")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == ["set     pets", "folder  data/pets", "train   2 images", "test    2 images"]
    assert done.stderr.splitlines()[0] == "warning: left out, hidden: pets/train/.ipynb_checkpoints"


@pytest.mark.parametrize(("content", "code"), [(b"", 4), (b"these are my notes", 4)])
def test_a_damaged_image_is_one_line(raykd: Raykd, tmp_path: Path, content: bytes, code: int) -> None:
    (tmp_path / "pets" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "train" / "cat" / "photo.png").write_bytes(content)
    done = raykd("data", "imagefolder", "--source", "pets", "--out", "data")
    assert done.exit_code == code
    assert done.stderr.startswith("error: pets/train/cat/photo.png is damaged")
    assert len(done.stderr.splitlines()) == 1


def test_foreign_files_in_the_data_root_hide_no_other_set(
    raykd: Raykd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path / "root" / "flowers")
    foreign(tmp_path / "root" / "mnist")
    (tmp_path / "root" / "broken").mkdir()
    (tmp_path / "root" / "broken" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setenv("RAYKD_DATA", "root")
    listed = raykd("list", "datasets")
    assert listed.exit_code == 0
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert lines["digits"].endswith("train, test")
    for name in ("flowers", "mnist"):
        assert f"`raykd data parquet --source root/{name} --out DATA`" in lines[name]
    assert "cannot be read" in lines["broken"]
    checks = {check["name"]: check for check in json.loads(raykd("doctor", "--json").stdout)["checks"]}
    assert checks["data set flowers"]["state"] == "missing"
    assert checks["data set broken"]["state"] == "broken"


def test_foreign_files_are_converted_by_the_command_that_the_error_names(
    raykd: Raykd, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path / "root" / "mnist")
    section = {"data": "mnist", "teacher": {"model": "lenet5", "weights": teacher.name}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(section))
    monkeypatch.setenv("RAYKD_DATA", "root")
    refused = raykd("inspect", "mine.yaml")
    assert refused.exit_code == 2
    assert "raykd data parquet --source root/mnist --out DATA" in refused.stderr
    made = raykd("data", "parquet", "--source", "root/mnist", "--out", "data")
    assert made.exit_code == 0, made.stderr
    assert made.stdout.splitlines() == ["set     mnist", "folder  data/mnist", "train   10 images", "test    10 images"]
    monkeypatch.setenv("RAYKD_DATA", "data")
    assert json.loads(raykd("inspect", "mine.yaml", "--json").stdout)["test_missing"] is None
