"""A small Hugging Face hub on this machine: it serves folders as dataset repositories, each at one commit.

It answers what `datasets` asks of the real one: files of a revision, the list of files, and the errors by their codes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0ff"
GATED = "someone/gated"


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = Path()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str) -> None:
        self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=code, Content_Type="application/json")

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            parts = parts[1:]
        if parts[0] != "datasets" or len(parts) < 5:
            return self.error(404, "")
        repository, what, revision, rest = "/".join(parts[1:3]), parts[3], parts[4], "/".join(parts[5:])
        folder = self.root / repository
        if repository == GATED:
            return self.error(403, "GatedRepo")
        if not folder.is_dir():
            return self.error(401, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self.error(404, "RevisionNotFound")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        if what == "resolve":
            if rest not in names:
                return self.error(404, "EntryNotFound")
            tag = f'"{hashlib.sha1(names[rest]).hexdigest()}"'
            return self.answer(200, names[rest], ETag=tag, X_Repo_Commit=COMMIT)
        if what == "revision":
            siblings = [{"rfilename": name} for name in names]
            return self.json({"id": repository, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        listed = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in names.items()
            if name.startswith(rest)
        ]
        return self.json(listed)


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of a hub whose datasets are the folders `root/owner/name`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"root": root}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
