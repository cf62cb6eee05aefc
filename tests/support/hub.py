"""A stand-in of the Hugging Face hub: its HTTP API over a real socket, with what goes wrong there on demand.

Large files are redirected to a second origin, as the hub does to its storage, which sees no tokens and answers Range
requests.
"""

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".gguf", ".safetensors")
TOKEN = "hf_TheTokenOfTheTests"


def sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """files: of its commits; the last one is main. gated: needs a token whose account has accepted. private: is not
    there for others. card: the metadata of its README.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> str:
        return list(self.files)[-1]


class Hub:
    """requests: (method, path) of each, in their order. tokens_in_storage: what the storage was sent.

    breaks: path -> bytes after which a connection is cut, once for each entry. endless: paths whose storage never ends.
    held: path -> what the storage waits for when half of it is sent.
    announced: path -> headers that replace the hub's own. content: path -> what the storage sends instead. answers:
    path of the API -> body that it gives instead. down: status of every answer.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        self.tokens_in_storage: list[str] = []
        self.breaks: dict[str, list[int]] = {}
        self.endless: set[str] = set()
        self.held: dict[str, threading.Event] = {}
        self.announced: dict[str, dict[str, str]] = {}
        self.content: dict[str, bytes] = {}
        self.answers: dict[str, bytes] = {}
        self.tokens = {TOKEN: False}  # and whether its account accepted what gated repositories ask
        self.down = 0
        self.closed = False
        self._servers = [_serve(self, _Front), _serve(self, _Storage)]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)

    def add(self, name: str, files: Mapping[str, bytes | Path], **about: Any) -> str:
        """A new commit of a repository; returns it."""
        repo = self.repos.setdefault(name, Repo())
        for key, value in about.items():
            setattr(repo, key, value)
        commit = sha1(f"{name}{len(repo.files)}".encode())
        repo.files[commit] = {n: c.read_bytes() if isinstance(c, Path) else c for n, c in files.items()}
        return commit

    def downloads(self, name: str) -> int:
        """How often content of a file was asked for."""
        return sum(method == "GET" and path.endswith(f"/{name}") for method, path in self.requests)

    def close(self) -> None:
        """Nothing is answered any more, on connections that are open either."""
        self.closed = True
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(hub: Hub, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def parse_request(self) -> bool:
        if self.hub.closed:
            self.close_connection = True
        return not self.hub.closed and super().parse_request()

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in ({"Content-Length": str(len(body))} | named).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), Content_Type="application/json")

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X_Error_Code": code} if code else {}
        self.send(status, json.dumps({"error": message}).encode(), X_Error_Message=message, **headers)


class _Front(_Handler):
    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path))
        if hub.down:
            return self.send(hub.down, b"down")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if path in hub.answers:
            return self.send(200, hub.answers[path], Content_Type="application/json")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._about(found[1], found[2] or "main", token)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[2], found[3], token)
        else:
            self.refuse(404, "", "Not found")

    def _find(self, name: str, revision: str, token: str) -> tuple[Repo, str] | None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not token):
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        commit = repo.main if revision == "main" else revision
        if commit not in repo.files:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo, commit

    def _about(self, name: str, revision: str, token: str) -> None:
        if found := self._find(name, revision, token):
            repo, commit = found
            siblings = [_sibling(file, data) for file, data in repo.files[commit].items()]
            about = {"_id": "6" * 24, "id": name, "modelId": name, "sha": commit, "private": repo.private}
            about |= {"gated": "manual" if repo.gated else False, "tags": ["gguf"], "downloads": 1, "likes": 1}
            about |= {"lastModified": "2026-05-04T12:00:00.000Z", "createdAt": "2026-05-04T12:00:00.000Z"}
            self.send_json(about | {"cardData": repo.card, "siblings": siblings})

    def _resolve(self, name: str, revision: str, file: str, token: str) -> None:
        found = self._find(name, revision, token)
        if found is None:
            return
        repo, commit = found
        if repo.gated and not self.hub.tokens.get(token):
            return self.refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        data = repo.files[commit].get(file)
        if data is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        own = self.hub.announced.get(file, {})
        if file.endswith(LARGE):
            etag, location = f'"{hashlib.sha256(data).hexdigest()}"', f"{self.hub.storage_url}/{name}/{commit}/{file}"
            linked = {"X_Linked_Size": str(len(data)), "X_Linked_ETag": etag, "Location": location}
            return self.send(302, b"", **{"X_Repo_Commit": commit} | linked | own)
        etag = f'"{sha1(b"blob %d" % len(data) + bytes(1) + data)}"'
        self.send(200, data, **{"X_Repo_Commit": commit, "ETag": etag} | own)


class _Storage(_Handler):
    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path))
        if token := self.headers.get("Authorization"):
            hub.tokens_in_storage.append(token)
        owner, repo, commit, file = path.lstrip("/").split("/", 3)
        data = hub.content.get(file, hub.repos[f"{owner}/{repo}"].files[commit][file])
        if file in hub.endless:
            return self._never_end()
        begin = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            hub.ranges.append(f"{file}: {asked[1]}")
            begin = int(asked[1])
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        breaks = hub.breaks.get(file)
        end = breaks.pop(0) if breaks else len(data)
        self.wfile.write(data[begin : len(data) // 2] if file in hub.held else data[begin:end])
        if file in hub.held:
            hub.held[file].wait(60)
        if end < len(data) or file in hub.held:
            self.close_connection = True

    def _never_end(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        except OSError:  # the reader has had enough
            self.close_connection = True


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    about: dict[str, Any] = {"rfilename": name, "size": len(data)}
    about["blobId"] = sha1(b"blob %d" % len(data) + bytes(1) + data)
    if name.endswith(LARGE):
        about["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return about
