"""What a run starts from: its tokenizer, and a model from a backbone, a trained GRAM or random weights."""

from __future__ import annotations

import logging

import torch
from accelerate import PartialState

from ..configuration_gram import GramConfig
from ..data import RecommendationData
from ..modeling_gram import GramForConditionalGeneration
from ..processes import on_cpu
from ..tokenization_gram import CATALOGUE_FILE, GramTokenizer
from ..tokenizer_folder import make_tokenizer_folder
from ..training_settings import TrainingSettings
from ..translation import TranslationSettings
from ..trie_gram import ItemTrie
from .denoising import num_sentinels

logger = logging.getLogger(__name__)


def tokenizer_of(
    settings: TrainingSettings, translation_settings: TranslationSettings, data: RecommendationData
) -> GramTokenizer:
    """The tokenizer that the settings name, or else the one in the run's folder, translated first where it is missing.

    Raises:
        ValueError: it was made for another catalogue, or for longer or shorter prompts.
    """
    limits = {name: getattr(settings, name) for name in ("max_history", "max_passage_length")}
    folder = settings.translation_folder
    is_given = settings.translation is not None or settings.init_from is not None
    with PartialState(cpu=on_cpu()).main_process_first():
        if not is_given and not (folder / CATALOGUE_FILE).is_file():
            words = settings.tokenizer or settings.backbone
            logger.info("%s", make_tokenizer_folder(data, folder, translation_settings, words, **limits))
    tokenizer = GramTokenizer.from_pretrained(folder)
    if tokenizer.item_ids != data.items.item_ids:
        raise ValueError(
            f"{folder}: was translated from other items than those of {settings.data}; "
            + ("give data of the same catalogue" if settings.init_from else "translate again")
        )
    for name, value in limits.items():
        if getattr(tokenizer, name) != value:
            made_with = getattr(tokenizer, name)
            hint = "" if settings.init_from else ", or translate again"
            raise ValueError(
                f"{folder}: was made with {name}={made_with}, not {value}; "
                f"give --{name.replace('_', '-')} {made_with}{hint}"
            )
    return tokenizer


def build_model(settings: TrainingSettings, tokenizer: GramTokenizer) -> GramForConditionalGeneration:
    """A GRAM for the tokenizer's catalogue, from a backbone, from a trained GRAM or from random weights.

    Raises:
        ValueError: the vocabulary of the backbone is too small for the tokenizer.
    """
    if settings.init_from is not None:
        return GramForConditionalGeneration.from_pretrained(
            settings.init_from, dtype=torch.float32, dropout_rate=settings.dropout_rate, score_mode=settings.loss
        )
    if settings.backbone is not None:
        model = GramForConditionalGeneration.from_backbone(
            settings.backbone, max_history=settings.max_history, dropout_rate=settings.dropout_rate
        )
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} tokens, {settings.backbone} only {model.config.vocab_size}; "
                "translate with the backbone's tokenizer"
            )
    else:
        shape = (
            *("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads"),
            *("dropout_rate", "max_history"),
        )
        # Whole blocks of 64 rows, as in T5's own 32,128, are faster than the odd vocabulary.
        used = len(tokenizer) + (num_sentinels(tokenizer) if settings.denoising_epochs else 0)
        vocab_size = -(-used // 64) * 64
        model = GramForConditionalGeneration(
            GramConfig(vocab_size=vocab_size, **{name: getattr(settings, name) for name in shape})
        )
    model.config.score_mode = settings.loss
    model.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences))
    model.generation_config.num_beams = 50
    return model


__all__ = ["build_model", "tokenizer_of"]
