"""A small server that speaks as much of the Hugging Face hub as pushing and fetching a repository of models takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
READER = "hf_that_may_only_read"


@dataclass
class Repository:
    """One that is there: whether it is private, and its commits' files, the last one at the end."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[oid] = files
        return oid


@dataclass
class Hub:
    """What the server holds.

    Attributes:
        url: where it answers.
        repositories: by name.
        blobs: large files by sha256.
        asked: method and path of each request.
        full: whether no large file is taken.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    full: bool = False


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined,no-any-return]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self) -> None:
        self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_any(self) -> None:
        path, data = unquote(urlsplit(self.path).path), self.body()
        self.hub.asked.append((self.command, path))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READER):
            self.answer(401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials in Authorization header")
        elif self.command in ("GET", "HEAD"):
            self.read(path, token)
        elif token != TOKEN and not path.startswith("/lfs/"):
            self.answer(403, {"error": "Forbidden"}, X_Error_Message="This token has no write permission")
        else:
            self.write(path, data)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def read(self, path: str, token: str) -> None:
        if path == "/api/whoami-v2":
            self.answer(200, {"type": "user", "name": "org", "auth": {}} if token else {"error": "no"})
            return
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path) or re.fullmatch(
            r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path
        )
        found = self.hub.repositories.get(match[1]) if match else None
        if match is None or found is None or (found.private and not token):
            self.missing()
            return
        revision = match[3] or "main"
        oid = found.head if revision == "main" else revision
        if oid not in found.commits:
            self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return
        files = found.commits[oid]
        if match[2] == "tree":
            self.answer(200, [self.entry(name, content) for name, content in files.items()])
        elif match[2] == "resolve":
            content = files[match[4]]
            self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=oid)
        else:
            siblings = [{"rfilename": name} for name in files]
            self.answer(200, {"_id": "1", "id": match[1], "sha": oid, "private": found.private, "siblings": siblings})

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        told: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if _is_large(name):
            told["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return told

    def write(self, path: str, data: bytes) -> None:
        if path.startswith("/lfs/") and self.hub.full:
            self.answer(400, {"error": "Storage quota exceeded"})
        elif path.startswith("/lfs/"):
            assert hashlib.sha256(data).hexdigest() == path[5:]
            self.hub.blobs[path[5:]] = data
            self.answer(200)
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(json.loads(data))
        elif match := re.fullmatch(r"/api/models/(.+/.+)/preupload/main", path):
            files = [
                {"path": one["path"], "uploadMode": "lfs" if _is_large(one["path"]) else "regular", "shouldIgnore": False}
                for one in json.loads(data)["files"]
            ]
            self.answer(200, {"files": files})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
                for one in json.loads(data)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/(.+/.+)/commit/main", path):
            self.commit(match[1], [json.loads(line) for line in data.splitlines()])
        else:
            self.missing()

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "org":
            self.answer(403, {"error": "Forbidden"}, X_Error_Message="You may not create repositories there")
        elif name in self.hub.repositories:
            self.answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            found = self.hub.repositories[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
            found.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
            self.answer(200, {"url": f"{self.hub.url}/{name}"})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.hub.repositories[name].files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.hub.repositories[name].commit(files)
        told = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "hookOutput": ""}
        self.answer(200, told)


@contextmanager
def running_hub() -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
