"""Files and folders that are there whole or not at all, that one process writes at a time, and that are our own."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"  # inside a folder that is filled little by little
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)
_locked: set[Path] = set()  # by this process, or the one that leads it


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A place to write a file, which gets its name, and replaces what had it, when all is done.

    Raises:
        OSError: it cannot be written; the error names the file, whatever library has failed.
    """
    with new_files(path) as (part,):
        yield part


@contextmanager
def new_files(*paths: str | Path) -> Iterator[list[Path]]:
    """Places to write files that belong together, the last of which says that all are there.

    That one is taken away before the first of the others is replaced, and comes back when all are.
    """
    targets = [Path(path) for path in paths]
    parts = [_hidden(path, "part") for path in targets]
    try:
        with write_errors(dict(zip(parts, targets, strict=True))):
            yield parts
            for part in parts:
                _to_disk(part)
            if len(targets) > 1:
                targets[-1].unlink(missing_ok=True)
            for part, path in zip(parts, targets, strict=True):
                os.replace(part, path)
                _to_disk(path.parent)
    finally:
        for part in parts:
            with suppress(OSError):  # a folder that is not there, a name that is too long
                part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all is done, and is removed where something fails.

    Raises:
        OSError: as of [`new_file`].
        ValueError: there is something of this name already, other than an empty folder; or another process makes it.
    """
    path = Path(path)
    with locked(path):
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ValueError(f"{path}: exists already; give another name, or remove it")
        with working_folder(path) as partial:
            yield partial
            put(partial, path)


@contextmanager
def working_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder beside `path` to make something in, removed at the end; errors name `path` in its place."""
    path = Path(path)
    partial = _hidden(path, "partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with write_errors({partial: path}):
            partial.mkdir(parents=True)
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put(source: Path, target: Path) -> None:
    """Rename a file or folder once all of it is on the disk; a file replaces what is there."""
    for path in (*source.rglob("*"), source):  # a file has nothing in it
        _to_disk(path)
    os.replace(source, target)
    _to_disk(target.parent)


@contextmanager
def locked(path: str | Path, inside: bool = False, processes=None, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing a file or folder. The lock ends with the process, however that ends.

    A process may lock what it has locked already.

    Args:
        path: of the file or folder; need not be there.
        inside: it is a folder that is filled little by little, so that the lock can lie in it.
        processes: an `Accelerator` or `PartialState` whose processes all call this, and count as one.
        wait: until nobody else has it.

    Raises:
        ValueError: another process has it; the message says which.
    """
    path = Path(path)
    lock_file = path / LOCK_FILE if inside else _hidden(path, "lock")
    key = lock_file.resolve()
    if key in _locked:
        yield
        return
    several = processes is not None and processes.num_processes > 1
    _locked.add(key)
    try:
        if several and not processes.is_main_process:
            processes.wait_for_everyone()
            yield
            return
        with _parents(lock_file), _lock(lock_file, path, wait):
            if several:
                processes.wait_for_everyone()
            yield
    finally:
        _locked.discard(key)


@contextmanager
def _lock(lock_file: Path, path: Path, wait: bool) -> Iterator[None]:
    lock = FileLock(lock_file)
    try:
        with write_errors({lock_file: path}):
            lock.acquire(timeout=0)
    except Timeout:
        holder = (lock_file.is_file() and lock_file.read_text(encoding="utf-8")) or "another process"
        if not wait:
            raise ValueError(
                f"{path}: {holder} writes there; wait until that has ended, or give another name"
            ) from None
        logger.warning("%s: %s writes there; waiting until that has ended", path, holder)
        lock.acquire()
    try:
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with suppress(OSError):  # the lock holds without it
            lock_file.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since},", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            lock_file.unlink()  # while it is held: whoever waits for it sees that it is gone, and makes a new one
        lock.release()


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """The folders above a path are there; those that were not, and have nothing in them at the end, go again."""
    made = [parent for parent in path.parents if not parent.exists()]  # innermost first
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def check_outputs(
    outputs: Mapping[str | Path, Callable[[Path], bool]], inputs: Iterable[str | Path | None] = ()
) -> None:
    """Make sure that writing loses nothing that is not our own.

    Args:
        outputs: each file or folder that is to be written, and what tells whether one that is there came from the same
            command, so that it may be replaced.
        inputs: files and folders that are read; what does not exist is left out.

    Raises:
        ValueError: an output is an input, also by a link; or it is there, not empty, and not our own.
    """
    given = [Path(path) for path in inputs if path is not None and Path(path).exists()]
    for output, is_own in outputs.items():
        output = Path(output)
        if not output.exists():
            continue
        for path in given:
            if output.samefile(path):
                raise ValueError(f"{output}: would be written over, but is read as {path}; give another output")
        if output.stat().st_size and not is_own(output):
            raise ValueError(
                f"{output}: exists already, and holds nothing that this command wrote; give another name, or remove it"
            )


def holds_json(path: Path, *names: str) -> bool:
    """Whether a file is a JSON object with these entries."""
    return json_in(path).keys() >= set(names)


def json_in(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def holds_table(path: Path, *columns: str) -> bool:
    """Whether a file is a Parquet table of these columns."""
    try:
        return pq.read_schema(path).names == list(columns)
    except (OSError, pa.ArrowException):
        return False


def _hidden(path: Path, ending: str) -> Path:
    """One name for all runs: what a killed one has left is replaced by the next."""
    return path.with_name(f".{path.name}.{ending}")


@contextmanager
def write_errors(names: Mapping[Path, Path]) -> Iterator[None]:
    """Let errors of writing be `OSError`s that name a file as the user knows it.

    `names` are what is written to, and what the user calls it; the last of them counts where an error names none.
    """
    try:
        yield
    except Exception as error:
        plain = _plain_error(error, names)
        if plain is None:
            raise
        raise plain from error


def _plain_error(error: Exception, names: Mapping[Path, Path]) -> OSError | None:
    text, number = str(error), getattr(error, "errno", None)
    if isinstance(error, OSError):
        if number is None:
            return None
        files = [str(name) for name in (error.filename2, error.filename) if name is not None]  # copying names both
        for part, path in names.items():
            for place in files:
                if str(part) in place:
                    return OSError(number, os.strerror(number), place.replace(str(part), str(path)))
            if not files and str(part) in text:
                return OSError(number, os.strerror(number), str(path))
        if files or number not in _NO_ROOM:
            return None
    elif found := re.search(r"\(os error (\d+)\)", text):  # safetensors, tokenizers
        number = int(found[1])
    elif "inline_container" in text:  # torch.save, which keeps the reason for itself
        number = errno.EIO
    else:
        return None
    return OSError(number, os.strerror(number), str(list(names.values())[-1]))


def _to_disk(path: Path) -> None:
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with indents, but lists of numbers on one line."""
    with new_file(path) as part:
        part.write_text(json_text(content), encoding="utf-8")


def json_text(content: dict[str, Any]) -> str:
    """What `write_json` writes."""
    text = json.dumps(content, indent=2)
    return re.sub(r"\[[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), text) + "\n"
