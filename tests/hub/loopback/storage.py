"""Contents: files by revision and path, uploads over LFS, and the content-addressed store of Xet (API version 1)."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from .handler import Handler, Refusal
from .xet import chunk_offsets


class Storage(Handler):
    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        """``/org/name/resolve/REVISION/PATH``; a large file is a redirect to the second origin, with its metadata."""
        repo = self.repo(repo_id)
        user = self.user()
        if repo.gated and (user is None or user[1] != "write"):
            raise Refusal(403 if user else 401, f"Access to model {repo_id} is restricted", code="GatedRepo")
        oid = self.commit(repo, revision)
        entry = repo.commits[oid].tree.get(path)
        if entry is None:
            raise Refusal(404, "Entry not found", code="EntryNotFound", headers={"X-Repo-Commit": oid})
        headers = {"X-Repo-Commit": oid, "ETag": f'"{entry.oid}"'}
        if not entry.lfs:
            return self.answer(200, self.state.read(entry.sha256).read_bytes(), headers)
        headers |= {"X-Linked-Size": str(entry.size), "X-Linked-Etag": f'"{entry.sha256}"'}
        if entry.sha256 in self.state.xet_hash_of:
            headers["X-Xet-Hash"] = self.state.xet_hash_of[entry.sha256]
            headers["Link"] = f'<{self.state.hub_url}/api/models/{repo_id}/xet-read-token/{oid}>; rel="xet-auth"'
        return self.answer(302, b"", {**headers, "Location": f"{self.state.cdn_url}/cdn/{entry.sha256}"})

    def second_origin(self) -> None:
        self.serve(self.state.read(self.parts[-1]), {"ETag": f'"{self.parts[-1]}"'})

    def lfs_batch(self, repo_id: str) -> None:
        self.repo(repo_id, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if self.state.size_of(wanted["oid"]) is None:
                base = f"{self.state.hub_url}/_lfs"
                answer["actions"] = {
                    "upload": {"href": f"{base}/put/{wanted['oid']}"},
                    "verify": {"href": f"{base}/verify/{wanted['oid']}", "header": {}},
                }
            objects.append(answer)
        content_type = {"Content-Type": "application/vnd.git-lfs+json"}
        self.answer(200, json.dumps({"transfer": "basic", "objects": objects}).encode(), content_type)

    def lfs(self, action: str, oid: str) -> None:
        if action == "verify":
            return self.json({}, 200 if self.state.size_of(oid) == json.loads(self.body)["size"] else 422)
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "checksum mismatch")
        self.state.put(self.body)
        return self.answer(200)

    def cas(self, page: list[str]) -> None:
        """Newer calls are answered with 404, after which the client asks in the way of version 1."""
        if page[:2] == ["v1", "xorbs"] and self.command == "POST":
            target = self.state.xorbs / page[3]
            is_new = not target.exists()
            target.write_bytes(self.body)
            return self.json({"was_inserted": is_new})
        if page[:2] == ["v1", "shards"]:
            self.state.add_shard(self.body)
            return self.json({"result": 1})
        if page[:2] == ["v1", "reconstructions"]:
            return self.json(self._reconstruction(page[2]))
        if page[0] == "get":
            return self.serve(self.state.xorbs / page[1])
        return self.nowhere()

    def _reconstruction(self, file: str) -> dict[str, Any]:
        segments = self.state.xet_files.get(file)
        if segments is None:
            raise Refusal(404, "file not found")
        total = sum(segment.size for segment in segments)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        end = min(total, int(wanted[2]) + 1) if wanted and wanted[2] else total
        if start >= total:
            raise Refusal(416, "range")
        terms: list[dict[str, Any]] = []
        sources: dict[str, list[dict[str, Any]]] = {}
        at = skip = 0
        for segment in segments:
            if at + segment.size > start and at < end:
                if not terms:
                    skip = start - at
                chunks = {"start": segment.first, "end": segment.last}
                terms.append({"hash": segment.xorb, "unpacked_length": segment.size, "range": chunks})
                offsets = chunk_offsets((self.state.xorbs / segment.xorb).read_bytes(), segment.last)
                place = {"start": offsets[segment.first], "end": offsets[segment.last] - 1}
                url = f"{self.state.hub_url}/_cas/get/{segment.xorb}"
                sources.setdefault(segment.xorb, []).append({"range": chunks, "url": url, "url_range": place})
            at += segment.size
        return {"offset_into_first_range": skip, "terms": terms, "fetch_info": sources}
