"""What lower precision costs and saves: a trained model loaded in half precision, or with weights in int8.

`python -m benchmarks.precision MODEL --data DIR --output-dir DIR [--users 500]`, on a CPU. Every way ranks the held-out
test item of the same users, seen items allowed, by 50 beams, with the items' encodings made once. Those of torchao are
left out where it is not installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from gram import GramForConditionalGeneration

from .measuring import markdown, write_json
from .quality import Users, share_equal

REFERENCE = "float32"


def by_torch_ao(model: torch.nn.Module) -> torch.nn.Module:
    """Linear layers in int8, activations too at every call: torch's own dynamic quantisation."""
    return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, torch.qint8)


def by_torchao(name: str) -> Callable:
    """Linear layers by a configuration of torchao."""

    def quantised(model: torch.nn.Module) -> torch.nn.Module:
        import torchao.quantization
        from transformers import TorchAoConfig

        config = TorchAoConfig(getattr(torchao.quantization, name)())
        return GramForConditionalGeneration.from_pretrained(model.name_or_path, quantization_config=config).eval()

    return quantised


def loaded_in(dtype: torch.dtype) -> Callable:
    """The model as `from_pretrained(..., dtype=...)` loads it."""
    return lambda model: GramForConditionalGeneration.from_pretrained(model.name_or_path, dtype=dtype).eval()


WAYS = {
    REFERENCE: lambda model: model,
    "float16": loaded_in(torch.float16),
    "bfloat16": loaded_in(torch.bfloat16),
    "int8, torch.ao dynamic": by_torch_ao,
    "int8 weights, torchao": by_torchao("Int8WeightOnlyConfig"),
    "int8 weights and activations, torchao": by_torchao("Int8DynamicActivationInt8WeightConfig"),
}


def num_bytes(model) -> int:
    """What the tensors of a model's state take, each once, those that quantised weights are made of too."""
    sizes, left = {}, list(model.state_dict().values())
    while left:
        value = left.pop()
        if isinstance(value, tuple):  # weight and bias of a layer of torch.ao
            left += value
        elif hasattr(value, "__tensor_flatten__"):
            left += [getattr(value, name) for name in value.__tensor_flatten__()[0]]
        elif isinstance(value, torch.Tensor):
            sizes[value.data_ptr()] = value.numel() * value.element_size()
    return sum(sizes.values())


def compare(users: Users) -> list[dict]:
    """A row per way."""
    model, rows, reference = users.model, [], None
    for name, make in WAYS.items():
        if name.endswith("torchao") and importlib.util.find_spec("torchao") is None:
            print(f"{name}: torchao is not installed", file=sys.stderr)
            continue
        users.model = make(model)
        start = time.process_time()
        items, taken = users.ranked(name)
        taken["cpu_seconds_per_user"] = (time.process_time() - start) / len(items)
        reference = items if reference is None else reference
        row = {"way": name, "ndcg@10": users.ndcg(items), "equal_top_10": share_equal(items, reference)}
        rows.append({**row, "weights_mb": num_bytes(users.model) / 1e6, **taken})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Compare all ways, print the table, and leave JSON in the output folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL", help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for precision.json")
    parser.add_argument("--users", type=int, default=500, help="random users (%(default)s)")
    given = parser.parse_args(argv)
    given.output_dir.mkdir(parents=True, exist_ok=True)
    rows = compare(Users(given.model, given.data, given.users))
    head = [
        "",
        "NDCG@10",
        f"equal top 10 to {REFERENCE}",
        "weights, MB",
        "ms per user",
        "of the processor, items encoded too",
    ]
    lines = []
    for row in rows:
        cells = [f"{row['ndcg@10']:.4f}", f"{row['equal_top_10']:.1%}", f"{row['weights_mb']:.1f}"]
        times = [f"{1000 * row[name]:.1f}" for name in ("seconds_per_user", "cpu_seconds_per_user")]
        lines.append([row["way"], *cells, *times])
    print(f"{given.users} users\n\n{markdown(head, lines)}")
    report = {"model": given.model, "users": given.users, "cpu": torch.backends.cpu.get_cpu_capability(), "rows": rows}
    write_json(report, given.output_dir / "precision.json")


if __name__ == "__main__":
    main()
