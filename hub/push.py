"""Publishing a model folder on the Hub: one commit, of nothing but what has changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import NoReturn

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoCard, constants, get_token
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash
from yaml import YAMLError

from ..serving.loading import MODEL_FILES
from .card_data import CARD, EVALUATION_FILE, PLOT_FILE, TRAINING_FILE, GramCardData
from .card_settings import CardSettings
from .contents import CODE, SHARDS, contents
from .model_card import is_handmade, render

WEIGHTS = "model*.safetensors*"  # the index ends with .json
# What is removed from the Hub where the folder has it no more: it would be of another training.
OUTDATED = (WEIGHTS, CODE, EVALUATION_FILE, TRAINING_FILE, PLOT_FILE)


@dataclass(frozen=True)
class PushedFile:
    """A file of a push."""

    path: str  # in the repository
    size: int  # in bytes
    state: str  # `"new"`, `"changed"`, `"unchanged"`, or `"removed"`: on the Hub, but no longer in the folder


@dataclass(frozen=True)
class Push:
    """What a push did, or for a dry run would do."""

    repo_id: str  # with its namespace, unless that takes a token which is not there
    url: str  # of the repository, or of its branch
    files: list[PushedFile]  # all of the model's, in the order of their paths
    commit_url: str | None = None  # None where nothing has changed, and for a dry run

    @property
    def changes(self) -> list[PushedFile]:
        """The files that are not on the Hub as they are in the folder."""
        return [file for file in self.files if file.state != "unchanged"]


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    item_cache: bool = False,
    message: str = "Upload GRAM",
    dry_run: bool = False,
) -> Push:
    """Upload a model folder as one commit; see `gram.hub.contents` for what of it.

    Files whose content is on the Hub are not sent again, so that an interrupted push goes on where it was; where
    nothing has changed there is no commit. Item encodings on the Hub go with the model that they were made with. A card
    that `gram card` wrote comes to name the repository in its code; one that was written by hand goes up as it is.

    Args:
        folder: the model folder.
        repo_id: `NAMESPACE/NAME`, or `NAME` in the namespace of the token's user; made if it does not exist.
        private: make it a private repository.
        revision: branch, made from `main` if it does not exist; by default `main`.
        item_cache: upload the item encodings too.
        message: of the commit.
        dry_run: only compare, which asks the Hub but changes nothing, and for a public repository needs no token.

    Raises:
        FileNotFoundError, ValueError: see `gram.hub.contents.contents`; or a name that cannot be one of a repository;
            or the Hub refuses the card's metadata.
        PermissionError: there is no token, it is not valid, or it may not write to this repository.
        ConnectionError: the Hub cannot be reached.
        OSError: it has refused something else.
    """
    validate_repo_id(repo_id)
    found = contents(folder, item_cache)
    api = HfApi()
    with plain_errors(repo_id):
        repo_id = full_name(api, repo_id, dry_run)
        if CARD in found:
            found[CARD] = _card_of(Path(folder), repo_id)
        if not dry_run:
            if CARD in found:
                _validate(found[CARD].decode())
            _make(api, repo_id, private, revision)
        parent, there = _survey(api, repo_id, revision)
        additions = {path: CommitOperationAdd(path, content) for path, content in found.items()}
        files = _compare(additions, there, item_cache)
        done = Push(repo_id, f"{constants.ENDPOINT}/{repo_id}{f'/tree/{revision}' if revision else ''}", files)
        operations = [additions.get(file.path) or CommitOperationDelete(file.path) for file in done.changes]
        if operations and not dry_run:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*commit a data file")  # the catalogue is part of the model
                commit = api.create_commit(
                    repo_id, operations, commit_message=message, revision=revision, parent_commit=parent
                )
            return replace(done, commit_url=commit.commit_url)
    return done


def full_name(api: HfApi, repo_id: str, dry_run: bool = False) -> str:
    """The name of a repository with its namespace; a dry run asks for a token only to find that.

    Raises:
        PermissionError: there is no token.
    """
    if get_token() is None:
        if dry_run:
            return repo_id
        raise PermissionError("no token for the Hub; run `hf auth login`, or set HF_TOKEN")
    user = api.whoami()["name"]
    return repo_id if "/" in repo_id else f"{user}/{repo_id}"


def _card_of(folder: Path, repo_id: str) -> bytes:
    """The card; one that `gram card` wrote is made anew, so that it names the repository."""
    if is_handmade(folder / CARD):
        return (folder / CARD).read_bytes()
    return render(GramCardData(folder, replace(CardSettings.of(folder), repo_id=repo_id))).encode()


def _validate(card: str) -> None:
    """By the Hub, which takes what it knows; before anything is made there."""
    try:
        RepoCard(card).validate()  # a ModelCard mends some of what it reads
    except (TypeError, ValueError, YAMLError) as error:
        raise ValueError(f"{CARD}: the Hub refuses the metadata: {' '.join(str(error).split())}") from error


def _make(api: HfApi, repo_id: str, private: bool, revision: str | None) -> None:
    """Make repository and branch unless they are there."""
    api.create_repo(repo_id, private=private or None, exist_ok=True)
    if private and not api.model_info(repo_id).private:
        raise ValueError(f"{repo_id}: is public already; make it private in its settings, or push without --private")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _survey(api: HfApi, repo_id: str, revision: str | None) -> tuple[str | None, dict[str, RepoSibling]]:
    """Commit and files that are there; none where there is no such repository, or none that the token may see."""
    try:
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
    except RevisionNotFoundError:
        info = api.model_info(repo_id, files_metadata=True)  # where the branch will start
    except RepositoryNotFoundError:
        return None, {}
    return info.sha, {file.rfilename: file for file in info.siblings}


def _compare(
    additions: dict[str, CommitOperationAdd], there: dict[str, RepoSibling], item_cache: bool
) -> list[PushedFile]:
    files = []
    for path, addition in additions.items():
        state = "new" if path not in there else "unchanged" if _is_same(addition, there[path]) else "changed"
        files.append(PushedFile(path, addition.upload_info.size, state))
    changed = [file.path for file in files if file.state != "unchanged"]
    has_other_encodings = item_cache or any(path in MODEL_FILES or fnmatch(path, WEIGHTS) for path in changed)
    outdated = (*OUTDATED, SHARDS) if has_other_encodings else OUTDATED
    for path, file in there.items():
        if path not in additions and any(fnmatch(path, pattern) for pattern in outdated):
            files.append(PushedFile(path, file.size, "removed"))
    return sorted(files, key=lambda file: file.path)


def _is_same(addition: CommitOperationAdd, there: RepoSibling) -> bool:
    """The Hub has SHA-256 of a large file, git's hash of another."""
    if there.lfs:
        return there.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return there.size == addition.upload_info.size and there.blob_id == git_hash(file.read())


@contextmanager
def plain_errors(repo_id: str) -> Iterator[None]:
    """What the Hub answers, or that it does not, as errors that say what to do."""
    try:
        yield
    except RuntimeError as error:  # of an upload: the reason is behind it
        if not isinstance(error.__cause__, HTTPError):
            raise
        _explain(error.__cause__, repo_id)
    except HTTPError as error:
        _explain(error, repo_id)


def _explain(error: HTTPError, repo_id: str) -> NoReturn:
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None) or str(error).strip().splitlines()[0]
    if status is None:
        raise ConnectionError(
            f"{constants.ENDPOINT} cannot be reached ({said}); push again when it can: what is there stays"
        ) from error
    if status == 401:
        raise PermissionError(
            "the Hub does not know this token (401); run `hf auth login`, or set HF_TOKEN to one that may write"
        ) from error
    if status in (403, 404):
        raise PermissionError(
            f"{repo_id}: this token may not write there ({status}: {said}); take another name, or another token"
        ) from error
    if status in (409, 412):
        raise OSError(f"{repo_id}: has been changed at the same time ({status}); push again") from error
    raise OSError(f"{repo_id}: the Hub answered {status}: {said}") from error
