"""A store is cut off and back again, as whoever reaches it through the proxy sees."""

import os

import pytest

from raykd.errors import SetupError
from raykd.store import remote
from raykd.store.remote import Remote
from raykd.tasks.outage import behind_proxy, why_no_outage
from tests.object_store import URL, Server


def test_a_store_behind_the_proxy_is_cut_off_and_back(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSES", ())
    address = f"s3://{s3.new_bucket()}/runs"
    with behind_proxy(address) as proxy:
        assert proxy is not None
        assert os.environ["AWS_ENDPOINT_URL"] == f"http://127.0.0.1:{proxy.port}"
        folder = Remote(address)
        content = os.urandom(3 * 2**20)
        folder.write("large", content)
        assert folder.read("large") == content
        proxy.cut()
        assert folder.try_read("large") is None
        with pytest.raises(SetupError, match="could not open"):
            Remote(address)
        proxy.restore()
        assert proxy.answered_at == 0
        assert folder.try_read("large") == content
        assert proxy.answered_at > 0
    assert os.environ["AWS_ENDPOINT_URL"] == URL
    assert s3.files(address) == {"large"}


def test_what_cannot_be_cut_off_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_no_outage("s3://bucket/runs") is None
    assert "a folder of this machine" in str(why_no_outage("runs"))
    assert "AWS_ENDPOINT_URL" in str(why_no_outage("gs://bucket/runs"))
    assert "AWS_ENDPOINT_URL" in str(why_no_outage("s3://bucket/runs?endpoint_override=127.0.0.1:9000"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://somewhere")
    assert "http://" in str(why_no_outage("s3://bucket/runs"))
    with behind_proxy("s3://bucket/runs") as proxy:
        assert proxy is None
