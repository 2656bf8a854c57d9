"""From a data set to the folder of its GRAM tokenizer: vocabulary, translation, and all that they were made from."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..common.artefacts import table_or_arrays
from ..common.files import check_outputs, locked, put, working_folder
from ..common.provenance import Provenance, hash_of_texts
from ..data import RecommendationData
from ..tokenization_gram import CATALOGUE_FILE, PROMPT_WORDING, GramTokenizer
from . import TranslationSettings, TreeStatistics, translate
from .catalogue import ARTEFACTS, encode_together
from .vocabulary import tokenizer_of, train_pieces

VOCABULARY_FILE = "vocabulary.parquet"


def make_tokenizer_folder(
    data: RecommendationData,
    output: str | Path,
    settings: TranslationSettings | None = None,
    text_tokenizer: str | None = None,
    processes: PartialState | None = None,
    progress: bool = True,
    **limits: int,
) -> TreeStatistics | None:
    """Translate a catalogue and save its tokenizer.

    What each stage makes is kept in the folder. Where some of it is there already, from a run that was interrupted or
    had other input, only what has changed is done again.

    Args:
        data: items and users' whole sequences.
        output: the folder: new, empty, or of an earlier translation.
        settings: of the translation.
        text_tokenizer: name or folder of a fast tokenizer; by default a vocabulary is trained on the items' texts.
        processes: those that share the work of a sentence-transformers encoder; the rest is the first one's.
        progress: show progress bars.
        limits: `max_history` and `max_passage_length` of the tokenizer.

    Returns:
        The statistics of the lexical IDs; None in all processes but the first.

    Raises:
        OSError: the text tokenizer cannot be found.
        ValueError: the folder holds something else, or what is read here; another process writes there; the text
            tokenizer is not a fast one; or see `gram.translation.translate`.
    """
    settings, folder = settings or TranslationSettings(), Path(output)
    _check_folder(folder)
    written = [folder, *(folder / name for name in (VOCABULARY_FILE, CATALOGUE_FILE, *ARTEFACTS))]
    files = [getattr(settings, name) for name in ("vectors", "lexical_ids", "similar_items", "blocked_tokens")]
    check_outputs(dict.fromkeys(written, lambda path: True), [data.folder, text_tokenizer, *files])
    with locked(folder, inside=True, processes=processes):
        if processes is not None and processes.num_processes > 1:
            encode_together(data.items.texts, settings, folder, processes, progress)
            if not processes.is_main_process:
                return None
        words = _text_tokenizer(text_tokenizer, data, settings, folder)
        translation = translate(data, words, settings, folder=folder, progress=progress)
        _save(words, translation, folder, limits)
        return translation.statistics


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file; give another name for the folder")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if names and not names & {VOCABULARY_FILE, CATALOGUE_FILE, *ARTEFACTS}:
        raise ValueError(f"{folder}: exists already and holds no translation; give another name, or remove it")


def _text_tokenizer(
    name: str | None, data: RecommendationData, settings: TranslationSettings, folder: Path
) -> PreTrainedTokenizerBase:
    if name is None:
        texts = [*data.items.texts, *PROMPT_WORDING * len(data.items)]  # every text in a prompt's wording
        provenance = Provenance("vocabulary", {"texts": hash_of_texts(texts)}, {"vocab_size": settings.vocab_size})
        pieces = table_or_arrays(folder / VOCABULARY_FILE, provenance, lambda: train_pieces(texts, settings.vocab_size))
        return tokenizer_of(pieces)
    tokenizer = AutoTokenizer.from_pretrained(name)
    if not tokenizer.is_fast:
        raise ValueError(f"{name}: not a fast tokenizer; give one that has a tokenizer.json")
    return tokenizer


def _save(words: PreTrainedTokenizerBase, translation, folder: Path, limits: dict[str, int]) -> None:
    """Put the tokenizer's files into the folder, the catalogue last: it says that all is there."""
    tokenizer = GramTokenizer.from_catalogue(words, translation.catalogue, translation.new_tokens, **limits)
    with working_folder(folder / "tokenizer") as made:
        tokenizer.save_pretrained(made)
        files = sorted(made.iterdir(), key=lambda path: path.name == CATALOGUE_FILE)
        targets = [folder / path.name for path in files]
        if all(old.is_file() and old.read_bytes() == new.read_bytes() for old, new in zip(targets, files, strict=True)):
            return
        (folder / CATALOGUE_FILE).unlink(missing_ok=True)  # until all is there, nobody takes a mixture for a tokenizer
        for path, target in zip(files, targets, strict=True):
            put(path, target)
