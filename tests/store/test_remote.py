"""Object stores: what is sent comes back, an outage is outlasted, and a slip is told at once in one line."""

import os
import threading
import time
from datetime import timedelta
from pathlib import Path

import boto3
import pytest

from raykd.errors import SetupError, UsageError
from raykd.store import remote
from raykd.store.mirror import Mirror
from raykd.store.remote import Remote, check_address, join
from tests.object_store import URL, Server


def test_what_is_sent_comes_back(server: Server, tmp_path: Path) -> None:
    folder = Remote(f"{server.scheme}://{server.new_bucket()}/some/store")
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 80_000)  # 20 MB: in parts
    folder.push(large, "run/checkpoints/large")
    folder.write("run/status.json", b"{}")
    found = folder.entries("run")
    assert {name: entry.size for name, entry in found.items()} == {
        "checkpoints/large": large.stat().st_size,
        "status.json": 2,
    }
    assert abs(found["status.json"].written - time.time()) < 60
    assert folder.entry("run/status.json") == found["status.json"]
    with pytest.raises(SetupError, match="could not find .*nothing"):
        folder.entry("run/nothing")
    assert set(folder.entries("run", deep=False)) == {"status.json"}
    assert folder.entries("nothing") == {}
    folder.fetch("run/checkpoints/large", tmp_path / "a" / "back")
    assert (tmp_path / "a" / "back").read_bytes() == large.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["back"]
    assert folder.read("run/status.json") == b"{}"
    assert folder.read("run/nothing") is None
    folder.remove("run/checkpoints")
    folder.remove("run/nothing")
    assert set(folder.entries("run")) == {"status.json"}


def test_a_key_that_leads_out_of_the_folder_is_left_out(s3: Server, tmp_path: Path) -> None:
    """Nothing is written outside of the copy, whoever has put what into the bucket."""
    bucket = s3.new_bucket()
    client = boto3.client("s3", endpoint_url=URL)
    for key in ("status.json", f"/{tmp_path}/planted.json", "a//b.json", "a/../../c.json", "../other.json"):
        client.put_object(Bucket=bucket, Key=f"store/run/{key}", Body=b"{}")
    folder = Remote(f"s3://{bucket}/store")
    assert set(folder.entries("run")) == {"status.json"}
    Mirror(folder, tmp_path / "copy").pull("run")
    assert [path.name for path in tmp_path.rglob("*.json")] == ["status.json"]


def test_an_outage_is_outlasted(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "_GOOGLE_PATIENCE", timedelta(seconds=1))
    folder = Remote(f"{server.scheme}://{server.new_bucket()}")
    server.stop()
    threading.Timer(2, server.start).start()
    began = time.monotonic()
    folder.write("late", b"in the end")
    assert folder.read("late") == b"in the end"
    assert time.monotonic() - began > 1
    assert "trying again in 1 s" in caplog.text


def test_a_store_that_is_known_may_be_out_at_the_first_contact(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command starts was sent to a store that answered then."""
    monkeypatch.setattr(remote, "_GOOGLE_PATIENCE", timedelta(seconds=1))
    monkeypatch.setattr(remote, "FIRST_PAUSES", ())
    address = f"{server.scheme}://{server.new_bucket()}/store"
    Remote(address).write("early", b"there")
    server.stop()
    threading.Timer(2, server.start).start()
    with pytest.raises(SetupError, match="could not open"):
        Remote(address)
    folder = Remote(address, known=True)
    assert folder.try_read("early") is None
    folder.try_remove("early")
    assert folder.read("early") == b"there"


def test_a_store_that_is_gone_is_given_up_in_the_end(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PAUSES", (0.01,))
    folder = Remote(f"s3://{s3.new_bucket()}/store")
    s3.stop()
    try:
        with pytest.raises(SetupError, match=r"could not write s3://bucket-\d+/store/status.json .*same command"):
            folder.write("status.json", b"{}")
        assert folder.try_list("run") == []
        assert folder.try_read("run/status.json") is None
    finally:
        s3.start()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/folder", "give a path, or s3://BUCKET/FOLDER"),
        ("s3://", "give a path"),
        ("s3://key:secret@bucket/folder", "no key and no password"),
        ("s3://key@bucket/folder", "no key and no password"),
        ("s3://bucket/folder?secret_key=hush", "'secret_key' of a s3:// address is not known; known: endpoint"),
        ("s3://bucket?endpoint_override=http://key:hush@host", "no key and no password"),
        (
            "s3a://key:secret/hush@bucket/folder",
            r"'s3a://\.\.\.@bucket/folder' is no store that raykd knows: give a path",
        ),
        ("s3a://bucket/folder?secret_key=hush", r"'s3a://bucket/folder\?\.\.\.' is no store"),
    ],
)
def test_an_address_that_is_none_is_refused_without_repeating_a_secret(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        check_address(address)
    assert "hush" not in str(refused.value)
    assert "key:secret" not in str(refused.value)


def test_a_full_disk_of_this_machine_is_told_at_once_and_not_as_the_stores(s3: Server, tmp_path: Path) -> None:
    folder = Remote(f"s3://{s3.new_bucket()}/store")
    folder.write("weights", b"x" * 100)
    (tmp_path / ".weights.fetching").symlink_to("/dev/full")
    began = time.monotonic()
    with pytest.raises(
        SetupError, match=r"/\.weights\.fetching on this machine: No space left on device; .*RAYKD_CACHE"
    ):
        folder.fetch("weights", tmp_path / "weights")
    assert not os.path.lexists(tmp_path / ".weights.fetching")
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="/file/weights on this machine: "):
        folder.fetch("weights", tmp_path / "file" / "weights")
    with pytest.raises(SetupError, match=f"{tmp_path} on this machine: Is a directory"):
        folder.push(tmp_path, "folder")
    assert time.monotonic() - began < 1


def test_a_bucket_that_is_not_there_is_told_at_once(server: Server) -> None:
    began = time.monotonic()
    with pytest.raises(SetupError, match="no-such-bucket"):
        Remote(f"{server.scheme}://no-such-bucket/store")
    assert time.monotonic() - began < 1


def test_options_stay_behind_what_is_joined() -> None:
    assert join("s3://b/runs?region=eu-west-1", "x-s0") == "s3://b/runs/x-s0?region=eu-west-1"
    assert join("runs", "x-s0") == "runs/x-s0"
