"""From a data set to the folder of its GRAM tokenizer: vocabulary, translation, and all that they were made from.

The vocabulary is trained on the items' texts where no pretrained tokenizer is given.
"""

from __future__ import annotations

import filecmp
import io
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Tokenizer

from ..common.extras import needs
from ..common.files import check_outputs, locked, put, working_folder
from ..common.processes import PartialState
from ..common.provenance import Provenance, hash_of_texts, table_or_arrays
from ..data import RecommendationData
from ..tokenization_gram import CATALOGUE_FILE, PROMPT_WORDING, GramTokenizer
from .catalogue import ARTEFACTS, encode_together, translate
from .report import TreeStatistics
from .settings import TranslationSettings

with needs("train"):
    import sentencepiece

VOCABULARY_FILE = "vocabulary.parquet"
OWN_FILES = (VOCABULARY_FILE, CATALOGUE_FILE, *ARTEFACTS)


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
    files = [getattr(settings, name) for name in ("vectors", "lexical_ids", "similar_items", "blocked_tokens")]
    written = dict.fromkeys((folder / name for name in OWN_FILES), lambda path: True)
    check_outputs({folder: _is_translation, **written}, [data.folder, text_tokenizer, *files])
    with locked(folder, inside=True, processes=processes):
        if processes is not None and processes.num_processes > 1:
            encode_together(data.items.texts, settings, folder, processes, progress)
            if not processes.is_main_process:
                return None
        words = _text_tokenizer(text_tokenizer, data, settings, folder)
        translation = translate(data, words, settings, folder=folder, progress=progress)
        _save(words, translation, folder, limits)
        return translation.statistics


def _is_translation(folder: Path) -> bool:
    """Whether a folder has nothing in it yet, or something of an earlier translation."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else {""}
    return not names or not names.isdisjoint(OWN_FILES)


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
        names = sorted((path.name for path in made.iterdir()), key=lambda name: name == CATALOGUE_FILE)
        _, changed, missing = filecmp.cmpfiles(made, folder, names, shallow=False)
        if changed or missing:
            (folder / CATALOGUE_FILE).unlink(missing_ok=True)  # until all is there, nobody takes a mixture for one
            for name in names:
                put(made / name, folder / name)


def train_vocabulary(texts: Iterable[str], vocab_size: int = 8000) -> T5Tokenizer:
    """Train a unigram vocabulary with sentencepiece, and wrap it as a fast T5 tokenizer.

    The same texts in the same order give the same vocabulary. The ten digits are always in it. Each text is read
    again in lower case, as lexical IDs are named in lower case and need its words whole; and without punctuation,
    because a word that stands before a colon every time (`title:`) would otherwise be broken into letters.

    Args:
        texts: what the vocabulary must write well: the items' texts, and the wording of the prompts.
        vocab_size: the most pieces that it may have; a small corpus gives fewer.

    Returns:
        A tokenizer with `<pad>` = 0, `</s>` = 1, `<unk>` = 2, that appends `</s>` as T5's does.

    Raises:
        ValueError: no text, or a size too small for the characters that occur.
    """
    return tokenizer_of(train_pieces(texts, vocab_size))


def train_pieces(texts: Iterable[str], vocab_size: int = 8000) -> pa.Table:
    """The pieces of `train_vocabulary` by id: `piece` string, `score` float64."""
    texts = list(texts)
    texts += [text.lower() for text in texts]
    texts += [re.sub(r"[^\w\s]", " ", text) for text in texts]
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("there is no text to train a vocabulary on; give the items' texts")
    characters = len(set().union(*texts))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            required_chars="0123456789",
            # Rare characters stay out only where there are too many of them, as in Chinese.
            character_coverage=1.0 if 4 * characters <= vocab_size else 0.9995,
            normalization_rule_name="identity",  # T5Tokenizer has no normalizer: read as it will be written
            max_sentence_length=1 << 20,  # bytes; longer texts would be skipped
            num_threads=1,  # the order of floating-point sums
            pad_id=0,  # this and the next two as in T5
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece="<pad>",
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"vocab_size {vocab_size} does not fit these texts ({reason}); raise it") from None
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(trained.get_piece_size())
    return pa.table({"piece": [trained.id_to_piece(i) for i in ids], "score": [trained.get_score(i) for i in ids]})


def tokenizer_of(pieces: pa.Table) -> T5Tokenizer:
    """The fast T5 tokenizer of trained pieces."""
    return T5Tokenizer(
        vocab=list(zip(pieces["piece"].to_pylist(), pieces["score"].to_pylist(), strict=True)), extra_ids=0
    )
