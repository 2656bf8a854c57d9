"""From a data set to the folder of its GRAM tokenizer: vocabulary, translation, and the SASRec that it made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .data import RecommendationData
from .files import new_folder
from .tokenization_gram import PROMPT_WORDING, GramTokenizer
from .translation import TranslationSettings, TreeStatistics, train_vocabulary, translate

SASREC_FILE = "sasrec.safetensors"


def make_tokenizer_folder(
    data: RecommendationData,
    output: str | Path,
    settings: TranslationSettings | None = None,
    text_tokenizer: str | None = None,
    progress: bool = True,
    **limits: int,
) -> TreeStatistics:
    """Translate a catalogue and save its tokenizer: the whole folder, or nothing.

    Args:
        data: items and users' whole sequences.
        output: the folder, new or empty.
        settings: of the translation.
        text_tokenizer: name or folder of a fast tokenizer; by default a vocabulary is trained on the items' texts.
        progress: show progress bars.
        limits: `max_history` and `max_passage_length` of the tokenizer.

    Returns:
        The statistics of the lexical IDs.

    Raises:
        OSError: the text tokenizer cannot be found.
        ValueError: the folder is not empty; the text tokenizer is not a fast one; or see `gram.translation.translate`.
    """
    settings = settings or TranslationSettings()
    with new_folder(output) as folder:
        words = _text_tokenizer(text_tokenizer, data.items.texts, settings.vocab_size)
        translation = translate(data, words, settings, sasrec_path=folder / SASREC_FILE, progress=progress)
        GramTokenizer.from_catalogue(words, translation.catalogue, **limits).save_pretrained(folder)
    return translation.statistics


def _text_tokenizer(name: str | None, texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerBase:
    if name is None:
        return train_vocabulary([*texts, *PROMPT_WORDING * len(texts)], vocab_size)  # every text in a prompt's wording
    tokenizer = AutoTokenizer.from_pretrained(name)
    if not tokenizer.is_fast:
        raise ValueError(f"{name}: not a fast tokenizer; give one that has a tokenizer.json")
    return tokenizer
