"""The endpoints of the loopback Hub that huggingface_hub uses to create, fill and read repositories."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatch
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

if TYPE_CHECKING:
    from .loopback_hub import Handler, LoopbackHub

PAGE = 1000  # entries of a tree in one answer
LARGE_FILES = ("*.bin", "*.npz", "*.parquet", "*.png", "*.safetensors", "*.zip")
GIT_ATTRIBUTES = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LARGE_FILES).encode()

# https://hf.co/docs/hub/repositories-licenses, of which only this server holds models to the letter.
LICENSES = set(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other".split()
)


@dataclass(frozen=True)
class Blob:
    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        head = "version https://git-lfs.github.com/spec/v1"
        return f"{head}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @property
    def git_oid(self) -> str:
        content = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, Blob]
    date: str


@dataclass
class Repo:
    kind: str
    name: str  # "owner/name"
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)  # oldest commit first
    large: dict[str, bytes] = field(default_factory=dict)  # by SHA-256

    def add(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        commits = self.branches.setdefault(branch, [])
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        oid = hashlib.sha1(f"{self.kind} {self.name} {branch} {len(commits)} {title} {date}".encode()).hexdigest()
        commits.append(Commit(oid, title, files, date))
        return commits[-1]

    def at(self, revision: str) -> Commit:
        """The commit of a branch's name or of a commit's id."""
        if revision in self.branches:
            return self.branches[revision][-1]
        for commit in itertools.chain.from_iterable(self.branches.values()):
            if commit.oid == revision:
                return commit
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")


class RefusalError(Exception):
    """An answer other than what was asked for."""

    def __init__(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


ROUTES: list[tuple[str, re.Pattern, Callable]] = []
_REPO = r"(?P<name>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>model|dataset|space)s/{_REPO}"
_GIT = rf"/(?:(?P<kind>dataset|space)s/)?{_REPO}"


def route(method: str, pattern: str) -> Callable:
    def register(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


@route("GET", "/api/whoami-v2")
def _whoami(request: Handler, hub: LoopbackHub):
    if request.user is None:
        raise RefusalError(401, None, "Invalid username or password.")
    return 200, {}, {"type": "user", "id": request.user, "name": request.user, "orgs": [], "auth": {}}


@route("POST", "/api/validate-yaml")
def _validate(request: Handler, hub: LoopbackHub):
    content = request.json()["content"]
    problems = _refusals(content)
    warnings = [] if problems or metadata_of(content) else ["empty or missing yaml metadata in repo card"]
    errors, warnings = ([{"message": text} for text in texts] for texts in (problems, warnings))
    answer: object = {"errors": errors, "warnings": warnings}
    if request.headers.get("Accept") == "text/plain":
        answer = "\n".join(problems).encode()
    return 400 if problems else 200, {}, answer


def metadata_of(card: str) -> dict:
    found = REGEX_YAML_BLOCK.search(card)
    return yaml.safe_load(found[2]) if found else {}


def _refusals(card: str) -> list[str]:
    metadata = metadata_of(card)
    licence, tags = metadata.get("license", []), metadata.get("tags", [])
    licences = [licence] if isinstance(licence, str) else licence
    problems = [f'"license" must be one of [apache-2.0, ...], not {one}' for one in licences if one not in LICENSES]
    return problems if isinstance(tags, list) else [*problems, '"tags" must be an array']


@route("POST", "/api/repos/create")
def _create(request: Handler, hub: LoopbackHub):
    given = request.json()
    kind, owner = given.get("type") or "model", given.get("organization") or request.user
    if request.user is None:
        raise RefusalError(401, None, "Invalid username or password.")
    if owner != request.user:
        raise RefusalError(403, None, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
    name = f"{owner}/{given['name']}"
    url = f"{hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
    if (kind, name) in hub.repos:
        return 409, {}, {"error": f"You already created this {kind} repo", "url": url}
    hub.create(name, kind, given.get("visibility") == "private" or bool(given.get("private")))
    return 200, {}, {"url": url, "name": name}


@route("POST", rf"{_API}/branch/(?P<branch>[^/]+)")
def _branch(request: Handler, hub: LoopbackHub, kind: str, name: str, branch: str):
    repo = request.repo(hub, kind, name, write=True)
    if branch.startswith("refs/") or not re.fullmatch(r"[\w][\w./-]*", branch):
        raise RefusalError(400, None, f"Invalid reference for a branch: {branch}")
    if branch in repo.branches:
        raise RefusalError(409, None, "Reference already exists")
    start = repo.at(request.json().get("startingPoint") or "main")
    line = next(commits for commits in repo.branches.values() if start in commits)
    repo.branches[branch] = line[: line.index(start) + 1]
    return 200, {}, {}


@route("GET", rf"{_API}(?:/revision/(?P<revision>[^/]+))?")
def _info(request: Handler, hub: LoopbackHub, kind: str, name: str, revision: str):
    repo = request.repo(hub, kind, name)
    commit = repo.at(revision or "main")
    card = metadata_of(commit.files["README.md"].data.decode()) if "README.md" in commit.files else {}
    siblings = [{"rfilename": path} for path in commit.files]
    if request.query.get("blobs"):
        siblings = [
            {"rfilename": path, "size": len(blob.data), "blobId": blob.git_oid}
            | (
                {"lfs": {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}}
                if blob.large
                else {}
            )
            for path, blob in commit.files.items()
        ]
    facts = {name: card[name] for name in ("pipeline_tag", "library_name") if name in card}
    facts |= {"id": repo.name, "author": name.split("/")[0], "sha": commit.oid, "private": repo.private}
    facts |= {"lastModified": commit.date, "tags": card.get("tags") or [], "cardData": card, "siblings": siblings}
    return 200, {}, facts


@route("GET", rf"{_API}/refs")
def _refs(request: Handler, hub: LoopbackHub, kind: str, name: str):
    heads = [(branch, commits[-1].oid) for branch, commits in request.repo(hub, kind, name).branches.items()]
    branches = [{"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": oid} for branch, oid in heads]
    return 200, {}, {"branches": branches, "tags": [], "converts": []}


@route("GET", rf"{_API}/commits/(?P<revision>[^/]+)")
def _commits(request: Handler, hub: LoopbackHub, kind: str, name: str, revision: str):
    request.repo(hub, kind, name).at(revision)
    commits = hub.commits(name, revision, kind)
    authors = [{"user": name.split("/")[0]}]
    return (
        200,
        {},
        [{"id": c.oid, "authors": authors, "date": c.date, "title": c.title, "message": ""} for c in commits],
    )


@route("GET", rf"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
def _tree(request: Handler, hub: LoopbackHub, kind: str, name: str, revision: str, folder: str):
    commit = request.repo(hub, kind, name).at(revision)
    prefix = f"{folder.strip('/')}/" if folder else ""
    inside = {path: blob for path, blob in sorted(commit.files.items()) if path.startswith(prefix)}
    if prefix and not inside:
        raise RefusalError(404, "EntryNotFound", f"{folder} does not exist on {revision}")
    entries, folders = [], set()
    for path, blob in inside.items():
        parts = path.removeprefix(prefix).split("/")
        parents = [prefix + "/".join(parts[:depth]) for depth in range(1, len(parts))]
        is_deep = request.query.get("recursive", "").lower() not in ("true", "1")
        for parent in parents[:1] if is_deep else parents:
            if parent not in folders:
                entries.append({"type": "directory", "path": parent, "size": 0, "oid": f"{len(folders):040x}"})
                folders.add(parent)
        if parents and is_deep:
            continue
        entry = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.git_oid}
        if blob.large:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
        if request.query.get("expand", "").lower() in ("true", "1"):
            entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
        entries.append(entry)
    start = int(request.query.get("cursor", 0))
    here = urlsplit(request.path)
    query = "&".join(f"{key}={value}" for key, value in {**request.query, "cursor": start + PAGE}.items())
    following = {"Link": f'<{hub.url}{here.path}?{query}>; rel="next"'} if start + PAGE < len(entries) else {}
    return 200, following, entries[start : start + PAGE]


@route("POST", rf"{_API}/preupload/(?P<revision>[^/]+)")
def _preupload(request: Handler, hub: LoopbackHub, kind: str, name: str, revision: str):
    commit = request.repo(hub, kind, name, write=True).at(revision)
    answers = []
    for file in request.json()["files"]:
        path, sample = file["path"], base64.b64decode(file["sample"])
        is_large = any(fnmatch(path, name) for name in LARGE_FILES) or b"\0" in sample or file["size"] > 10 * 2**20
        there = commit.files.get(path)
        answer = {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
        answers.append({**answer, **({"oid": there.sha256 if there.large else there.git_oid} if there else {})})
    return 200, {}, {"files": answers}


@route("POST", rf"{_GIT}\.git/info/lfs/objects/batch")
def _batch(request: Handler, hub: LoopbackHub, kind: str, name: str):
    repo = request.repo(hub, kind, name, write=True)
    objects = []
    for wanted in request.json()["objects"]:
        known = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in repo.large:
            place = f"/{repo.kind}/{name}/{wanted['oid']}"
            verify = {"href": f"{hub.url}/verify{place}"}
            known["actions"] = {"upload": {"href": f"{hub.storage}/storage{place}"}, "verify": verify}
        objects.append(known)
    return 200, {}, {"transfer": "basic", "objects": objects}


_OBJECT = rf"/(?P<kind>model|dataset|space)/{_REPO}/(?P<oid>[0-9a-f]{{64}})"


@route("PUT", f"/storage{_OBJECT}")
def _put(request: Handler, hub: LoopbackHub, kind: str, name: str, oid: str):
    _check_no_token(request)
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise RefusalError(400, None, "the content has another hash")
    hub.repos[kind, name].large[oid] = request.body
    return 200, {"ETag": f'"{oid}"'}, b""


@route("POST", f"/verify{_OBJECT}")
def _verify(request: Handler, hub: LoopbackHub, kind: str, name: str, oid: str):
    if len(request.repo(hub, kind, name, write=True).large.get(oid, b"")) != request.json()["size"]:
        raise RefusalError(404, None, "no such object")
    return 200, {}, {}


@route("GET", f"/storage{_OBJECT}")
def _get(request: Handler, hub: LoopbackHub, kind: str, name: str, oid: str):
    _check_no_token(request)
    return _content(request, hub.repos[kind, name].large[oid], {"ETag": f'"{oid}"'})


def _check_no_token(request: Handler) -> None:
    if request.user is not None:
        raise RefusalError(400, None, "the token was sent to the storage's host")


@route("POST", rf"{_API}/commit/(?P<revision>[^/]+)")
def _commit(request: Handler, hub: LoopbackHub, kind: str, name: str, revision: str):
    repo = request.repo(hub, kind, name, write=True)
    if revision not in repo.branches:
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    head = repo.at(revision)
    files, title = dict(head.files), ""
    for line in request.body.splitlines():
        key, value = (json.loads(line)[part] for part in ("key", "value"))
        if key == "header":
            title = value["summary"]
            if value.get("parentCommit", head.oid) != head.oid:
                raise RefusalError(412, None, "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in repo.large:
                raise RefusalError(400, None, f"LFS pointer of {value['path']} points to a file that does not exist")
            files[value["path"]] = Blob(repo.large[value["oid"]], True)
        else:
            gone = [path for path in files if path == value["path"] or path.startswith(f"{value['path'].rstrip('/')}/")]
            if not gone:
                raise RefusalError(404, "EntryNotFound", "A file with this name doesn't exist")
            for path in gone:
                del files[path]
    problems = _refusals(files["README.md"].data.decode()) if "README.md" in files else []
    if problems:
        raise RefusalError(400, None, f"Invalid metadata in README.md: {problems[0]}")
    commit = repo.add(revision, title, files)
    prefix = "" if repo.kind == "model" else f"{repo.kind}s/"
    url = f"{hub.url}/{prefix}{name}/commit/{commit.oid}"
    return 200, {}, {"success": True, "commitOid": commit.oid, "commitUrl": url}


@route("GET", rf"{_GIT}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def _resolve(request: Handler, hub: LoopbackHub, kind: str, name: str, revision: str, path: str):
    repo = request.repo(hub, kind, name)
    commit = repo.at(revision)
    headers = {"X-Repo-Commit": commit.oid}
    blob = commit.files.get(path)
    if blob is None:
        raise RefusalError(404, "EntryNotFound", "Entry not found", headers)
    if not blob.large:
        return _content(request, blob.data, {**headers, "ETag": f'"{blob.git_oid}"'})
    headers |= {"X-Linked-Size": str(len(blob.data)), "X-Linked-Etag": f'"{blob.sha256}"'}
    place = f"{hub.storage}/storage/{repo.kind}/{quote(name)}/{blob.sha256}"
    return 302, {**headers, "Location": place}, b""


def _content(request: Handler, data: bytes, headers: dict[str, str]):
    headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not found:
        return 200, headers, data
    start, end = int(found[1]), int(found[2] or len(data) - 1)
    if start >= len(data):
        raise RefusalError(416, None, "out of range", {"Content-Range": f"bytes */{len(data)}"})
    part = data[start : end + 1]
    return 206, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"}, part
