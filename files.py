"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A place to write a file, which gets its name, and replaces what had it, when all is done.

    Example:
        >>> with new_file("a.txt") as part:
        ...     _ = part.write_text("a")
        >>> Path("a.txt").read_text()
        'a'
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all is done, and is removed where something fails.

    Raises:
        ValueError: there is something of this name already, other than an empty folder.

    Example:
        >>> with new_folder("made") as folder:
        ...     _ = (folder / "a.txt").write_text("a")
        >>> sorted(path.name for path in Path("made").iterdir())
        ['a.txt']
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{path}: exists already; give another name, or remove it")
    made = [parent for parent in path.parents if not parent.exists()]  # innermost first
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()
