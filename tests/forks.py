"""Processes that are ready at once: forks of one that has imported the libraries.

To import torch and transformers takes a process many seconds, and a fork of one that has imported them none. Apart from
that a fork is as fresh as any process: it has a folder, an environment and files of its own.
"""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .waiting import PATIENCE

# Run before a script that must not find the package.
BLOCK = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"

# For every line of JSON that comes in, it forks, or says whether a fork has ended. A fork goes on to run its script.
PARENT = """
import atexit, contextlib, gc, importlib, json, os, sys, traceback
for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    if "process" in asked:
        ended, status = os.waitpid(asked["process"], os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if ended else None), flush=True)
    elif process := os.fork():
        print(process, flush=True)
    else:
        break
else:
    raise SystemExit
os.chdir(asked["folder"])
os.environ.update(asked["environment"])
for number, (name, flags) in enumerate(zip(asked["files"], (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY))):
    os.dup2(os.open(name, flags), number)
sys.stdin, sys.argv = open(0), ["-c", *asked["arguments"]]
code = 0
try:
    exec(compile(asked["script"], "<script>", "exec"))
except SystemExit as end:
    code = end.code or 0
except BaseException:
    code = traceback.print_exc() or 1
atexit._run_exitfuncs()
sys.stdout.flush()
os._exit(code)  # at once: to take down what the libraries have made takes seconds
"""


# The command `gram`, and a file with its arguments.
GRAM = "import sys; from gram import cli; raise SystemExit(cli.main(sys.argv[1:]))"
# What is given as `python -m MODULE ...`.
MODULE = "import runpy, sys; del sys.argv[:2]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


class Fork:
    """A process, with what of `subprocess.Popen` the tests use; `stdout` is a pipe."""

    def __init__(self, parent: "Forks", pid: int, stdout=None):
        self._parent, self.pid, self.stdout, self.returncode = parent, pid, stdout, None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._parent.ask({"process": self.pid})
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Forks:
    """The process that has imported modules, and its forks.

    Args:
        modules: what is slow to import.
        folder: of the files that go in and come out, and of forks that are given no other.
        package: let them find the package.
        environment: of all of them.
        before: what they run before all imports.
    """

    def __init__(
        self, modules: Sequence[str], folder: Path, package: bool, environment: dict[str, str], before: str = ""
    ):
        self.folder, self.environment, self._numbers = folder, environment, itertools.count(1)
        self._lock = threading.Lock()
        command = [sys.executable, "-c", before + (PARENT if package else BLOCK + PARENT), *modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def ask(self, question: dict) -> int | None:
        """What the parent answers: the number of a new process, or the exit code of one that has ended."""
        with self._lock:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def _files(self, given: str) -> list[Path]:
        number = next(self._numbers)
        files = [self.folder / f"{number}.{name}" for name in ("in", "out", "errors")]
        files[0].write_text(given, encoding="utf-8")
        return files

    def _fork(self, script: str, arguments: Sequence, files: Sequence[Path], folder: Path | None, environment) -> Fork:
        question = {"script": script, "arguments": [*map(str, arguments)], "files": [*map(str, files)]}
        question |= {"folder": str(folder or self.folder), "environment": environment}
        return Fork(self, self.ask(question))

    def start(self, script: str, *arguments, errors: Path, folder: Path | None = None, **environment: str) -> Fork:
        """Start a script; its standard error output goes to a file."""
        files = [*self._files("")[:2], errors]
        os.mkfifo(files[1])
        errors.touch()
        fork = self._fork(script, arguments, files, folder, environment)
        fork.stdout = files[1].open(encoding="utf-8")  # once the fork opens it, too
        return fork

    def run(
        self, script: str, *arguments, given: str = "", folder: Path | None = None, processes: int = 0, **environment
    ) -> subprocess.CompletedProcess:
        """Run a script to its end, in a process alone or in a group of so many, as `torchrun` makes one.

        Returns:
            The first exit code that is not 0, and what all of them have said.
        """
        forks, places, group = [], [], {}
        if processes:
            group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        for rank in map(str, range(processes or 1)):
            places.append(self._files(given))
            for path in places[-1][1:]:
                path.touch()
            own = {**group, "RANK": rank, "LOCAL_RANK": rank} if group else {}
            forks.append(self._fork(script, arguments, places[-1], folder, {**environment, **own}))
        while None in (codes := [fork.poll() for fork in forks]):
            if any(codes):  # the others would wait for the one that failed
                for fork in forks:
                    fork.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        out, errors = ("".join(files[kind].read_text(encoding="utf-8") for files in places) for kind in (1, 2))
        return subprocess.CompletedProcess(script, next(filter(None, codes), 0), out, errors)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
