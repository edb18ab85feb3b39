"""An index of other images is read as it was written, or refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raykd.data.index import best_rows
from raykd.errors import CorruptError, UsageError
from tests.tasks.ranked import COUNT, ranked, ranking_place


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return ranking_place(tmp_path)


def test_mistakes_with_an_index_are_told(place: Path) -> None:
    path = ranked(place, 40)
    with pytest.raises(UsageError, match="exists already; remove it"):
        ranked(place, 40)
    with pytest.raises(UsageError, match="--images 61: ours/train has 60 images"):
        ranked(place, 61, "other.parquet")
    with pytest.raises(UsageError, match="no index file 'no.parquet'.*raykd ood TEACHER --data ours --out no.parquet"):
        best_rows("no.parquet", "ours", None, place, None)
    with pytest.raises(UsageError, match="data.ood_images 41: .* holds 40"):
        best_rows(str(path), "ours", 41, place, None)
    (place / "theirs").symlink_to(place / "ours")
    with pytest.raises(UsageError, match="ranks 60 images of 'ours'; data.ood is 'theirs'"):
        best_rows(str(path), "theirs", None, place, None)
    table = pq.read_table(path)
    rows = pa.array([1, *table.column("row").to_pylist()[1:]])
    pq.write_table(table.set_column(0, "row", rows), place / "changed.parquet")
    with pytest.raises(CorruptError, match="its rows are not those that were written"):
        best_rows("changed.parquet", "ours", None, place, None)
    (place / "text.parquet").write_text("no parquet")
    with pytest.raises(CorruptError, match="is no index of `raykd ood`, or is damaged"):
        best_rows("text.parquet", "ours", None, place, None)


def test_another_teachers_index_is_used_with_a_warning(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = ranked(place)
    assert len(best_rows(str(path), "ours", None, place, "0" * 64)) == COUNT
    assert "was ranked by another teacher (teacher) than this run's" in caplog.text
