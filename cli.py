"""The console script `gram`.

Importing this module loads nothing heavy, so that `gram --help` answers at once: sub-commands import what they need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ERROR, INTERRUPTED = 2, 130  # exit codes


class Command(NamedTuple):
    """A sub-command: what it says of itself, how it fills its parser, and what it does."""

    summary: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs):
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str):
        raise ValueError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the exit code: 0, 2 after an error, 130 after an interrupt.

    What a user can put right, and an interrupt, is one line on the standard error output.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    def run_command() -> None:
        arguments = _parser(argv).parse_args(argv)
        arguments.run(arguments)

    return exit_code_of(run_command)


def exit_code_of(program: Callable[[], None], name: str = "gram") -> int:
    """Run a program; what a user can put right, and an interrupt, becomes one line on the standard error output."""
    try:
        program()
    except KeyboardInterrupt:
        return _fail(name, "interrupted; run the same command again to go on", INTERRUPTED)
    except Exception as error:
        from huggingface_hub.errors import StrictDataclassError

        if not isinstance(error, (ValueError, OSError, StrictDataclassError)):
            raise
        return _fail(name, _in_one_line(error), ERROR)
    return 0


def _fail(name: str, message: str, code: int) -> int:
    print(f"{name}: error: {message}", file=sys.stderr)
    return code


def _in_one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gram",
        description="GRAM, a generative recommender: it spells out the next item, token by token.",
        epilog="`gram COMMAND --help` explains a command. Training: `accelerate launch train_accelerate.py --help`.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        prog = f"gram {name}"
        summary = command.summary[0].upper() + command.summary[1:] + "."
        epilog = "examples:\n" + "\n".join(f"  {prog} {example}" for example in command.examples.splitlines())
        sub = commands.add_parser(name, prog=prog, help=command.summary, description=summary, epilog=epilog)
        if argv[:1] == [name]:  # the flags of some commands take heavy imports to list
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    return parser


def _quiet() -> None:
    """Leave the terminal to what the command has to say."""
    import logging
    import warnings

    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    set_verbosity_error()
    disable_progress_bar()
    for library in ("accelerate", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    for module in ("torch", "transformers", "accelerate"):
        warnings.filterwarnings("ignore", module=module)


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _add_data(parser: argparse.ArgumentParser) -> None:
    what = "data folder that `gram prepare` made, or with user_sequence.txt (USER ITEM ITEM ...) and item_text.tsv"
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help=what)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-beams", type=_at_least_one, default=50, metavar="N", help="width of the search (50)")
    parser.add_argument("--batch-size", type=_at_least_one, default=16, metavar="N", help="users in one search (16)")
    what = "item encodings made by `gram encode` (MODEL/item_encodings if it is there; stale ones are an error)"
    parser.add_argument("--item-cache", type=Path, metavar="DIR", help=what)


# translate


def _add_translate_arguments(parser: argparse.ArgumentParser) -> None:
    from .settings import add_config_flags
    from .translation.settings import TranslationSettings

    _add_data(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder for the GRAM tokenizer")
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="text tokenizer whose vocabulary spells the lexical IDs, a folder or a name on the Hub; without it a "
        "vocabulary is trained on the items' texts",
    )
    parser.add_argument(
        "--max-history", type=_at_least_one, default=20, metavar="N", help="most items read of a history (20)"
    )
    parser.add_argument(
        "--max-passage-length", type=_at_least_one, default=128, metavar="N", help="tokens of the longest prompt (128)"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="write an HTML page to look at the lexical IDs and similar items",
    )
    add_config_flags(parser, TranslationSettings)


def _translate(arguments: argparse.Namespace) -> None:
    _quiet()
    import pyarrow.parquet as pq
    from accelerate import PartialState

    from .data import read_folder
    from .processes import on_cpu
    from .settings import settings_from_config
    from .tokenization_gram import CATALOGUE_FILE
    from .tokenizer_folder import make_tokenizer_folder
    from .translation import TranslationSettings
    from .translation.report import report_file, write_report

    (settings,) = settings_from_config(arguments, TranslationSettings)
    limits = {"max_history": arguments.max_history, "max_passage_length": arguments.max_passage_length}
    report = arguments.report and report_file(arguments.report)
    data = read_folder(arguments.data)
    processes = PartialState(cpu=on_cpu())
    statistics = make_tokenizer_folder(data, arguments.output, settings, arguments.tokenizer, processes, **limits)
    if statistics is None:
        return
    print(statistics)
    print(f"saved to {arguments.output}")
    if report:
        catalogue = pq.read_table(arguments.output / CATALOGUE_FILE)
        write_report(catalogue, statistics, report, title=f"Lexical IDs of {arguments.data.resolve().name}")
        print(f"report: {report}")


# encode


def _add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the encodings (MODEL/item_encodings, where the other commands look for them)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="float32 changes nothing; bfloat16 takes half, int8 a quarter of the space (float32)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace encodings of other weights, item prompts or dtype"
    )


def _encode(arguments: argparse.Namespace) -> None:
    _quiet()
    from accelerate import PartialState

    from .item_cache_gram import ITEM_CACHE_FOLDER
    from .processes import on_cpu
    from .recommendation import load_model

    folder = arguments.output or Path(arguments.model) / ITEM_CACHE_FOLDER
    if arguments.output is None and not Path(arguments.model).is_dir():
        raise ValueError(f"{arguments.model}: no such model folder; for a model of the Hub give --output")
    model, tokenizer = load_model(arguments.model)
    processes = PartialState(cpu=on_cpu())
    cache = model.to(processes.device).encode_items(
        tokenizer, folder, arguments.dtype, processes=processes, overwrite=arguments.overwrite
    )
    if processes.is_main_process:
        print(f"{cache.num_items:,} items encoded in {arguments.dtype}, saved to {folder}")


# evaluate


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    _add_data(parser)
    parser.add_argument("--split", choices=("validation", "test"), default="test", help="held-out items (test)")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE.json",
        help="metrics with 95 %% intervals; every user's ranks go to FILE.parquet beside it",
    )
    parser.add_argument("--max-users", type=_at_least_one, metavar="N", help="only the first N users, for a quick look")
    _add_search(parser)


def _evaluate(arguments: argparse.Namespace) -> None:
    _quiet()
    from accelerate import Accelerator

    from .data import read_folder
    from .evaluation import evaluate, format_table, result_files
    from .processes import on_cpu
    from .recommendation import find_item_cache, load_model
    from .translation import SASREC_FILE

    output, _ = result_files(arguments.output)
    data = read_folder(arguments.data)
    model, tokenizer = load_model(arguments.model)
    item_cache = find_item_cache(arguments.model, model, tokenizer, arguments.item_cache)
    output.parent.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=on_cpu())
    evaluation = evaluate(
        model,
        tokenizer,
        data,
        split=arguments.split,
        num_beams=arguments.num_beams,
        max_users=arguments.max_users,
        batch_size=arguments.batch_size,
        model_sasrec=Path(arguments.model) / SASREC_FILE,
        sasrec_file=output.with_suffix(".sasrec.safetensors"),
        accelerator=accelerator,
        item_cache=item_cache,
    )
    if accelerator.is_main_process:
        evaluation.save(output)
        print(format_table(evaluation.results))
        print(f"saved to {output}")


# recommend


def _add_recommend_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="model folder, or a name on the Hub")
    users = parser.add_mutually_exclusive_group(required=True)
    users.add_argument(
        "--history", action="append", metavar="ID", help="an item of the history; once for each, oldest first"
    )
    users.add_argument(
        "--users", type=Path, metavar="FILE", help="many users: a line 'USER ITEM ITEM ...' each, oldest item first"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.parquet", help="where the recommendations to --users go; resumable"
    )
    parser.add_argument("--top-k", type=_at_least_one, default=10, metavar="K", help="items per user (10)")
    parser.add_argument("--include-seen", action="store_true", help="items of the history may be recommended too")
    _add_search(parser)


def _recommend(arguments: argparse.Namespace) -> None:
    if (arguments.users is None) != (arguments.output is None):
        raise ValueError("--users and --output belong together: give both, or --history")
    _quiet()
    from .recommendation import Recommender, recommend_users

    recommender = Recommender.from_pretrained(arguments.model, arguments.batch_size, arguments.item_cache)
    search = {
        "top_k": arguments.top_k,
        "exclude_seen": not arguments.include_seen,
        "num_beams": arguments.num_beams,
    }
    if arguments.users is not None:
        count = recommend_users(recommender, arguments.users, arguments.output, **search)
        print(f"recommendations to {count:,} users saved to {arguments.output}")
        return
    (found,) = recommender.recommend([arguments.history], **search)
    width = max([7, *(len(item.item_id) for item in found)])
    print(f"{'rank':>4}  {'score':>8}  {'item':<{width}}  title")
    for rank, item in enumerate(found, start=1):
        print(f"{rank:>4}  {item.score:>8.4f}  {item.item_id:<{width}}  {item.title}")


# prepare


def _add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    from .data.prepare import PrepareSettings
    from .settings import add_config_flags

    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new data folder")
    add_config_flags(parser, PrepareSettings)


def _prepare(arguments: argparse.Namespace) -> None:
    from .data.prepare import PrepareSettings, prepare
    from .settings import settings_from_config

    (settings,) = settings_from_config(arguments, PrepareSettings)
    print(prepare(settings, arguments.output, progress=True))
    print(f"saved to {arguments.output}")


# quickstart


def _add_quickstart_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("runs/quickstart"),
        metavar="DIR",
        help="becomes the model folder (runs/quickstart); run again on it, finished stages are skipped",
    )


def _quickstart(arguments: argparse.Namespace) -> None:
    _quiet()
    from .quickstart import run

    run(arguments.output_dir, say=print)


COMMANDS = {
    "prepare": Command(
        "turn raw data into a data folder: filtered, in order of time, split",
        "--format movielens --input ml-1m --output data/ml-1m\n"
        "--config recipes/prepare-yelp.yaml --input yelp_dataset --output data/yelp",
        _add_prepare_arguments,
        _prepare,
    ),
    "translate": Command(
        "give every item its lexical ID and its similar items, and save a GRAM tokenizer",
        "--data DIR --output tokenizers/beauty --num-clusters 128 --depth 7 --report beauty.html\n"
        "--data DIR --output tokenizers/beauty --tokenizer google-t5/t5-small --report beauty.html\n"
        "--data DIR --output tokenizers/beauty --config recipes/encoder-nv-embed-v2.yaml",
        _add_translate_arguments,
        _translate,
    ),
    "encode": Command(
        "encode every item once, for recommending and evaluating faster",
        "runs/quickstart\nruns/quickstart --output encodings/int8 --dtype int8",
        _add_encode_arguments,
        _encode,
    ),
    "evaluate": Command(
        "rank the held-out item of every user, by the model and by popularity, item-kNN and SASRec",
        "runs/quickstart --data runs/quickstart/data --split test --output results.json\n"
        "runs/quickstart --data runs/quickstart/data --output quick.json --max-users 100",
        _add_evaluate_arguments,
        _evaluate,
    ),
    "recommend": Command(
        "recommend items for a history, or for a file of users",
        "runs/quickstart --history 50 --history 172 --top-k 10\n"
        "runs/quickstart --users users.txt --output recs.parquet",
        _add_recommend_arguments,
        _recommend,
    ),
    "quickstart": Command(
        "train and evaluate a small GRAM on MovieLens-100k, and recommend films by title",
        "--output-dir runs/quickstart",
        _add_quickstart_arguments,
        _quickstart,
    ),
}

if __name__ == "__main__":  # for `accelerate launch -m gram.cli evaluate ...`
    sys.exit(main())
