"""Who follows the blocks of a page as they stand there, and in their order.

A reader has run the quickstart before; here `runs/quickstart` is a tiny model of a few films, some of which have ids
that the pages ask for. Each line of a shell block is a process of its own, Python blocks share one, as in a notebook.
What is published goes to a Hub on this machine.

A remark before a block says what is special: `<!-- runs until stopped -->` is a server, and the block after it asks
it; `<!-- not run: why -->` is shown alone.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

from gram.reproduction import quickstart
from gram.train_accelerate import main as train

from .conftest import QUICKSTART_RECIPE, write_films_wheel
from .forks import GRAM, Forks
from .waiting import PATIENCE

ROOT = Path(__file__).parents[1]
RUNS_UNTIL_STOPPED, NOT_RUN = "runs until stopped", "not run: "
PORT = "8000"

FILMS = {16: 50, 17: 71, 18: 172, 19: 181, 20: 588}  # in MovieLens-100k these films have many ratings

# What the forks run for the programs of the shell blocks.
TRAIN = "import sys; from gram.train_accelerate import main; main(sys.argv[1:])"
SCRIPTS = {"gram": GRAM, "accelerate launch -m gram.train_accelerate": TRAIN}

# Runs what comes in, a line of JSON each, and says when it is done: code, or the folder of a reader who starts anew.
NOTEBOOK = """
import json, os, sys
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    given = json.loads(line)
    if "folder" in given:
        os.chdir(given["folder"])
        namespace = {"__name__": "__main__"}
    else:
        exec(compile(given["code"], given["page"], "exec"), namespace)
    print("done", file=answers, flush=True)
"""


class Block(NamedTuple):
    """A block of a page, and where it stands."""

    page: str
    line: int
    remark: str
    language: str
    code: str

    def __str__(self):
        return f"{self.page}-{self.line}"

    @property
    def is_run(self) -> bool:
        return not self.remark.startswith(NOT_RUN) and self.language in ("bash", "python")


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    pattern = r"^(?:<!-- ([^\n]+) -->\n)?(```)(\w*)\n(.*?)^```$"
    return [
        Block(page.name, text[: found.start(2)].count("\n") + 1, found[1] or "", found[3], found[4].strip())
        for found in re.finditer(pattern, text, flags=re.MULTILINE | re.DOTALL)
    ]


class Reader:
    """Who follows pages: in a folder for each, with a notebook, and a server that is up while the next block asks it.

    Args:
        folder: of the folders.
        model: what each finds as `runs/quickstart`.
        starts_programs: start a program as on any command line once; from then on, or always, by a fork, which has
            imported the libraries.
    """

    def __init__(self, folder: Path, model: Path, forks: Forks, token: str, starts_programs: bool):
        self.root, self.model, self.forks, self.token = folder, model, forks, token
        self.page, self.folder, self.notebook, self.server, self.port = None, folder, None, None, PORT
        self.known = set() if starts_programs else set(SCRIPTS)
        programs = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**forks.environment, "PATH": programs, "HF_TOKEN": token}

    def turn_to(self, page: str) -> None:
        """Open another page, in a folder that has what the repository's root has for a reader."""
        if page == self.page:
            return
        self.stop_server()
        self.page, self.folder = page, self.root / page.removesuffix(".md")
        shutil.copytree(self.model, self.folder / "runs" / "quickstart")
        for name in ("hub", "examples"):
            (self.folder / name).symlink_to(ROOT / name)
        if self.notebook is not None:
            self._ask_notebook({"folder": str(self.folder)})

    def follow(self, block: Block) -> None:
        self.turn_to(block.page)
        code = block.code.replace(PORT, self.port)
        if block.remark == RUNS_UNTIL_STOPPED:
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
        if self.notebook is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            command, log = [sys.executable, "-c", NOTEBOOK], self._log.open("w")
            self.notebook = subprocess.Popen(command, cwd=self.folder, env=self.environment, stderr=log, **pipes)
            self._ask_notebook({"folder": str(self.folder)})
        self._ask_notebook({"code": code, "page": self.page})

    @property
    def _log(self) -> Path:
        return self.root / "notebook.log"

    def _ask_notebook(self, question: dict[str, str]) -> None:
        self.notebook.stdin.write(json.dumps(question) + "\n")
        self.notebook.stdin.flush()
        assert self.notebook.stdout.readline() == "done\n", f"{question}\n{self._log.read_text()[-4000:]}"

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


def train_films(folder: Path) -> Path:
    """The tiny model of a few films, in a folder as the quickstart leaves it."""
    model = folder / "quickstart"
    quickstart.prepare_movielens(write_films_wheel(folder / quickstart.WHEEL, FILMS), model / "data")
    (folder / "recipe.yaml").write_text(QUICKSTART_RECIPE, encoding="utf-8")
    train([f"--config={folder / 'recipe.yaml'}", f"--data={model / 'data'}", f"--output-dir={model}"])
    return model
