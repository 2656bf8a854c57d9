"""A Hub on this machine: the HTTP server, its repositories, and what tests ask of it.

    with LoopbackHub() as hub:
        ...  # clients, in processes of their own, with HF_ENDPOINT=hub.url and HF_TOKEN=hub.token
        hub.files("tester/films"), hub.commits("tester/films"), hub.requests

It answers as the Hub does, as far as huggingface_hub looks: status codes, `X-Error-Code`, ETags, large files by hash in
a storage of their own that is on another host, ranges, pages of long trees. The endpoints are in `hub_endpoints.py`.
"""

import json
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from .hub_endpoints import GIT_ATTRIBUTES, ROUTES, Blob, Commit, RefusalError, Repo

CHANGING = ("POST", "PUT", "DELETE")


class Request(NamedTuple):
    """What a client asked, and the status that it got; `path` is without the query."""

    method: str
    path: str
    user: str | None
    status: int
    size: int


class LoopbackHub:
    """The server, and what tests ask of it.

    Attributes:
        url: for `HF_ENDPOINT`.
        token, other_token: of the users `tester` and `stranger`.
        requests: all so far, in the order of their answers.
        on_put: called before an uploaded file is read; it may raise ConnectionError, as where the client is gone.
        on_stored: called when it is stored.
    """

    def __init__(self):
        self.token, self.other_token = "hf_loopbacktester", "hf_loopbackstranger"
        self.users = {self.token: "tester", self.other_token: "stranger"}
        self.requests: list[Request] = []
        self.on_put: Callable[[], None] = lambda: None
        self.on_stored: Callable[[], None] = lambda: None
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads, self._server.hub = True, self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage = f"http://localhost:{self.port}"  # another host: clients must not send their token there

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create(self, repo: str, kind: str = "model", private: bool = False) -> Repo:
        """A new repository, as its owner creates it."""
        made = Repo(kind, repo, private)
        made.add("main", "initial commit", {".gitattributes": Blob(GIT_ATTRIBUTES, False)})
        self.repos[kind, repo] = made
        return made

    def files(self, repo: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """Path and content of every file."""
        return {path: blob.data for path, blob in self.repos[kind, repo].at(revision).files.items()}

    def commits(self, repo: str, branch: str = "main", kind: str = "model") -> list[Commit]:
        """Newest first; the last one is the Hub's own."""
        return self.repos[kind, repo].branches[branch][::-1]

    def count(self, method: str, path: str = "*") -> int:
        """Requests of a method whose path matches a pattern."""
        return sum(request.method == method and fnmatch(request.path, path) for request in self.requests)

    def changes(self) -> list[Request]:
        """Requests that could change anything."""
        harmless = ("/api/validate-yaml",)
        return [one for one in self.requests if one.method in CHANGING and one.path not in harmless]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *arguments) -> None:
        pass

    def _answer(self) -> None:
        hub: LoopbackHub = self.server.hub
        address = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        self.user, self.body = None, b""
        try:
            if self.command == "PUT":
                hub.on_put()
            self.body = self._read_body()
            self.user = self._find_user(hub)
            status, headers, content = self._dispatch(hub, address.path)
        except RefusalError as refusal:
            status, headers, content = refusal.status, refusal.headers, {"error": refusal.message}
        except ConnectionError:
            self.close_connection = True
            return
        hub.requests.append(Request(self.command, address.path, self.user, status, len(self.body)))
        if self.command == "PUT":
            hub.on_stored()
        self._send(status, headers, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline() or b"x", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionError("the client is gone")
        return body

    def _find_user(self, hub: LoopbackHub) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.users:
            raise RefusalError(401, None, "Invalid credentials in Authorization header")
        return hub.users.get(token)

    def _dispatch(self, hub: LoopbackHub, path: str) -> tuple[int, dict[str, str], object]:
        for method, pattern, function in ROUTES:
            found = pattern.fullmatch(path)
            if found and method in (self.command, "GET" if self.command == "HEAD" else None):
                with hub.lock:
                    return function(
                        self, hub, **{name: unquote(part or "") for name, part in found.groupdict().items()}
                    )
        raise RefusalError(404, None, f"no endpoint {self.command} {path}")

    def _send(self, status: int, headers: dict[str, str], content: object) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if not isinstance(content, bytes):
            headers = {"Content-Type": "application/json", **headers}
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
            self.wfile.flush()
        except ConnectionError:
            self.close_connection = True

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def repo(self, hub: LoopbackHub, kind: str, name: str, write: bool = False) -> Repo:
        found = hub.repos.get((kind or "model", name))
        is_owner = self.user is not None and name.startswith(f"{self.user}/")
        if found is None or (found.private and not is_owner):
            status, message = (404, "Repository not found") if self.user else (401, "Invalid username or password.")
            raise RefusalError(status, "RepoNotFound", message)
        if write and not is_owner:
            raise RefusalError(403 if self.user else 401, None, f"You cannot write to {name}")
        return found
