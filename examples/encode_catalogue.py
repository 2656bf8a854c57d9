"""Encode every item once, and see what it saves at a request: `python examples/encode_catalogue.py`."""

import argparse
import time
from pathlib import Path

from gram.serving.loading import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "int8"), default="float32")
    parser.add_argument("--output", type=Path, default="runs/encodings", help="folder of the memory-mapped shards")
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model)
    cache = model.encode_items(tokenizer, arguments.output, arguments.dtype)  # run again: opens what is there
    size = sum(path.stat().st_size for path in arguments.output.iterdir())
    print(f"{cache.num_items:,} items in {arguments.dtype}: {size / 2**20:.1f} MiB in {arguments.output}")

    history = tokenizer.item_ids[: tokenizer.max_history]
    search = {"num_beams": 50, "num_return_sequences": 5, "return_dict_in_generate": True}
    for name, cached in (("items encoded at the request", None), ("items looked up", cache)):
        start = time.perf_counter()
        inputs = tokenizer(histories=[history], item_prompts=cached is None, return_tensors="pt").to(model.device)
        (items,) = tokenizer.decode_items(model.generate(**inputs, **search, item_cache=cached).sequences)
        milliseconds = 1000 * (time.perf_counter() - start)
        print(f"{name}: {milliseconds:.0f} ms, {items}")


if __name__ == "__main__":
    main()
