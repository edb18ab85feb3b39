"""Archives of images: where their files lie, and what is refused."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from raykd.data.tar_index import Member, members
from raykd.errors import CorruptError

CONTENT = {"a.JPEG": b"first", "b.JPEG": b"x" * 2000, "c.JPEG": b""}


def file_entry(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def write(path: Path, entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write(tmp_path / "set.tar", [file_entry(*pair) for pair in CONTENT.items()])


def read(path: Path, member: Member) -> bytes:
    return path.read_bytes()[member.offset : member.offset + member.size]


def test_files_are_where_it_says(archive: Path) -> None:
    assert {member.name: read(archive, member) for member in members(archive)} == CONTENT


def test_files_of_an_archive_inside_are_where_it_says(archive: Path, tmp_path: Path) -> None:
    outer = write(tmp_path / "outer.tar", [file_entry("n1.tar", archive.read_bytes()), file_entry("x", b"more")])
    inside = next(iter(members(outer)))
    assert {member.name: read(outer, member) for member in members(outer, inside)} == CONTENT


def test_long_names_and_odd_letters_are_kept(tmp_path: Path) -> None:
    name = "ä" * 90 + " (1) \u202e.JPEG"
    (member,) = members(write(tmp_path / "set.tar", [file_entry(name, b"x")]))
    assert member.name == name


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_an_archive_that_is_cut_off_is_told(archive: Path, share: float) -> None:
    whole = archive.read_bytes()[:5120]  # up to the first block that ends it
    archive.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CorruptError, match=r"set\.tar is no whole tar archive"):
        list(members(archive))


def test_an_archive_that_is_cut_off_between_two_files_is_told(archive: Path) -> None:
    """No header and no file is torn, so that a reader may take what is left for the whole."""
    archive.write_bytes(archive.read_bytes()[:1024])
    with pytest.raises(CorruptError, match="it has no end: it is cut off"):
        list(members(archive))


def special(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info, b""


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (special("a.JPEG", tarfile.SYMTYPE), "a link"),
        (special("a.JPEG", tarfile.LNKTYPE), "a link"),
        (special("a.JPEG", tarfile.CHRTYPE), "no plain file"),
        (special("a.JPEG", tarfile.FIFOTYPE), "no plain file"),
        (file_entry("../a.JPEG", b"x"), "outside of a folder"),
        (file_entry("train/../../a.JPEG", b"x"), "outside of a folder"),
        (file_entry("/etc/a.JPEG", b"x"), "outside of a folder"),
    ],
)
def test_what_no_archive_of_images_has_is_refused(
    tmp_path: Path, entry: tuple[tarfile.TarInfo, bytes], what: str
) -> None:
    path = write(tmp_path / "set.tar", [file_entry("z.JPEG", b"x"), entry])
    with pytest.raises(CorruptError, match=f"is {what}|so that it would lie {what}"):
        list(members(path))
    assert [each.name for each in tmp_path.iterdir()] == ["set.tar"]


def test_long_names_of_long_names_without_end_are_told(tmp_path: Path) -> None:
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 4
    header = long_name.tobuf(tarfile.GNU_FORMAT) + b"abc".ljust(512, b"\0")
    (tmp_path / "chained.tar").write_bytes(header * 3000 + bytes(1024))
    with pytest.raises(CorruptError, match="chained.tar is no whole tar archive"):
        list(members(tmp_path / "chained.tar"))


def test_something_else_is_no_archive(tmp_path: Path) -> None:
    for content in (b"", b"no archive at all" * 100):
        (tmp_path / "set.tar").write_bytes(content)
        with pytest.raises(CorruptError, match="is no whole tar archive"):
            list(members(tmp_path / "set.tar"))


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    folder = tarfile.TarInfo("train")
    folder.type = tarfile.DIRTYPE
    path = write(
        tmp_path / "set.tar", [(folder, b""), file_entry("train/._a.JPEG", b"x"), file_entry("train/a.JPEG", b"y")]
    )
    assert [member.name for member in members(path)] == ["train/a.JPEG"]
