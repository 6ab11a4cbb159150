"""A hub on this machine for tests: the folders of data sets over HTTP, with whatever failure is asked for."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What is served and how it fails. root: holds <owner>/<name>/<path>. asked: the requests so far."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.status: int | None = None
        self.code = ""
        self.stall = 0.0
        self.cut_after: int | None = None
        self.url = ""


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            if hub.stall:
                time.sleep(hub.stall)
            if hub.status is not None:
                self.refuse(hub.status, hub.code)
                return
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "datasets"]:
                self.listing(parts[2:], body)
            elif parts[0] == "datasets":
                self.file(parts[1:], body)
            else:
                self.refuse(404, "")

        def listing(self, parts: list[str], body: bool) -> None:
            folder = hub.root / parts[0] / parts[1]
            if not folder.is_dir():
                self.refuse(404, "RepoNotFound")
                return
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            entries = [
                {
                    "type": "file",
                    "path": path.relative_to(folder).as_posix(),
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in files
            ]
            siblings = [{"rfilename": entry["path"]} for entry in entries]
            info = {"_id": "1", "id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings, "private": False}
            self.send(json.dumps(entries if "tree" in parts else info).encode(), body, "application/json")

        def file(self, parts: list[str], body: bool) -> None:
            folder, at = hub.root / parts[0] / parts[1], parts.index("resolve")
            rest = parts[at + 1 :]
            inside = rest[3:] if rest[:2] == ["refs", "convert"] else rest[1:]
            path = folder / "/".join(inside)
            if not path.is_file():
                self.refuse(404, "EntryNotFound")
                return
            commit = rest[0] if len(rest[0]) == 40 else COMMIT
            self.send(path.read_bytes(), body, "application/octet-stream", commit)

        def send(self, content: bytes, body: bool, kind: str, commit: str = COMMIT) -> None:
            start = 0
            wanted = self.headers.get("Range")
            if wanted and body:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", kind)
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("Accept-Ranges", "bytes")
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body:
                sent = content[start:]
                if hub.cut_after is not None and kind != "application/json":
                    sent, hub.cut_after = sent[: hub.cut_after], None
                    self.close_connection = True
                self.wfile.write(sent)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
