"""A small HTTP server that plays the Hub: listing, file metadata, ranges, and faults on request."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """Serves `files` (path -> bytes) as the repository `org/model` at COMMIT.

    Faults: `missing` paths are listed but not there; `announced_sha256` overrides checksums;
    `cuts[path]` is a list of byte counts after which successive transfers break off; `status` is
    the answer to everything; `token` must come with every request.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.missing: set[str] = set()
        self.announced_sha256: dict[str, str] = {}
        self.cuts: dict[str, list[int]] = {}
        self.status: int | None = None
        self.token: str | None = None
        self.licence: str | None = "cc-by-4.0"
        self.requests: list[tuple[str, str, str | None]] = []
        """(method, path, Range header)"""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self, path: str) -> list[str | None]:
        """The Range headers with which `path` was asked for."""
        return [r for method, url, r in self.requests if method == "GET" and url.endswith(path)]

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        server = self.server
        server.requests.append((self.command, self.path, self.headers.get("Range")))
        if server.status is not None:
            return self.fail(server.status)
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            return self.fail(401)
        if match := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/revision/([^?]+)\?.*", self.path):
            return self.listing(*match.groups())
        if match := re.fullmatch(rf"/org/model/resolve/{COMMIT}/(.+)", self.path):
            return self.file(match[1])
        return self.fail(404, "RepoNotFound")

    def listing(self, repo_id, revision):
        if repo_id != "org/model":
            return self.fail(404, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self.fail(404, "RevisionNotFound")
        siblings = []
        for path, content in self.server.files.items():
            sibling = {"rfilename": path, "size": len(content)}
            if path.endswith((".safetensors", ".bin", ".pt")):
                sha256 = hashlib.sha256(content).hexdigest()
                sha256 = self.server.announced_sha256.get(path, sha256)
                sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 130}
                sibling["blobId"] = "0" * 40
            else:
                git_content = f"blob {len(content)}\0".encode() + content
                sibling["blobId"] = hashlib.sha1(git_content).hexdigest()
            siblings.append(sibling)
        body = {"id": repo_id, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        if self.server.licence:
            body["cardData"] = {"license": self.server.licence}
        self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def file(self, path):
        if path not in self.server.files or path in self.server.missing:
            return self.fail(404, "EntryNotFound")
        content = self.server.files[path]
        start, status = 0, 200
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cuts = self.server.cuts.get(path)
        cut = cuts.pop(0) if cuts and self.command == "GET" else None
        self.send(status, content[start:], headers, cut)

    def fail(self, status, code=None):
        headers = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self.send(status, b"", headers)

    def send(self, status, body, headers, cut=None):
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True
