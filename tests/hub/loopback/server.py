"""Two servers on 127.0.0.1 in threads of the test process: the hub, and the second origin of large files."""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from .api import Api
from .state import Fault, Request, State
from .storage import Storage


class Hub(Api, Storage):
    def route(self) -> None:
        parts = self.parts
        if self.cdn:
            return self.second_origin()
        if parts[0] == "api":
            return self.api()
        if parts[0] == "_cas":
            return self.cas(parts[1:])
        if parts[0] == "_web":
            return self.elsewhere("/".join(parts[1:]))
        if parts[0] == "_lfs":
            return self.lfs(parts[1], parts[2])
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            return self.lfs_batch("/".join(parts[:2]).removesuffix(".git"))
        if len(parts) > 4 and parts[2] == "resolve":
            return self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self.nowhere()

    def elsewhere(self, address: str) -> None:
        file = self.state.web.get(address)
        return self.serve(file) if file is not None else self.nowhere()


class LoopbackHub:
    """``with LoopbackHub(folder) as hub:`` serves at ``hub.url`` until the block ends."""

    def __init__(self, root: Path) -> None:
        self.state = State(root)
        self._servers = [self._server(cdn=False), self._server(cdn=True)]
        self.state.hub_url, self.state.cdn_url = (
            f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers
        )

    @property
    def url(self) -> str:
        return self.state.hub_url

    @property
    def log(self) -> list[Request]:
        return self.state.log

    @property
    def mirror(self) -> str:
        """A copy of the rest of the web: ``https://host/path`` lies at ``mirror/host/path``."""
        return f"{self.url}/_web"

    def host(self, url: str, file: Path) -> None:
        """Let ``file`` lie at ``url``."""
        parts = urlsplit(url)
        self.state.web[f"{parts.netloc}{parts.path}"] = file

    def fault(self, match: str, **what: object) -> None:
        """Let requests fail, see :class:`~loopback.state.Fault`."""
        self.state.faults.append(Fault(match, **what))  # type: ignore[arg-type]

    def reset(self) -> None:
        """Empty the hub; only chunks that came over Xet stay, since the client remembers that it has sent them."""
        for blob in self.state.blobs.iterdir():
            blob.unlink()
        self.state.xet_hash_of.clear()
        self.state.repos.clear()
        self.state.web.clear()
        self.state.faults.clear()
        self.state.age += 1
        self.state.log.clear()

    def __enter__(self) -> LoopbackHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _server(self, *, cdn: bool) -> ThreadingHTTPServer:
        handler = type("BoundHub", (Hub,), {"state": self.state, "cdn": cdn})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        return server
