"""The pages under ``/api``: who one is, repositories, their revisions and files, and commits."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any

import yaml

from .handler import Handler, Refusal
from .state import Entry, Repo, Tree, is_large


def front_matter(text: str) -> Any:
    match = re.match(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", text, re.S)
    return (yaml.safe_load(match[1]) or {}) if match else {}


class Api(Handler):
    def api(self) -> None:
        page = self.parts[1:]
        if page == ["whoami-v2"]:
            return self.whoami()
        if page == ["validate-yaml"]:
            return self.validate_yaml()
        if page == ["repos", "create"]:
            return self.create_repo()
        if page[:1] != ["models"] or len(page) < 3:
            self.nowhere()
        repo_id, what, rest = "/".join(page[1:3]), page[3] if len(page) > 3 else "revision", page[4:]
        actions = {
            "revision": self.info,
            "tree": self.list_tree,
            "paths-info": self.paths_info,
            "refs": self.refs,
            "tag": self.reference,
            "branch": self.reference,
            "preupload": self.preupload,
            "commit": self.receive_commit,
            "xet-read-token": self.xet_token,
            "xet-write-token": self.xet_token,
        }
        if what not in actions:
            self.nowhere()
        return actions[what](repo_id, "/".join(rest) or "main")

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"displayName": "t", "role": user[1]}
        self.json({"type": "user", "id": "1", "name": user[0], "orgs": [], "auth": {"accessToken": token}})

    def create_repo(self) -> None:
        owner, _ = self.user(write=True) or ("", "")
        wanted = json.loads(self.body)
        repo_id = f"{wanted.get('organization') or owner}/{wanted['name']}"
        with self.state.lock:
            if repo_id in self.state.repos:
                url = f"{self.state.hub_url}/{repo_id}"
                raise Refusal(409, "You already created this model repo", more={"url": url})
            private = bool(wanted.get("private") or wanted.get("visibility") == "private")
            self.state.repos[repo_id] = Repo(repo_id, private=private)
        self.json({"url": f"{self.state.hub_url}/{repo_id}", "name": repo_id, "id": "x", "private": private})

    def validate_yaml(self) -> None:
        errors = []
        try:
            meta = front_matter(json.loads(self.body)["content"])
            if not isinstance(meta, dict):
                errors.append("metadata is not a mapping")
            elif not all(isinstance(tag, str) for tag in meta.get("tags") or []):
                errors.append('"tags" must be an array of strings')
            elif not isinstance(meta.get("model-index", []), list):
                errors.append('"model-index" must be an array')
        except yaml.YAMLError as error:
            errors.append(f"YAML parse error: {error}")
        answer = {"errors": [{"message": message} for message in errors], "warnings": []}
        self.json(answer, 400 if errors else 200)

    def info(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        oid = self.commit(repo, revision)
        commit = repo.commits[oid]
        readme = commit.tree.get("README.md")
        card = front_matter(self.state.read(readme.sha256).read_text()) if readme else {}
        self.json(
            {
                "id": repo.id,
                "modelId": repo.id,
                "author": repo.id.split("/")[0],
                "sha": oid,
                "lastModified": commit.date,
                "createdAt": repo.created,
                "private": repo.private,
                "gated": repo.gated,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": card.get("tags", []),
                "cardData": card,
                "siblings": [{"rfilename": path} for path in sorted(commit.tree)],
                "spaces": [],
            }
        )

    def list_tree(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        oid = self.commit(repo, revision)
        files = [self._file(path, entry) for path, entry in sorted(repo.commits[oid].tree.items())]
        self.json(files, headers={"X-Repo-Commit": oid})

    def paths_info(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)
        tree = repo.commits[self.commit(repo, revision)].tree
        paths = json.loads(self.body)["paths"]
        self.json([self._file(path, tree[path]) for path in paths if path in tree])

    def refs(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id)

        def listed(book: dict[str, str], kind: str) -> list[dict[str, str]]:
            return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in book.items()]

        self.json({"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags"), "converts": []})

    def reference(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id, write=True)
        wanted = json.loads(self.body or b"{}")
        if self.parts[4] == "tag":
            book, name, start = repo.tags, wanted["tag"], revision
        else:
            book, name, start = repo.branches, revision, wanted.get("startingPoint", "main")
        if name in book:
            raise Refusal(409, "Reference already exists")
        book[name] = self.commit(repo, start)
        self.json({})

    def preupload(self, repo_id: str, revision: str) -> None:
        repo = self.repo(repo_id, write=True)
        oid = self.commit(repo, revision)
        answers = []
        for file in json.loads(self.body)["files"]:
            large = is_large(file["path"], base64.b64decode(file.get("sample", "")), file["size"])
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            present = repo.commits[oid].tree.get(file["path"])
            if present:
                answer["oid"] = present.sha256 if present.lfs else present.oid
            answers.append(answer)
        self.json({"files": answers, "commitOid": oid})

    def receive_commit(self, repo_id: str, revision: str) -> None:
        author, _ = self.user(write=True) or ("", "")
        repo = self.repo(repo_id, write=True)
        with self.state.lock:
            head = self.commit(repo, revision)
            tree, title = dict(repo.commits[head].tree), ""
            for line in filter(None, self.body.splitlines()):
                item = json.loads(line)
                title = self._apply(item["key"], item["value"], tree, head) or title
            oid = repo.add_commit(head, tree, title=title, author=author)
            answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.state.hub_url}/{repo_id}/commit/{oid}"}
            if self.query.get("create_pr", ["0"])[0] in ("1", "true", "True"):
                repo.pull_requests += 1
                repo.branches[f"refs/pr/{repo.pull_requests}"] = oid
                answer["pullRequestUrl"] = f"{self.state.hub_url}/{repo_id}/discussions/{repo.pull_requests}"
            else:
                repo.branches[revision] = oid
        self.json(answer)

    def _apply(self, key: str, value: dict[str, Any], tree: Tree, head: str) -> str:
        if key == "header":
            parent = value.get("parentCommit")
            if parent and not head.startswith(parent):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            return str(value["summary"])
        path = value["path"]
        if key == "file":
            data = base64.b64decode(value["content"])
            tree[path] = Entry.of(data, sha256=self.state.put(data), size=len(data), lfs=False)
        elif key == "lfsFile":
            size = self.state.size_of(value["oid"])
            if size is None:
                raise Refusal(400, "LFS pointer pointed to a file that does not exist")
            tree[path] = Entry.of(b"", sha256=value["oid"], size=size, lfs=True)
        elif key == "deletedFile":
            del tree[path]
        return ""

    def xet_token(self, repo_id: str, revision: str) -> None:
        self.repo(repo_id, write=self.parts[4] == "xet-write-token")
        url, expires = f"{self.state.hub_url}/_cas", int(time.time()) + 3600
        headers = {
            "X-Xet-Cas-Url": url,
            "X-Xet-Access-Token": "xet-token",
            "X-Xet-Token-Expiration": str(expires),
        }
        self.json({"casUrl": url, "accessToken": "xet-token", "exp": expires}, headers=headers)

    def _file(self, path: str, entry: Entry) -> dict[str, Any]:
        item: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": path}
        if entry.lfs:
            item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}
            if entry.sha256 in self.state.xet_hash_of:
                item["xetHash"] = self.state.xet_hash_of[entry.sha256]
        return item
