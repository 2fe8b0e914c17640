"""Plumbing of a request: its body, its answer, the faults that strike it, who sent it."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
import traceback
import urllib.parse
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NoReturn

from .state import Fault, Repo, Request, State


class Refusal(Exception):
    """An answer that is an error; ``code`` becomes the header by which the client tells what is missing."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        headers: dict[str, str] | None = None,
        body: str | None = None,
        more: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers, self.body = status, message, code, headers or {}, body
        self.content = {"error": message, **(more or {})}


class Handler(BaseHTTPRequestHandler):
    """One connection to the hub, or with ``cdn`` to the second origin that large files are sent from."""

    protocol_version = "HTTP/1.1"
    server_version = "loopback"
    disable_nagle_algorithm = True  # every small answer costs a delayed acknowledgement of 40 ms otherwise
    state: State
    cdn = False

    def route(self) -> None:
        self.nowhere()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: the log is ``state.log``."""

    def handle_one(self) -> None:
        self.age = self.state.age
        self.url = urllib.parse.urlsplit(self.path)
        self.query = urllib.parse.parse_qs(self.url.query)
        self.parts = [urllib.parse.unquote(part) for part in self.url.path.strip("/").split("/")]
        self.body = self._read_body() if self.command in ("POST", "PUT", "DELETE", "PATCH") else b""
        self.fault = self.state.fault_for(f"{'CDN ' if self.cdn else ''}{self.command} {self.path}") or Fault("")
        try:
            self._strike()
            self.route()
        except Refusal as refusal:
            headers = dict(refusal.headers)
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            if refusal.message:
                headers["X-Error-Message"] = refusal.message
            if refusal.body is not None:
                self.answer(refusal.status, refusal.body.encode(), {**headers, "Content-Type": "text/html"})
            else:
                self.json(refusal.content, refusal.status, headers)
        except ConnectionError:
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self.json({"error": "the loopback hub failed"}, 500)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.note(status)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            if name not in self.fault.hide:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def serve(self, file: Path, headers: dict[str, str] | None = None) -> None:
        """A file or the part of it that was asked for, with whatever the fault does to it."""
        data = bytearray(file.read_bytes())
        fault = self.fault
        if fault.corrupt is not None:
            data[fault.corrupt] ^= 0xFF
        if fault.truncate is not None:
            data = data[: fault.truncate]
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **(headers or {})}
        total, status = len(data), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or total - 1), total - 1)
            if start >= total:
                return self.answer(416, b"", {"Content-Range": f"bytes */{total}"})
            status, data = 206, data[start : end + 1]
            headers["Content-Range"] = f"bytes {start}-{end}/{total}"
        if fault.cut is None or fault.cut >= len(data) or self.command == "HEAD":
            return self.answer(status, bytes(data), headers)
        self.note(status)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: fault.cut])
        self.wfile.flush()
        if fault.reset:
            time.sleep(0.2)  # let what was sent arrive before the reset discards it
        return self._hang_up(reset=fault.reset)

    def note(self, status: int) -> None:
        if self.age != self.state.age:
            return  # a request that outlived its test
        self.state.log.append(
            Request(
                method=self.command,
                path=self.path,
                status=status,
                cdn=self.cdn,
                authorization=self.headers.get("Authorization") or "",
                user_agent=self.headers.get("User-Agent") or "",
            )
        )

    def user(self, *, write: bool = False) -> tuple[str, str] | None:
        """Name and role of whoever sent the token; None without one."""
        given = self.headers.get("Authorization")
        if not given:
            if write:
                raise Refusal(401, "Invalid username or password.")
            return None
        token = given.split(" ", 1)[-1]
        if token not in self.state.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        name, role = self.state.tokens[token]
        if write and role != "write":
            raise Refusal(403, "You don't have the rights to create or edit this repo")
        return name, role

    def repo(self, repo_id: str, *, write: bool = False) -> Repo:
        user = self.user(write=write)
        repo = self.state.repos.get(repo_id)
        if repo is None or (repo.private and user is None):
            # Anonymous users are not told whether a repository is private or missing. The code is needed because the
            # client takes a bare 401 for a missing repository only over https.
            raise Refusal(404 if user else 401, "Repository not found", code="RepoNotFound")
        return repo

    def commit(self, repo: Repo, revision: str) -> str:
        oid = repo.resolve(revision)
        if oid is None:
            raise Refusal(404, "Invalid rev id", code="RevisionNotFound")
        return oid

    def nowhere(self) -> NoReturn:
        raise Refusal(404, "no such page")

    def _strike(self) -> None:
        fault = self.fault
        if fault.stall:
            time.sleep(fault.stall)
        if fault.drop:
            self.note(-1)
            self._hang_up(reset=fault.reset)
            raise ConnectionAbortedError
        if fault.status:
            raise Refusal(fault.status, fault.message, code=fault.code, body=fault.body)

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        try:
            self.wfile.flush()
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
