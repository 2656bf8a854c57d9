"""A disk that is full, files that may not become large, places that cannot be written: one line, and nothing half."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gram.common.files import new_file, new_files, new_folder

from .forks import RUN
from .waiting import PATIENCE

SCRIPT = Path(__file__).with_name("on_a_full_disk.py")
ON_A_TINY_DISK = 'mount -t tmpfs -o size="$0" none "$1" && shift && exec "$@"'


def on_a_tiny_disk(size: str, folder: Path, *command) -> list[str]:
    """A command in a name space of its own, in which a folder is a disk of this size."""
    return ["unshare", "-rm", "sh", "-c", ON_A_TINY_DISK, size, str(folder), *map(str, command)]


@pytest.fixture(scope="module")
def shop(data_folder, tmp_path_factory) -> Path:
    """The data folder, and a log of visits beside it."""
    folder = shutil.copytree(data_folder, tmp_path_factory.mktemp("shop") / "data")
    visits = [f"{user},{film},{film}" for user in range(300) for film in range(3 + user % 3)]
    (folder / "visits.csv").write_text("\n".join(["user_id,item_id,timestamp", *visits]))
    films = [f"{film},Film {film}" for film in range(5)]
    (folder / "films.csv").write_text("\n".join(["item_id,title", *films]))
    return folder


@pytest.mark.parametrize("kind", ["disk", "size"])
def test_commands_leave_whole_files_and_one_line_that_names_a_file(kind, shop, model_folder, forks, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    command = [SCRIPT, kind, place, model_folder, shop]
    if kind == "disk":
        if (
            shutil.which("unshare") is None
            or subprocess.run(on_a_tiny_disk("1m", place, "true"), check=False).returncode
        ):
            pytest.skip("no tiny disk can be mounted here")
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
        options = {"env": environment, "capture_output": True, "text": True, "timeout": PATIENCE}
        done = subprocess.run(on_a_tiny_disk("4k", place, sys.executable, *command), check=False, **options)
        said, code = done.stdout, done.returncode
    else:
        process = forks.start(RUN, *command, errors=Path("/dev/null"))  # no file of the process may become large
        said, code = process.stdout.read(), process.wait()
    assert code == 0, said
    reason = "No space left on device" if kind == "disk" else "File too large"
    for line in said.splitlines():
        found = json.loads(line)
        assert (found["code"], len(found["errors"])) == (2, 1), line
        assert found["errors"][0].startswith(f"gram: error: {place}{os.sep}"), line
        assert found["errors"][0].endswith(f": {reason}") or reason in found["errors"][0], line
        assert all(found["left"].values()), line
        names = [Path(name).name for name in found["left"]]
        assert not [name for name in names if name.startswith(".") or name.endswith((".part", ".partial", ".tmp"))], (
            line
        )


def test_a_failure_leaves_what_was_there_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), new_file(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "x" / "folder") as folder:
        (folder / "b.txt").write_text("half")
        raise ZeroDivisionError
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("a.txt", "old")]


def test_what_a_killed_run_has_left_is_gone_after_the_next(tmp_path):
    script = """
import os, sys
from gram.common.files import new_file, new_folder
with new_file("a.txt") as part, new_folder("folder") as folder:
    part.write_text("half")
    (folder / "b.txt").write_text("half")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False).returncode == -9
    assert not {"a.txt", "folder"} & {path.name for path in tmp_path.iterdir()}
    with new_file(tmp_path / "a.txt") as part:
        part.write_text("whole")
    with new_folder(tmp_path / "folder") as folder:
        (folder / "b.txt").write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]


def test_of_files_that_belong_together_the_deciding_one_comes_last(tmp_path, monkeypatch):
    table, results = tmp_path / "a.parquet", tmp_path / "a.json"
    for path in (table, results):
        path.write_text("old")
    replace = os.replace

    def crash_after_the_first(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash_after_the_first)
    with pytest.raises(KeyboardInterrupt), new_files(table, results) as parts:
        for part in parts:
            part.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("path", ["/proc/self/a.txt", f"{'long' * 100}.txt", "nowhere/a.txt", "/dev/full/a.txt"])
def test_a_place_that_cannot_be_written_is_named(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError) as failed, new_file(path) as part:
        part.write_text("a")
    assert failed.value.filename == path
    assert failed.value.strerror
