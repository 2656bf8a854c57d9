"""Give every item its lexical ID and its similar items, and save a GRAM tokenizer.

gram translate --data DIR --output tokenizers/beauty --num-clusters 128 --depth 7 --report beauty.html
gram translate --data DIR --output tokenizers/beauty --tokenizer google-t5/t5-small --report beauty.html
gram translate --data DIR --output tokenizers/beauty --config recipes/encoder-nv-embed-v2.yaml
gram translate --data DIR --output tokenizers/goods --config cpu
"""

import argparse
from pathlib import Path

from ..common.settings import add_flags, settings_from, settings_of_file
from .command import add_data, at_least_one, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ..translation.settings import TranslationSettings

    add_data(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new folder for the GRAM tokenizer")
    what = "text tokenizer whose vocabulary spells the lexical IDs, a folder or a name on the Hub; without it a "
    what += "vocabulary is trained on the items' texts"
    parser.add_argument("--tokenizer", default=argparse.SUPPRESS, metavar="NAME", help=what)
    what = "most items read of a history (20)"
    parser.add_argument("--max-history", type=at_least_one, default=argparse.SUPPRESS, metavar="N", help=what)
    what = "tokens of the longest prompt (128)"
    parser.add_argument("--max-passage-length", type=at_least_one, default=argparse.SUPPRESS, metavar="N", help=what)
    what = "write an HTML page to look at the lexical IDs and similar items"
    parser.add_argument("--report", type=Path, metavar="FILE.html", help=what)
    add_flags(parser, TranslationSettings, config=True)


def run(arguments: argparse.Namespace) -> None:
    quiet()
    import pyarrow.parquet as pq

    from ..common.processes import this_process
    from ..data import read_folder
    from ..tokenization_gram import CATALOGUE_FILE
    from ..training.settings import TrainingSettings
    from ..translation import TranslationSettings
    from ..translation.report import report_file, write_report
    from ..translation.tokenizer_folder import make_tokenizer_folder

    values = vars(arguments)
    if arguments.config is not None:
        of_recipe = settings_of_file(arguments.config, TranslationSettings, TrainingSettings, given=values)
        values = {**of_recipe, **values, "config": None}
    (settings,) = settings_from(values, TranslationSettings)
    limits = {name: values.get(name, getattr(TrainingSettings, name)) for name in ("max_history", "max_passage_length")}
    words = values.get("tokenizer") or values.get("backbone")
    report = arguments.report and report_file(arguments.report)
    data = read_folder(arguments.data)
    statistics = make_tokenizer_folder(data, arguments.output, settings, words, this_process(), **limits)
    if statistics is None:
        return
    print(statistics)
    print(f"saved to {arguments.output}")
    if report:
        catalogue = pq.read_table(arguments.output / CATALOGUE_FILE)
        write_report(catalogue, statistics, report, title=f"Lexical IDs of {arguments.data.resolve().name}")
        print(f"report: {report}")
