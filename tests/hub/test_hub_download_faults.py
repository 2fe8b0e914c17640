"""Whatever goes wrong with a download is one sentence that says what, where, why and what helps; nothing half is kept."""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import vidzoo
from hub.loopback import LoopbackHub, point_client_at
from vidzoo.errors import HubError, UnknownModelError, WeightsError
from vidzoo.hub import fetch

ANY_FILE = "^HEAD .*resolve"
WEIGHTS = "model.safetensors"


def sentence(repo: str = "zoo/tiny", **options: Any) -> str:
    """What ``fetch`` says; always one line that names the model, with the client's own exception behind it."""
    with pytest.raises(HubError) as caught:
        fetch(repo, **options)
    text = str(caught.value)
    assert repo.split("@")[0] in text
    assert "\n" not in text
    assert caught.value.__cause__ is not None
    return text


def test_a_missing_repository(hub: LoopbackHub) -> None:
    text = sentence("zoo/nothing", token="hf_write")
    assert f"there is no model zoo/nothing at {hub.url}, or it is private" in text
    assert "hf auth login" in text


def test_a_private_repository_without_a_token(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.state.repos["zoo/tiny"].private = True
    assert "or it is private: check the name, or run `hf auth login`" in sentence()


def test_a_gated_repository(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.state.repos["zoo/tiny"].gated = True
    for token in (None, "hf_read"):
        assert f"zoo/tiny is gated: ask for access at {hub.url}/zoo/tiny" in sentence(token=token)


def test_a_disabled_repository(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.fault(ANY_FILE, status=403, message="Access to this resource is disabled.")
    assert "has been disabled by the Hub" in sentence()


def test_a_token_that_is_not_valid(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    assert f"{hub.url} refuses your token for zoo/tiny: it is wrong or has expired" in sentence(token="hf_old")


def test_a_token_that_may_not(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.fault(ANY_FILE, status=403, message="no")
    assert "forbids zoo/tiny: your token lacks the right" in sentence()


def test_a_missing_revision(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    assert f"zoo/tiny has no revision 'v9': see the branches and tags at {hub.url}" in sentence("zoo/tiny@v9")


def test_a_repository_without_a_config(hub: LoopbackHub) -> None:
    hub.state.add_model("zoo/other", {"README.md": b"hello"})
    assert "zoo/other has no config.json, so it is no model that vidzoo can build" in sentence("zoo/other")


def test_a_shard_that_is_missing(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    index = b'{"weight_map": {"fc.bias": "model-00001-of-00001.safetensors"}}'
    files = {"config.json": published["config.json"], "model.safetensors.index.json": index}
    hub.state.add_model("zoo/shards", files)
    with pytest.raises(WeightsError, match=r"zoo/shards@.* lacks the shard model-00001-of-00001\.safetensors"):
        fetch("zoo/shards")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_hub_that_is_out_of_order(
    hub: LoopbackHub, published: dict[str, bytes], no_backoff: None, status: int
) -> None:
    hub.fault(ANY_FILE, status=status)
    text = sentence()
    assert "out of order or overloaded" in text
    assert ("too many requests" if status == 429 else f"status {status}") in text


def test_a_hub_that_recovers_in_time_is_waited_for(
    hub: LoopbackHub, published: dict[str, bytes], no_backoff: None
) -> None:
    hub.fault(ANY_FILE, status=503, times=3)
    assert fetch("zoo/tiny").weights is not None


def test_a_second_origin_that_refuses(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.fault("^CDN GET", status=500)
    assert "status 500" in sentence()


def test_nobody_listens(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    point_client_at(url, monkeypatch)
    start = time.monotonic()
    text = sentence("zoo/tiny@v1")
    # An offline machine is told so at once: this bound is what is promised to users, not a measurement.
    assert time.monotonic() - start < 5
    assert f"{url} cannot be reached for zoo/tiny@v1" in text
    assert "`hf download zoo/tiny --revision v1 --local-dir FOLDER`" in text
    assert "local-dir:FOLDER" in text
    assert "HF_HUB_OFFLINE=1" in text


def test_a_host_that_does_not_exist(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    point_client_at("http://hub.invalid", monkeypatch)
    start = time.monotonic()
    assert "http://hub.invalid cannot be reached for zoo/tiny" in sentence()
    assert time.monotonic() - start < 5


def test_a_proxy_that_is_not_there_is_named(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    huggingface_hub.close_session()
    text = sentence()
    huggingface_hub.close_session()
    assert "check the network and the proxy http://127.0.0.1:9" in text


def test_a_certificate_that_is_not_trusted(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    point_client_at(hub.url.replace("http:", "https:"), monkeypatch)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", untrusted)
    assert "set SSL_CERT_FILE to the authority of your network" in sentence()


def untrusted(*_: object, **__: object) -> None:
    from huggingface_hub.utils import httpx

    raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")


def test_a_host_that_swallows_everything_is_asked_once(
    hub: LoopbackHub, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.5)
    hub.fault(ANY_FILE, stall=1.0, drop=True)
    text = sentence()
    assert "it does not answer in time" in text
    assert "HF_HUB_ETAG_TIMEOUT=30" in text
    time.sleep(0.8)  # the server writes its line when it wakes up
    assert len(hub.log) == 1


def test_no_network_but_a_cached_model(
    hub: LoopbackHub, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch("zoo/tiny")
    point_client_at("http://127.0.0.1:9", monkeypatch)
    start = time.monotonic()
    assert fetch("zoo/tiny") == first
    assert time.monotonic() - start < 5


def test_no_network_and_only_the_config_is_cached(
    hub: LoopbackHub, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("zoo/tiny", weights=False)
    point_client_at("http://127.0.0.1:9", monkeypatch)
    start = time.monotonic()
    assert "http://127.0.0.1:9 cannot be reached" in sentence()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("how", ["environment", "argument"])
def test_offline_mode_and_not_cached(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "environment")
    text = sentence(local_files_only=how == "argument")
    assert "is not in the cache" in text
    assert "the network is switched off" in text
    assert "`hf download zoo/tiny --local-dir FOLDER`" in text
    assert hub.log == []


def test_a_login_page_in_between(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.fault("resolve", status=200, body="<html>please sign in</html>")
    assert "answered for zoo/tiny, but not as a Hub does: a login page" in sentence()


def test_a_server_that_sends_no_etag(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.fault("resolve", hide=("ETag",))
    assert "not as a Hub does" in sentence()


def test_a_connection_that_is_reset_in_the_middle(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.fault("^CDN GET", cut=1000, reset=True)
    assert "the connection was cut while loading zoo/tiny" in sentence()
    assert left_over() == []


def test_a_connection_that_is_always_closed_in_the_middle(
    hub: LoopbackHub, published: dict[str, bytes], no_backoff: None
) -> None:
    hub.fault("^CDN GET", cut=1000)
    assert "the connection was cut while loading zoo/tiny" in sentence()
    assert left_over() == []


def test_a_connection_that_is_closed_once_is_taken_up_again(
    hub: LoopbackHub, published: dict[str, bytes], no_backoff: None
) -> None:
    hub.fault("^CDN GET", cut=1000, times=1)
    weights = fetch("zoo/tiny").weights
    assert weights is not None
    assert weights.read_bytes() == published[WEIGHTS]


def test_a_file_that_is_shorter_than_announced(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.fault("^CDN GET", truncate=1000)
    assert "the data of zoo/tiny has another length than the Hub announced" in sentence()
    assert left_over() == []


def test_a_flipped_byte_is_found_by_the_hash(hub: LoopbackHub, published: dict[str, bytes]) -> None:
    hub.fault("^CDN GET", corrupt=3000)
    with pytest.raises(WeightsError, match="is not the file that was published: its sha256 is"):
        vidzoo.create_model("hf-hub:zoo/tiny")


def test_xet_data_that_is_missing(hub: LoopbackHub, transport: str, model: Any) -> None:
    vidzoo.hub.push(model, "zoo/tiny", token="hf_write")
    hub.fault("_cas/get|_cas/v1/reconstructions|^CDN GET", status=404)
    text = sentence()
    if transport == "xet":
        assert "did not come" in text
        assert "HF_HUB_DISABLE_XET=1" in text
    else:
        assert "status 404" in text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(hub: LoopbackHub, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(code, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert f"the disk of {constants.HF_HUB_CACHE} is full" in sentence()


def test_a_full_disk_under_xet(hub: LoopbackHub, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Task error: IO Error: No space left on device (os error 28)")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert f"the disk of {constants.HF_HUB_CACHE} is full" in sentence()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_cache_that_cannot_be_written(
    hub: LoopbackHub, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, "no writing here")

    monkeypatch.setattr("huggingface_hub.file_download.os.makedirs", refuse)
    text = sentence()
    assert f"cannot be kept in {constants.HF_HUB_CACHE} (no writing here)" in text
    assert "HF_HOME" in text


def test_a_cache_that_is_a_file(hub: LoopbackHub, published: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be kept in" in sentence(cache_dir=tmp_path / "file")


@pytest.mark.parametrize("repo", ["a/b/c", "./folder", "zoo/ti ny", "zoo/--"])
def test_an_id_that_cannot_be(hub: LoopbackHub, repo: str) -> None:
    text = sentence(repo)
    assert f"{repo!r} is not a Hub id: write org/name, or local-dir:{repo}" in text
    assert hub.log == []


@pytest.mark.parametrize("repo", ["", "@v1", "zoo/tiny@", "zoo/tiny@a@b"])
def test_an_id_whose_revision_cannot_be_meant(hub: LoopbackHub, repo: str) -> None:
    with pytest.raises(UnknownModelError, match=r"write (hf-hub:)?org/name"):
        fetch(repo)


def test_a_config_that_is_damaged_names_the_repository(hub: LoopbackHub) -> None:
    hub.state.add_model("zoo/broken", {"config.json": b'{"architecture": '})
    with pytest.raises(HubError, match=r"models--zoo--broken.*config\.json is not valid JSON"):
        fetch("zoo/broken")


def left_over() -> list[str]:
    return [str(file) for file in Path(constants.HF_HUB_CACHE).rglob("*safetensors*")] + [
        str(file) for file in Path(constants.HF_HUB_CACHE).rglob("*.incomplete")
    ]
