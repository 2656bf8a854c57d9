"""`gram serve` under load: many clients at once, every answer compared with what `Recommender` gives alone.

`python -m benchmarks.serving MODEL --output-dir DIR [--data DIR] [--clients 200] [--seconds 60]`. The server is a
process of its own; the clients, each with a connection that it keeps, send a random request, wait for its answer and
send the next. The same is done with a server that searches for one user at a time, half of it before and half after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from gram.data import evaluation_histories, read_folder
from gram.item_cache_gram import ItemCache
from gram.serving.recommendation import Recommender

from .measuring import GB, markdown, write_json

TOLERANCE = 1e-5  # of scores: users of a batch are multiplied in other blocks than one alone
PATIENT = ("--request-timeout", "600")
PLAIN = ("--batch-size", "1", "--max-wait-ms", "0")
USERS_PER_REQUEST, TOP_K = (1, 1, 1, 1, 2, 4), (5, 10, 10, 10, 20)
QUARTERS = (25, 50, 75, 100)  # per cent of the time, when memory is looked at
RIGHT, TIED, WRONG, LOST = "right", "tied", "wrong", "lost"


class Server:
    """`gram serve` in a process of its own, on a free port of the loopback interface.

    Args:
        model: the model folder.
        log: file for what it says on the standard error output.
        flags: more arguments of `gram serve`.

    Raises:
        RuntimeError: it ended before it listened; the log says why.
    """

    def __init__(self, model: Path, log: Path, *flags: str):
        command = [sys.executable, "-m", "gram.cli", "serve", str(model), "--port", "0", *flags]
        with log.open("wb") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        self._listen(log)

    def _listen(self, log: Path) -> None:
        said = self.process.stdout.readline()
        if not said.startswith("listening on "):
            raise RuntimeError(f"the server ended with code {self.process.wait()}; {log} says why")
        self.url = said.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def memory_gb(self, of: str = "VmRSS") -> float | None:
        """Resident memory now, or with `VmHWM` the most so far; None where that is not Linux."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.is_file():
            return None
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(of))
        return int(line.split()[1]) * 1024 / GB

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        return code

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_) -> None:
        self.stop()


class Connection:
    """One kept HTTP connection to a server on the loopback interface."""

    def __init__(self, port: int):
        self.port, self._streams = port, None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer.

        Raises:
            ConnectionError: there was none.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            answer = await reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, OSError) as error:
            self.close()
            raise ConnectionError(f"no answer: {error}") from None
        if headers.get("connection") == "close":
            self.close()
        return int(head[0].split()[1]), headers, answer

    def close(self) -> None:
        """Give the connection up; the next question opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass(frozen=True)
class Request:
    """A request, and for each of its users the items and scores that it must bring."""

    body: bytes
    expected: list[list[tuple[str, float]]]

    def judge(self, answer: bytes) -> str:
        """RIGHT: the same items with the same scores. TIED: items of one score stand in another order. Else WRONG."""
        found = json.loads(answer)["recommendations"]
        if [len(items) for items in found] != [len(items) for items in self.expected]:
            return WRONG
        verdict = RIGHT
        for items, expected in zip(found, self.expected, strict=True):
            for item, (item_id, score) in zip(items, expected, strict=True):
                if abs(item["score"] - score) > TOLERANCE:
                    return WRONG
                verdict = verdict if item["item_id"] == item_id else TIED
        return verdict


def make_requests(recommender: Recommender, histories: Sequence[Sequence[str]], count: int, seed: int) -> list[Request]:
    """Random requests, most of them of one kind of search, and what each user gets when asked for alone."""
    draw, requests = np.random.default_rng(seed), []
    for _ in tqdm(range(count), desc="expected answers", unit="request"):
        users = draw.choice(len(histories), size=min(int(draw.choice(USERS_PER_REQUEST)), len(histories)))
        asked = [list(histories[user]) for user in users]
        options = {"top_k": int(draw.choice(TOP_K)), "exclude_seen": bool(draw.random() < 0.9), "num_beams": 50}
        if draw.random() < 0.1:
            options["num_beams"] = 20
        expected = [recommender.recommend([history], **options)[0] for history in asked]
        pairs = [[(item.item_id, item.score) for item in items] for items in expected]
        requests.append(Request(json.dumps({"histories": asked, **options}).encode(), pairs))
    return requests


@dataclass
class Outcome:
    """What came of a time under load."""

    seconds: float = 0.0
    users: int = 0
    latencies: list[float] = field(default_factory=list)
    verdicts: Counter = field(default_factory=Counter)  # RIGHT, TIED, WRONG, LOST, or a status that is not 200
    memory_gb: list[float] = field(default_factory=list)  # each second

    def add(self, other: Outcome) -> None:
        """Count the other in."""
        self.seconds, self.users = self.seconds + other.seconds, self.users + other.users
        self.latencies += other.latencies
        self.verdicts += other.verdicts
        self.memory_gb += other.memory_gb

    def report(self) -> dict:
        """Figures of it."""
        answered = len(self.latencies)
        latencies = np.array(self.latencies or [math.nan])
        return {
            "seconds": self.seconds,
            "requests": answered,
            "requests_per_second": answered / self.seconds,
            "users_per_second": self.users / self.seconds,
            **{f"p{share}_ms": 1000 * float(np.quantile(latencies, share / 100)) for share in (50, 95, 99)},
            "answers": {str(name): number for name, number in self.verdicts.items()},
        }


async def load(server: Server, requests: Sequence[Request], clients: int, seconds: float, seed: int = 0) -> Outcome:
    """Let clients ask for so many seconds, each once at least; every request that was sent is waited for."""
    outcome, start = Outcome(), time.perf_counter()

    async def client(number: int) -> None:
        draw, connection = np.random.default_rng((seed, number)), Connection(server.port)
        for _ in takewhile(lambda asked: not asked or time.perf_counter() - start < seconds, count()):
            request, sent = requests[int(draw.integers(len(requests)))], time.perf_counter()
            try:
                status, _, answer = await connection.ask("POST", "/recommend", request.body)
            except ConnectionError:
                outcome.verdicts[LOST] += 1
                continue
            outcome.latencies.append(time.perf_counter() - sent)
            verdict = request.judge(answer) if status == 200 else str(status)
            outcome.verdicts[verdict] += 1
            outcome.users += len(request.expected) if status == 200 else 0
        connection.close()

    async def watch() -> None:
        while (memory := server.memory_gb()) is not None:
            outcome.memory_gb.append(memory)
            await asyncio.sleep(1)

    watching = asyncio.ensure_future(watch())
    await asyncio.gather(*(client(number) for number in range(clients)))
    outcome.seconds = time.perf_counter() - start
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return outcome


def measure(model: Path, requests: Sequence[Request], clients: int, seconds: float, output_dir: Path) -> dict:
    """The batching server for so many seconds, the plain one for half as many."""
    batched, plain = Outcome(), Outcome()
    log, plain_log = output_dir / "server.log", output_dir / "plain_server.log"
    with Server(model, log, *PATIENT) as server, Server(model, plain_log, *PATIENT, *PLAIN) as other:
        before = server.memory_gb()
        for seed, outcome, asked, length in (
            (0, plain, other, seconds / 4),
            (1, batched, server, seconds),
            (2, plain, other, seconds / 4),
        ):
            outcome.add(asyncio.run(load(asked, requests, clients, length, seed)))
        peak = server.memory_gb("VmHWM")
        codes = [server.stop(), other.stop()]
    report = {"clients": clients, "batched": batched.report(), "plain": plain.report(), "exit_codes": codes}
    report["times_plain"] = report["batched"]["users_per_second"] / report["plain"]["users_per_second"]
    if peak is not None:
        quarters = {f"after_{share}%": batched.memory_gb[len(batched.memory_gb) * share // 101] for share in QUARTERS}
        report["memory_gb"] = {"before": before, **quarters, "peak": peak}
    return report


def as_table(report: dict) -> str:
    """Markdown: a row per server."""
    head = ["server", "requests/s", "users/s", "p50 ms", "p95 ms", "p99 ms", RIGHT, TIED, WRONG, LOST, "errors"]
    rows = []
    for name, title in (("batched", "dynamic batches"), ("plain", "one user at a time")):
        row, answers = report[name], Counter(report[name]["answers"])
        errors = sum(answers.values()) - sum(answers[kind] for kind in (RIGHT, TIED, WRONG, LOST))
        figures = [
            f"{row[key]:,.0f}" for key in ("requests_per_second", "users_per_second", "p50_ms", "p95_ms", "p99_ms")
        ]
        counts = [f"{count:,}" for count in (*(answers[kind] for kind in (RIGHT, TIED, WRONG, LOST)), errors)]
        rows.append([title, *figures, *counts])
    return markdown(head, rows)


def histories_of(data: Path | None, item_ids: Sequence[str], count: int = 1000) -> list[list[str]]:
    """What users of the data have taken, or where there are no data, random items."""
    draw = np.random.default_rng(0)
    if data is None:
        return [
            [item_ids[row] for row in draw.integers(len(item_ids), size=draw.integers(1, 30))] for _ in range(count)
        ]
    folder = read_folder(data)
    histories, _ = evaluation_histories(folder, "test")
    ids = folder.items.item_ids
    return [[ids[row] for row in histories[user]] for user in draw.permutation(len(histories))[:count]]


def main(argv: Sequence[str] | None = None) -> None:
    """Load both servers, print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of a trained model")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for serving.json and the servers' logs")
    parser.add_argument("--data", type=Path, help="data folder with users (random histories)")
    parser.add_argument("--clients", type=int, default=200, help="clients at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="time under load (%(default)s)")
    parser.add_argument("--requests", type=int, default=400, help="different requests (%(default)s)")
    given = parser.parse_args(argv)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    recommender = Recommender.from_pretrained(given.model)
    recommender.item_cache = ItemCache.in_memory(recommender.model, recommender.tokenizer)
    histories = histories_of(given.data, recommender.tokenizer.item_ids)
    requests = make_requests(recommender, histories, given.requests, seed=0)
    report = measure(given.model, requests, given.clients, given.seconds, given.output_dir)
    print(f"{given.clients} clients, {report['batched']['seconds']:.0f} s\n\n{as_table(report)}\n")
    print(f"users per second, times one user at a time: {report['times_plain']:.1f}")
    if "memory_gb" in report:
        print("memory of the server, GB: " + ", ".join(f"{name} {gb:.3f}" for name, gb in report["memory_gb"].items()))
    write_json({"model": str(given.model), **report}, given.output_dir / "serving.json")


if __name__ == "__main__":
    main()
