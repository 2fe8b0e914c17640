"""A download is the whole file that was published, or one sentence and nothing on disk."""

from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path

import pytest

from hub.loopback import LoopbackHub
from vidzoo.donors import web as room
from vidzoo.donors.web import download, mirrored
from vidzoo.errors import HubError

URL = "https://files.example.org/zoo/net.pth"
CONTENT = bytes(range(256)) * 12_000  # 3 MB: several chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def target(web: LoopbackHub, tmp_path: Path) -> Path:
    (tmp_path / "net.pth").write_bytes(CONTENT)
    web.host(URL, tmp_path / "net.pth")
    return tmp_path / "here"


def sentence(target: Path, **options: str) -> str:
    with pytest.raises(HubError) as caught:
        download(URL, target, **options)
    text = str(caught.value)
    assert "files.example.org" in text
    assert "\n" not in text
    return text


def test_a_file_comes_as_it_is_and_its_hash_is_told(web: LoopbackHub, target: Path) -> None:
    assert download(URL, target, sha256=SHA256[:8]) == SHA256
    assert target.read_bytes() == CONTENT
    assert web.log[-1].user_agent.startswith("vidzoo/")


def test_a_local_file_is_an_address_too(target: Path, tmp_path: Path) -> None:
    assert download((tmp_path / "net.pth").as_uri(), target) == SHA256
    with pytest.raises(HubError, match="there is no such file"):
        download((tmp_path / "nothing.pth").as_uri(), target)


def test_a_mirror_stands_before_every_host_but_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDZOO_MIRROR", "http://mirror/copy/")
    assert mirrored("https://a.b/c/d.pth?id=1") == "http://mirror/copy/a.b/c/d.pth?id=1"
    assert mirrored("file:///c/d.pth") == "file:///c/d.pth"
    monkeypatch.delenv("VIDZOO_MIRROR")
    assert mirrored("https://a.b/c") == "https://a.b/c"


@pytest.mark.parametrize("mirror", ["mirror.example.org/copy", "ftp://mirror.example.org", "//mirror.example.org"])
def test_a_mirror_that_is_no_address_is_named(target: Path, monkeypatch: pytest.MonkeyPatch, mirror: str) -> None:
    monkeypatch.setenv("VIDZOO_MIRROR", mirror)
    with pytest.raises(HubError, match=r"VIDZOO_MIRROR=.* is no address: write it as https"):
        download(URL, target)


def test_another_hash_than_was_published(target: Path) -> None:
    assert f"its sha256 is {SHA256}, expected 00ff00ff" in sentence(target, sha256="00ff00ff")


def test_a_flipped_byte_is_found_by_the_hash(web: LoopbackHub, target: Path) -> None:
    web.fault("GET /_web", corrupt=1_000_000)
    assert "is not the file that was published" in sentence(target, sha256=SHA256)


@pytest.mark.parametrize(("status", "said"), [(404, "no longer there"), (410, "no longer there"), (401, "forbids")])
def test_a_file_that_is_gone_or_forbidden_is_asked_for_once(
    web: LoopbackHub, target: Path, status: int, said: str
) -> None:
    web.fault("GET /_web", status=status)
    text = sentence(target)
    assert said in text
    assert f"status {status}" in text
    assert "tools/convert_checkpoint.py" in text
    assert len(web.log) == 1


def test_a_proxy_that_forbids(web: LoopbackHub, target: Path) -> None:
    web.fault("GET /_web", status=403)
    assert "a proxy or a filter may stand between" in sentence(target)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_an_overloaded_server_is_asked_four_times(web: LoopbackHub, target: Path, status: int) -> None:
    web.fault("GET /_web", status=status)
    text = sentence(target)
    assert "out of order or overloaded" in text
    assert "(tried 4 times)" in text
    assert len(web.log) == 4


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_recovers_is_waited_for(web: LoopbackHub, target: Path, status: int) -> None:
    web.fault("GET /_web", status=status, times=2)
    assert download(URL, target) == SHA256


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(web: LoopbackHub, target: Path, reset: bool) -> None:
    web.fault("GET /_web", cut=1_500_000, reset=reset, times=2)
    assert download(URL, target) == SHA256
    assert target.read_bytes() == CONTENT
    assert [request.status for request in web.log] == [200, 206, 206]


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_always_breaks_is_given_up(web: LoopbackHub, target: Path, reset: bool) -> None:
    web.fault("GET /_web", cut=1000, reset=reset)
    text = sentence(target)
    assert "(tried 4 times)" in text
    assert "bytes" in text


def test_a_connection_that_is_closed_without_an_answer(web: LoopbackHub, target: Path) -> None:
    web.fault("GET /_web", drop=True)
    assert "(tried 4 times)" in sentence(target)


def test_a_web_page_in_the_place_of_the_file(web: LoopbackHub, target: Path) -> None:
    web.fault("GET /_web", status=200, body="<html>please confirm</html>")
    assert "answered with a web page in the place of the weights" in sentence(target)


def test_nobody_listens(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDZOO_MIRROR", "http://127.0.0.1:9")
    start = time.monotonic()
    text = sentence(target)
    assert time.monotonic() - start < 5
    assert "127.0.0.1:9 cannot be reached" in text
    assert "without network, download" in text


def test_a_host_that_does_not_exist(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in sentence(target)


def test_a_host_that_never_answers(web: LoopbackHub, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE_SECONDS", 0.3)
    web.fault("GET /_web", stall=1.0, drop=True)
    start = time.monotonic()
    assert "does not answer in 0.3 seconds" in sentence(target)
    assert time.monotonic() - start < 5
