"""Rank the held-out item of every user, by the model and by the baselines.

gram evaluate runs/quickstart --data runs/quickstart/data --split test --output results.json
gram evaluate runs/quickstart --data runs/quickstart/data --output quick.json --max-users 100
gram evaluate runs/quickstart --data runs/quickstart/data --output results.json --rerank
"""

import argparse
from pathlib import Path

from .command import add_data, add_search, at_least_one, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    add_data(parser)
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="held-out items (test)")
    what = "metrics with 95 %% intervals; every user's ranks go to FILE.parquet beside it"
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.json", help=what)
    what = "only N users, drawn at random, for a quick look"
    parser.add_argument("--max-users", type=at_least_one, metavar="N", help=what)
    what = "rank by the model and collaborative scores together, too; the weights are chosen on the validation items "
    what += "and kept in FILE.reranking.json"
    parser.add_argument("--rerank", action="store_true", help=what)
    add_search(parser)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    from ..common.files import check_outputs, holds_json, locked
    from ..common.processes import make_accelerator
    from ..common.provenance import read_provenance
    from ..data import read_folder
    from ..evaluation.full_ranking import evaluate, format_table, result_files
    from ..serving.loading import find_item_cache, load_model
    from ..translation import SASREC_FILE

    output, _ = result_files(arguments.output)
    sasrec_file, reranking_file = output.with_suffix(".sasrec.safetensors"), None
    check_outputs({sasrec_file: lambda path: read_provenance(path).get("artefact") == "sasrec"})
    if arguments.rerank:
        reranking_file = output.with_suffix(".reranking.json")
        check_outputs({reranking_file: lambda path: holds_json(path, "artefact", "spread", "rows")})
    data = read_folder(arguments.data)
    accelerator = make_accelerator()  # whose device is the model's
    model, tokenizer = load_model(arguments.model)
    item_cache = find_item_cache(arguments.model, model, tokenizer, arguments.item_cache)
    with locked(output, processes=accelerator):
        files = {"sasrec_file": sasrec_file, "model_sasrec": Path(arguments.model) / SASREC_FILE}
        evaluation = evaluate(
            model,
            tokenizer,
            data,
            **files,
            reranking_file=reranking_file,
            split=arguments.split,
            num_beams=min(arguments.num_beams, model.item_trie.num_items),  # these rank the whole catalogue
            max_users=arguments.max_users,
            batch_size=arguments.batch_size,
            accelerator=accelerator,
            item_cache=item_cache,
        )
        if accelerator.is_main_process:
            evaluation.save(output)
            print(format_table(evaluation.results))
            weights = f", the weights of re-ranking to {reranking_file}" if reranking_file else ""
            print(f"saved to {output}{weights}")
