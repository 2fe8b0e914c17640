"""A file from the web: resumed when the line breaks, checked for length and hash, never half there."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from vidzoo.errors import HubError

__all__ = ["download", "mirrored"]

PATIENCE_SECONDS = 4.0
"""How long a server may be silent at first; a download under way may pause longer."""
STALL_SECONDS = 30.0
PAUSES_SECONDS = (0.5, 2.0, 5.0)
"""Before the second, third and fourth attempt."""
CHUNK = 1 << 20

_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class _Again(Exception):
    """This attempt failed in a way that another one may not."""


@dataclass
class _Progress:
    file: BinaryIO
    total: int | None = None
    done: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.total, self.done, self.digest = None, 0, hashlib.sha256()


def mirrored(url: str) -> str:
    """The address with ``VIDZOO_MIRROR`` in front of its host, for networks that reach the web through a copy of it.

    Raises:
        HubError: that is no address.
    """
    mirror = os.environ.get("VIDZOO_MIRROR", "").rstrip("/")
    parts = urlsplit(url)
    if not mirror or parts.scheme == "file":
        return url
    if urlsplit(mirror).scheme not in ("http", "https", "file"):
        raise HubError(f"VIDZOO_MIRROR={mirror!r} is no address: write it as https://host/path, or unset it")
    query = f"?{parts.query}" if parts.query else ""
    return f"{mirror}/{parts.netloc}{parts.path}{query}"


def download(url: str, target: Path, *, sha256: str = "") -> str:
    """Write what lies at ``url`` to ``target`` and return its sha256; whatever fails, the caller removes ``target``.

    A connection that breaks is taken up where it broke; an overloaded server is asked four times.

    Args:
        sha256: what the hash must be, or begin with.

    Raises:
        HubError: nobody answers, the file is not there, it ends early, it is a web page, or it has another hash.
    """
    address = mirrored(url)
    with open(target, "wb") as file:
        progress = _Progress(file)
        for attempt, pause in enumerate((*PAUSES_SECONDS, None)):
            try:
                _attempt(address, progress)
                break
            except _Again as error:
                if pause is None:
                    raise HubError(f"{error} (tried {attempt + 1} times): {_manual(url)}") from error.__cause__
                time.sleep(pause)
        found = progress.digest.hexdigest()
    if not found.startswith(sha256.lower()):
        raise HubError(
            f"what {address} gave is not the file that was published: its sha256 is {found}, expected {sha256}...; "
            "nothing is kept, try again, or ask its publisher"
        )
    return found


def _attempt(address: str, progress: _Progress) -> None:
    from vidzoo import __version__

    request = urllib.request.Request(address, headers={"User-Agent": f"vidzoo/{__version__}"})
    if progress.done:
        request.add_header("Range", f"bytes={progress.done}-")
    with _explained(address, progress), urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        if getattr(answer, "status", 200) != 206:
            progress.restart()
        _refuse_page(address, answer.headers.get("Content-Type", ""))
        length = answer.headers.get("Content-Length")
        if length is not None:
            progress.total = progress.done + int(length)
        _be_patient(answer)
        for chunk in iter(lambda: answer.read(CHUNK), b""):
            progress.file.write(chunk)
            progress.digest.update(chunk)
            progress.done += len(chunk)
    if progress.total is not None and progress.done != progress.total:
        raise _Again(f"{address} ended after {progress.done} of {progress.total} bytes")


@contextmanager
def _explained(address: str, progress: _Progress) -> Iterator[None]:
    """Turn what a request raises into a sentence, or into another attempt."""
    host = urlsplit(address).netloc or address
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code == 416 and progress.done:  # the server does not go on where we stopped
            progress.restart()
            raise _Again(f"{address} cannot be taken up where it broke off") from error
        if error.code in _RETRIED:
            what = "too many requests" if error.code == 429 else f"status {error.code}"
            raise _Again(f"{host} is out of order or overloaded ({what}) for {address}") from error
        raise HubError(f"{_refusal(error.code, host, address)}: {_manual(address)}") from error
    except urllib.error.URLError as error:
        raise HubError(_unreachable(error.reason, host, address)) from error
    except (TimeoutError, http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
        if not progress.done and isinstance(error, TimeoutError):
            raise HubError(_unreachable(error, host, address)) from error
        raise _Again(f"the connection to {host} broke after {progress.done} bytes of {address}") from error


def _refuse_page(address: str, kind: str) -> None:
    if kind.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml"):
        raise HubError(
            f"{address} answered with a web page in the place of the weights (a login, a proxy, or a publisher that asks "
            f"for a confirmation): {_manual(address)}"
        )


def _be_patient(answer: Any) -> None:
    """Give a server that has begun to answer longer pauses; what has no socket (a local file) has none to set."""
    raw = getattr(getattr(answer, "fp", None), "raw", None)
    connection = getattr(raw, "_sock", None)
    if connection is not None:
        connection.settimeout(STALL_SECONDS)


def _refusal(status: int, host: str, address: str) -> str:
    if status in (404, 410):
        return f"{address} is no longer there (status {status})"
    if status in (401, 403, 407):
        return f"{host} forbids {address} (status {status}): a proxy or a filter may stand between"
    return f"{host} answered {address} with status {status}"


def _unreachable(reason: object, host: str, address: str) -> str:
    if isinstance(reason, ssl.SSLError):
        why = f"its certificate is not trusted ({reason.reason}): set SSL_CERT_FILE to the authority of your network"
    elif isinstance(reason, TimeoutError):
        why = f"it does not answer in {PATIENCE_SECONDS:g} seconds: check the network and the proxy"
    elif isinstance(reason, FileNotFoundError):
        why = "there is no such file"
    else:
        why = f"{reason}: check the network and the proxy"
    return f"{host} cannot be reached for {address}, {why}; {_manual(address)}"


def _manual(url: str) -> str:
    return (
        f"without network, download {url} elsewhere and run `python tools/convert_checkpoint.py FILE --to NAME`, or copy "
        "the cache (VIDZOO_HOME) of a machine that has it; VIDZOO_MIRROR names a copy of the web"
    )
