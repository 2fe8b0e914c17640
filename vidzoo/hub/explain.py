"""What the Hub's client raises, said in one sentence with what helps."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.request import getproxies

from vidzoo.errors import HubError, VidzooError

__all__ = ["Place", "explained", "is_unreachable"]

# By name, because the HTTP library behind the client has changed once already and is not a dependency of this package.
_UNREACHABLE = {"ConnectError", "TimeoutException"}
_CUT = {"ReadError", "WriteError", "CloseError", "ProtocolError"}


@dataclass(frozen=True)
class Place:
    """A repository on the Hub, and where its files are kept here."""

    repo_id: str
    revision: str | None = None
    cache_dir: str = ""
    file: str = ""
    """The one file that is wanted; left out, it is a whole model folder of vidzoo."""

    @property
    def name(self) -> str:
        return f"{self.repo_id}@{self.revision}" if self.revision else self.repo_id


@contextmanager
def explained(place: Place, *, uploading: bool = False) -> Iterator[None]:
    """Turn what a download or an upload raises into a :class:`HubError`; what nothing explains passes through."""
    try:
        yield
    except VidzooError:
        raise
    except Exception as error:
        for link in _chain(error):
            sentence = _explain_upload(link, place) if uploading else None
            sentence = sentence or _explain(link, place)
            if sentence:
                raise HubError(sentence) from error
        raise


def is_unreachable(error: Exception) -> bool:
    """Whether there was no answer at all: no network, no such host, nobody listening, or silence."""
    return bool(_names(error) & _UNREACHABLE)


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__
    # The client wraps the reason twice in errors that only guess at it; they speak when there is nothing behind them.
    wrappers = [link for link in links[:-1] if _names(link) & {"LocalEntryNotFoundError"} or type(link) is RuntimeError]
    return [link for link in links if link not in wrappers] + wrappers


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _explain(error: BaseException, place: Place) -> str:
    from huggingface_hub import constants

    names, endpoint = _names(error), constants.ENDPOINT
    page = f"{endpoint}/{place.repo_id}"
    log_in = "run `hf auth login` or pass token="
    if "GatedRepoError" in names:
        return f"{place.repo_id} is gated: ask for access at {page}, then {log_in}"
    if "RepositoryNotFoundError" in names:
        return f"there is no model {place.repo_id} at {endpoint}, or it is private: check the name, or {log_in}"
    if "RevisionNotFoundError" in names:
        return f"{place.repo_id} has no revision {place.revision!r}: see the branches and tags at {page}/tree/main"
    if "RemoteEntryNotFoundError" in names and place.file:
        return f"{place.name} has no file {place.file}: see its files at {page}/tree/main"
    if "RemoteEntryNotFoundError" in names:
        return f"{place.name} has no config.json, so it is no model that vidzoo can build: see the files at {page}"
    if "DisabledRepoError" in names:
        return f"{place.repo_id} has been disabled by the Hub: see {page}"
    if "HfHubHTTPError" in names:
        return _explain_status(error, place, endpoint, log_in)
    if "FileMetadataError" in names:
        return (
            f"{endpoint} answered for {place.name}, but not as a Hub does: a login page or a proxy may stand between "
            "(open a web page to sign in), or HF_ENDPOINT names another kind of server"
        )
    if names & {"OfflineModeIsEnabled", "LocalEntryNotFoundError"}:
        return (
            f"{place.name} is not in the cache {place.cache_dir} and the network is switched off (HF_HUB_OFFLINE or "
            f"local_files_only): {_recipe(place)}"
        )
    if "ProxyError" in names:
        return f"the proxy bars {endpoint} ({_line(error)}): check HTTPS_PROXY and NO_PROXY; {_recipe(place)}"
    if names & _UNREACHABLE:
        why = "it does not answer in time" if "TimeoutException" in names else _line(error)
        slow = "; on a slow line set HF_HUB_ETAG_TIMEOUT=30" if "TimeoutException" in names else ""
        return f"{endpoint} cannot be reached for {place.name} ({why}): {_advice(error)}{slow}; {_recipe(place)}"
    if names & _CUT:
        return f"the connection was cut while loading {place.name} ({_line(error)}): nothing half is kept, try again"
    if names & {"HFValidationError", "HfUriError"}:
        return f"{place.repo_id!r} is not a Hub id: write org/name, or local-dir:{place.repo_id} if it is a folder"
    if isinstance(error, OSError):
        return _explain_disk(error, place)
    if type(error) is RuntimeError:  # what the Xet transport raises, for everything
        if "space" in str(error).lower():
            return f"the disk of {place.cache_dir} is full: free some, or give another cache_dir for {place.name}"
        return f"the data of {place.name} did not come ({_line(error)}): try again, or with HF_HUB_DISABLE_XET=1"
    return ""


def _explain_status(error: BaseException, place: Place, endpoint: str, log_in: str) -> str:
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status == 401:
        return f"{endpoint} refuses your token for {place.name}: it is wrong or has expired; {log_in}"
    if status == 403:
        return f"{endpoint} forbids {place.name}: your token lacks the right, or the network filters it; {log_in}"
    if status in (408, 429) or status >= 500:
        what = "too many requests" if status == 429 else f"status {status}"
        return f"{endpoint} is out of order or overloaded for {place.name} ({what}): try again later; {_recipe(place)}"
    return f"{endpoint} answered {place.name} with status {status}: {_line(error)}"


def _explain_disk(error: OSError, place: Place) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk of {place.cache_dir} is full: free some, or give another cache_dir for {place.name}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return (
            f"{place.name} cannot be kept in {place.cache_dir} ({error.strerror}): give another cache_dir, or set "
            "HF_HOME to a folder that can be written"
        )
    if isinstance(error, ConnectionError):
        return f"the connection failed for {place.name} ({_line(error)}): try again, or with HF_HUB_DISABLE_XET=1"
    if "onsistency" in str(error):
        return f"the data of {place.name} has another length than the Hub announced: nothing is kept, try again"
    return f"{place.name} cannot be loaded: {_line(error)}"


def _explain_upload(error: BaseException, place: Place) -> str:
    from huggingface_hub import constants

    names, endpoint = _names(error), constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", 0)
    log_in = "run `hf auth login` with a token that may write, or pass token="
    if "LocalTokenNotFoundError" in names or status == 401:
        return f"{endpoint} does not know you, so {place.name} cannot be uploaded: {log_in}"
    if status == 403:
        return f"your token may not write to {place.repo_id} at {endpoint}: {log_in}, or use create_pr=True"
    if status in (409, 412):
        return f"somebody changed {place.repo_id} meanwhile ({_line(error)}): push again"
    if status == 413:
        return f"{endpoint} takes no files of this size for {place.repo_id}: {_line(error)}"
    if "HfHubHTTPError" in names and status < 500 and status != 429 and "RepositoryNotFoundError" not in names:
        return f"{endpoint} refused the upload to {place.repo_id} with status {status}: {_line(error)}"
    if "OfflineModeIsEnabled" in names:
        return f"{place.repo_id} cannot be uploaded while HF_HUB_OFFLINE is set: unset it, or use save_pretrained now"
    if names & _UNREACHABLE:
        return (
            f"{endpoint} cannot be reached to upload {place.repo_id} ({_line(error)}): {_advice(error)}, or use "
            f"save_pretrained now and `hf upload {place.repo_id} FOLDER` later"
        )
    if names & _CUT or type(error) in (RuntimeError, ConnectionError):
        return f"the upload to {place.repo_id} broke off ({_line(error)}): push again, or with HF_HUB_DISABLE_XET=1"
    if type(error) is ValueError:
        return f"the card of {place.repo_id} is not accepted: {_line(error)}"
    if names & {"HFValidationError", "HfUriError"}:
        return f"{place.repo_id!r} is not a Hub id: write org/name"
    return ""


def _advice(error: BaseException) -> str:
    if "CERTIFICATE" in str(error).upper():
        return "a certificate is not trusted, so set SSL_CERT_FILE to the authority of your network"
    proxies = sorted(set(getproxies().values()))
    return "check the network" + (f" and the proxy {', '.join(proxies)}" if proxies else "")


def _recipe(place: Place) -> str:
    revision = f" --revision {place.revision}" if place.revision else ""
    if place.file:
        return (
            f"offline, run `hf download {place.repo_id} {place.file}{revision}` on a machine with network and copy its "
            "cache (HF_HOME) here; what is in the cache loads with HF_HUB_OFFLINE=1"
        )
    return (
        f"offline, run `hf download {place.repo_id}{revision} --local-dir FOLDER` on a machine with network, copy "
        "FOLDER here and use local-dir:FOLDER; models in the cache load with HF_HUB_OFFLINE=1"
    )


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:")[:200] if lines else type(error).__name__
