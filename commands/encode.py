"""Encode every item once, for recommending and evaluating faster.

gram encode runs/quickstart
gram encode runs/quickstart --output encodings/int8 --dtype int8
gram encode runs/quickstart --engine ray --num-workers 8
"""

import argparse
import os
from pathlib import Path

from .command import add_device, add_engine, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    what = "folder for the encodings (MODEL/item_encodings, where the other commands look for them)"
    parser.add_argument("--output", type=Path, metavar="DIR", help=what)
    what = "float32 changes nothing; bfloat16 takes half, int8 a quarter of the space (that of the encodings in DIR; "
    what += "float32 where there are none)"
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "int8"), help=what)
    what = "replace encodings of other weights, item prompts or dtype"
    parser.add_argument("--overwrite", action="store_true", help=what)
    add_engine(parser, "what encodes")
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..common.files import locked
    from ..item_cache_gram import ITEM_CACHE_FOLDER
    from ..serving.engines import RAY, encode_by_ray
    from ..serving.loading import load_model

    folder = arguments.output or Path(arguments.model) / ITEM_CACHE_FOLDER
    if arguments.output is None and not Path(arguments.model).is_dir():
        raise ValueError(f"{arguments.model}: no such model folder; for a model of the Hub give --output")
    processes = None
    if "LOCAL_RANK" in os.environ:  # several were launched together
        from ..common.processes import this_process

        processes = this_process()
    model, tokenizer = load_model(arguments.model, device=arguments.device)
    options = {"dtype": arguments.dtype, "overwrite": arguments.overwrite}
    with locked(folder, inside=True, processes=processes):
        if arguments.engine == RAY:
            options |= {"num_workers": arguments.num_workers, "gpus_per_worker": arguments.gpus_per_worker}
            options["device"] = arguments.device
            cache = encode_by_ray(model, tokenizer, folder, **options)
        else:
            cache = model.encode_items(tokenizer, folder, processes=processes, **options)
    if processes is None or processes.is_main_process:
        print(f"{cache.num_items:,} items encoded in {cache.dtype}, saved to {folder}")
