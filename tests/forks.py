"""Python processes that start at once: forks of one that has imported torch and transformers already.

    with Forks(HF_ENDPOINT=hub.url) as forks:
        subprocess.run([forks.programs / "python", "-c", "import gram"], env=forks.environment)

`programs` is a folder for the PATH, with `python`, `gram` and `accelerate`. What they start is a process with its own
arguments, folder, environment, input, output, signals and exit code, in which nothing of ours has been imported. What
libraries read when they are imported is that of the environment given to `Forks`; a call that wants another (see
`READ_EARLY`) gets a fresh interpreter, and so does every call where the system is not Linux.
"""

import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import sysconfig
import types
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAMS = ("python", "gram", "accelerate")
IMPORTED = ("accelerate", "pandas", "pyarrow.parquet", "sklearn.decomposition", "torch", "transformers.pipelines")
READ_EARLY = ("HF_HOME", "HF_ENDPOINT", "HF_HUB_", "HF_MODULES_CACHE", "OMP_", "PYTHON", "TRANSFORMERS_")

# Asks for a fork, gives it what this process has, passes signals on, and ends as it ends.
STAND_IN = """#!{python} -IS
import json, os, signal, socket, sys
name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]
if name != "python":
    argv.insert(0, os.path.join({scripts!r}, name))
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"."], [0, 1, 2])
connection.sendall(json.dumps([argv, os.getcwd(), dict(os.environ)]).encode() + b"\\n")
answers = connection.makefile()
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int(answers.readline())
sys.exit(code if code >= 0 else 128 - code)
"""


class Forks:
    """Starts forks until it is closed.

    Args:
        variables: of the environment, besides those of this process; None: not set.
    """

    def __init__(self, **variables: str | None):
        environment = {**os.environ, **variables}
        self.environment = {name: value for name, value in environment.items() if value is not None}
        self._folder = TemporaryDirectory(prefix="forks-")
        self.programs = Path(self._folder.name)
        address = str(self.programs / "socket")
        code = STAND_IN.format(python=sys.executable, scripts=sysconfig.get_path("scripts"), address=address)
        for name in PROGRAMS:
            (self.programs / name).write_text(code, encoding="utf-8")
            (self.programs / name).chmod(0o755)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([sys.executable, __file__, address], env=self.environment, **pipes)
        self._process.stdout.readline()

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *error) -> None:
        self._process.stdin.close()  # which it ends with, also where this process is killed
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()


def next_call(address: str) -> tuple[list[str], dict[str, str]]:
    """Fork for every call, until the standard input ends; returns in the forks, with arguments and environment."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if server not in ready:
                sys.exit()
            connection, _ = server.accept()
            if os.fork() == 0:
                break
            connection.close()
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    argv, folder, environment = json.loads(connection.makefile().readline())
    if pid := os.fork():  # this one waits for the program
        for file in files:
            os.close(file)
        connection.sendall(f"{pid}\n".encode())
        connection.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    connection.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    return argv, environment


def run(argv: list[str], environment: dict[str, str]) -> None:
    """Do what `python` does with these arguments."""
    early = [name for name in {*environment, *os.environ} if name.startswith(READ_EARLY)]
    if sys.platform != "linux" or any(environment.get(name) != os.environ.get(name) for name in early):
        os.execve(sys.executable, [sys.executable, *argv], environment)
    os.environ.clear()
    os.environ.update(environment)
    if argv[0] == "-m":
        sys.argv, sys.path[:0] = argv[1:], [os.getcwd()]
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    elif argv[0] == "-c":
        sys.argv, sys.path[:0] = ["-c", *argv[2:]], [""]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(argv[1], sys.modules["__main__"].__dict__)
    else:
        sys.argv, sys.path[:0] = argv, [str(Path(argv[0]).parent)]
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    if sys.platform == "linux":
        for name in IMPORTED:
            importlib.import_module(name)
        gc.freeze()  # no fork needs to look through all of this, not even at its end
    run(*next_call(sys.argv[1]))
