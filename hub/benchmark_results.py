"""Results for a benchmark's leaderboard: `.eval_results/gram.yaml`, beside the card's `model-index`.

The Hub takes such results (https://hf.co/docs/hub/eval-results) for a data set that is a *Benchmark*, which says in its
`eval.yaml` what tasks it has, and of these tasks alone. So they are written where both are named, and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import yaml_dump

from ..evaluation.rankings import PROTOCOLS
from .card_data import EVALUATION_FILE, GramCardData

RESULTS_FILE = ".eval_results/gram.yaml"


def results_of(card: GramCardData) -> str | None:
    """The file's content; None where no benchmark is named, or nothing was evaluated."""
    evaluation, tasks = card.evaluation, card.settings.tasks
    if not tasks or evaluation is None:
        return None
    entries: list[dict[str, Any]] = []
    for task, (protocol, metric) in tasks.items():
        estimate = evaluation["models"]["GRAM"][protocol][metric]
        interval = f"95 % interval {estimate['low']:.4f} to {estimate['high']:.4f}"
        users = f"{evaluation['users']} {evaluation['split']} users, {evaluation['num_beams']} beams"
        entry = {
            "dataset": {"id": card.settings.benchmark, "task_id": task},
            "value": round(estimate["mean"], 4),
            "notes": f"{metric}, full ranking, {PROTOCOLS[protocol]}; {users}; {interval}",
        }
        if card.settings.repo_id:
            url = f"https://huggingface.co/{card.settings.repo_id}/blob/main/{EVALUATION_FILE}"
            entry["source"] = {"url": url, "name": EVALUATION_FILE}
        entries.append(entry)
    return yaml_dump(entries, sort_keys=False)


def check_benchmark(results: bytes) -> None:
    """Make sure that the data sets are benchmarks on the Hub, and have the tasks.

    Raises:
        ValueError: one is none, or has no such task; or the results are not of their form.
        HTTPError: the Hub cannot be asked.
    """
    try:
        named = [(entry["dataset"]["id"], entry["dataset"]["task_id"]) for entry in yaml.safe_load(results)]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{RESULTS_FILE}: not what `gram card` wrote; remove it, or write the card anew") from error
    for name, task in named:
        try:
            path = Path(hf_hub_download(name, "eval.yaml", repo_type="dataset"))
            known = [of["id"] for of in yaml.safe_load(path.read_bytes())["tasks"]]
        except (RemoteEntryNotFoundError, RepositoryNotFoundError, yaml.YAMLError, KeyError, TypeError) as error:
            raise ValueError(
                f"{name}: no benchmark of the Hub, which takes results for data sets with an eval.yaml alone; "
                "`gram card MODEL --benchmark none --benchmark-tasks none` leaves them out"
            ) from error
        if task not in known:
            raise ValueError(f"{name}: has no task {task!r}; its eval.yaml has {', '.join(map(str, known))}")
