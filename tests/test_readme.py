"""The README's blocks, run as they stand there and in their order.

A reader has run the quickstart before; here `runs/quickstart` is a tiny model of a few films, some of which have ids
that the README asks for. Each line of a shell block is a process of its own, Python blocks share one, as in a notebook.
What is published goes to a Hub on this machine.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from gram.reproduction import quickstart
from gram.train_accelerate import main as train

from .conftest import QUICKSTART_RECIPE, write_films_wheel
from .forks import GRAM, Forks
from .waiting import PATIENCE

ROOT = Path(__file__).parents[1]
QUICKSTART = "pip install -c constraints.txt -e . && gram quickstart"
TESTS = 'pip install -c constraints.txt -e ".[test]" && pytest'
RUNS_UNTIL_STOPPED = "<!-- runs until stopped -->\n"
PORT = "8000"

FILMS = {16: 50, 17: 71, 18: 172, 19: 181, 20: 588}  # in MovieLens-100k these films have many ratings

# What the forks run for the programs of the shell blocks.
TRAIN = "import sys; from gram.train_accelerate import main; main(sys.argv[1:])"
SCRIPTS = {"gram": GRAM, "accelerate launch -m gram.train_accelerate": TRAIN}

# Runs what comes in, a line of JSON each, in one namespace, and says when it is done.
NOTEBOOK = """
import json, sys
answers, sys.stdout = sys.stdout, sys.stderr
namespace = {"__name__": "__main__"}
for line in sys.stdin:
    exec(compile(json.loads(line), "README.md", "exec"), namespace)
    print("done", file=answers, flush=True)
"""


class Block(NamedTuple):
    """A block of the README, and where it stands."""

    line: int
    language: str
    code: str
    is_server: bool

    def __str__(self):
        return f"line-{self.line}"


def blocks_of(text: str) -> list[Block]:
    found = re.finditer(r"^(<!-- runs until stopped -->\n)?```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [
        Block(text[: match.start(2)].count("\n") + 1, match[2], match[3].strip(), match[1] is not None)
        for match in found
    ]


BLOCKS = blocks_of((ROOT / "README.md").read_text(encoding="utf-8"))


class Reader:
    """Who follows the README in a folder: a notebook, and a server that is up while the next block asks it.

    A program is started as on any command line once; from then on by a fork, which has imported the libraries.
    """

    def __init__(self, folder: Path, forks: Forks, token: str):
        self.folder, self.forks, self.token = folder, forks, token
        self.known, self.notebook, self.server, self.port = set(), None, None, PORT
        programs = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**forks.environment, "PATH": programs, "HF_TOKEN": token}

    def follow(self, block: Block) -> None:
        code = block.code.replace(PORT, self.port)
        if block.is_server:
            self.port = _free_port(PORT)
            self.serve(block.code.replace(PORT, self.port))
        elif block.language == "python":
            self.python(code)
        else:
            for command in code.replace("\\\n", " ").splitlines():
                self.shell(command)
            self.stop_server()

    def shell(self, command: str) -> None:
        program = next((program for program in self.known if command.startswith(f"{program} ")), None)
        if program is None:
            self.known.update(program for program in SCRIPTS if command.startswith(f"{program} "))
            options = {"cwd": self.folder, "env": self.environment, "capture_output": True, "text": True}
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=False, **options)
        else:
            arguments = shlex.split(command.removeprefix(program))
            done = self.forks.run(SCRIPTS[program], *arguments, folder=self.folder, HF_TOKEN=self.token)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-4000:]}"

    def python(self, code: str) -> None:
        log = self.folder / "notebook.log"
        if self.notebook is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("w"), "text": True}
            command = [sys.executable, "-c", NOTEBOOK]
            self.notebook = subprocess.Popen(command, cwd=self.folder, env=self.environment, **pipes)
        self.notebook.stdin.write(json.dumps(code) + "\n")
        self.notebook.stdin.flush()
        assert self.notebook.stdout.readline() == "done\n", f"{code}\n{log.read_text()[-4000:]}"

    def serve(self, command: str) -> None:
        log, (program, *arguments) = self.folder / "server.log", shlex.split(command)
        self.server = self.forks.start(SCRIPTS[program], *arguments, errors=log, folder=self.folder)
        while not _answers(self.port):
            assert self.server.poll() is None, f"{command} ended with {self.server.returncode}\n{log.read_text()}"
            time.sleep(0.2)

    def stop_server(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait() == 0
            self.server = None

    def leave(self) -> None:
        if self.notebook is not None:
            self.notebook.stdin.close()
            self.notebook.wait(timeout=PATIENCE)
        if self.server is not None:
            self.server.send_signal(signal.SIGKILL)


def _answers(port: str) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", int(port))) == 0


def _free_port(wanted: str) -> str:
    """The port that the README names, unless something else listens there."""
    if not _answers(wanted):
        return wanted
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture(scope="module")
def reader(forks, loopback_hub, tmp_path_factory):
    """In a folder that has what the repository's root has for a reader, and a small `runs/quickstart`."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("hub", "examples"):
        (folder / name).symlink_to(ROOT / name)
    model = folder / "runs" / "quickstart"
    quickstart.prepare_movielens(write_films_wheel(folder / quickstart.WHEEL, FILMS), model / "data")
    (folder / "recipe.yaml").write_text(QUICKSTART_RECIPE, encoding="utf-8")
    train([f"--config={folder / 'recipe.yaml'}", f"--data={model / 'data'}", f"--output-dir={model}"])
    reader = Reader(folder, forks, loopback_hub.token)
    yield reader
    reader.leave()


def test_the_two_commands():
    """They are what a fresh machine runs first, and what CI runs."""
    commands = [block.code for block in BLOCKS]
    assert commands[0] == QUICKSTART
    assert TESTS in commands
    assert TESTS in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_block_is_bash_or_python():
    assert {block.language for block in BLOCKS} == {"bash", "python"}
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.code not in (QUICKSTART, TESTS)], ids=str)
def test_block(reader, block):
    reader.follow(block)


def test_links_and_pictures_are_there():
    for page in (ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
