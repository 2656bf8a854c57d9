"""What a run starts from: its tokenizer, a model from a backbone, a trained GRAM or random weights, and adapters."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5Attention

from ..collaborative.fitting import fit_or_load, is_fitted_on
from ..common.extras import needs
from ..common.files import locked
from ..common.processes import this_process
from ..configuration_gram import GramConfig
from ..data import ItemTable, RecommendationData, read_folder, training_part
from ..loading_gram import check_catalogue
from ..modeling_gram import GramForConditionalGeneration
from ..tokenization_gram import COUNTS, GramTokenizer
from ..translation import SASREC_FILE, TranslationSettings
from ..translation.catalogue import sasrec_settings_of
from ..translation.embedding import embed_texts
from ..translation.settings import SASREC
from ..translation.tokenizer_folder import make_tokenizer_folder
from ..translation.tokens import CODE_TOKEN
from ..trie_gram import ItemTrie
from .distillation import sasrec_file, sasrec_in
from .muon import Muon
from .settings import MUON, PROMPT_PARTS, TrainingSettings

with needs("train"):
    import scipy.sparse

if TYPE_CHECKING:
    from peft import PeftModel

logger = logging.getLogger(__name__)

_TEXT_DIRECTIONS = 64
_TIMES_IN_ID = 3  # that a token counts where it is in an item's ID
_START_TOKEN = 0.1  # how large the decoder's start token is, which says nothing, beside the others


def data_of(settings: TrainingSettings) -> RecommendationData:
    """The data that the settings name; where a trained GRAM goes on, in rows of its catalogue.

    Raises:
        ValueError: an item is not in that catalogue.
    """
    data = read_folder(settings.data)
    if settings.init_from is None:
        return data
    return data.in_catalogue(ItemTable.from_catalogue(GramTokenizer.from_pretrained(settings.init_from).catalogue))


def tokenizer_of(
    settings: TrainingSettings, translation_settings: TranslationSettings, data: RecommendationData
) -> GramTokenizer:
    """The tokenizer that the settings name, or else the one in the run's folder, as far as it is not made for that yet.

    Which parts its prompts have is the run's choice; those of a trained GRAM stay as they are. Its items have been seen
    as often as in these data, or as before, whichever is more: a log may hold only what is new.

    Raises:
        ValueError: it was made for another catalogue, or for longer or shorter prompts.
    """
    limits = {name: getattr(settings, name) for name in ("max_history", "max_passage_length")}
    folder, processes = settings.translation_folder, this_process()
    with processes.main_process_first():
        if settings.translation is None and settings.init_from is None and processes.is_main_process:
            words = settings.tokenizer or settings.backbone
            logger.info("%s", make_tokenizer_folder(data, folder, translation_settings, words, **limits))
        wants_sasrec = settings.distillation == SASREC and settings.distillation_weight
        if settings.init_from is not None and wants_sasrec:
            of = (training_part(data), len(data.items))
            if not is_fitted_on(sasrec_file(settings), *of):
                apart = Path(settings.output_dir) / "translation"
                of_sasrec = sasrec_settings_of(translation_settings)
                vectors = embed_texts(data.items.texts) if of_sasrec.texts else None
                with locked(apart, inside=True):
                    fit_or_load(apart / SASREC_FILE, *of, of_sasrec, translation_settings.seed, vectors=vectors)
    parts = {} if settings.init_from else settings.prompt_parts
    tokenizer = GramTokenizer.from_pretrained(folder, **parts)
    if tokenizer.item_ids != data.items.item_ids:
        raise ValueError(f"{folder}: was translated from other items than those of {settings.data}; translate again")
    if settings.init_from is not None:
        counts = np.bincount(training_part(data).items, minlength=len(data.items))
        counts = {COUNTS: pa.array(np.maximum(counts, tokenizer.interactions))}
        columns = dict(zip(tokenizer.catalogue.column_names, tokenizer.catalogue.columns, strict=True))
        tokenizer.catalogue = pa.table(columns | counts, metadata=tokenizer.catalogue.schema.metadata)
        del tokenizer.interactions  # of the catalogue before
    for name, value in limits.items():
        if (made_with := getattr(tokenizer, name)) != value:
            hint = "" if settings.init_from else ", or translate again"
            raise ValueError(
                f"{folder}: was made with {name}={made_with}, not {value}; "
                f"give --{name.replace('_', '-')} {made_with}{hint}"
            )
    return tokenizer


def build_model(settings: TrainingSettings, tokenizer: GramTokenizer) -> GramForConditionalGeneration:
    """A GRAM for the tokenizer's catalogue, from a backbone, from a trained GRAM or from random weights.

    Raises:
        ValueError: the vocabulary of the backbone is too small for the tokenizer; the tokenizer's prompts or the
            trained GRAM have other parts than the settings say; the trained GRAM is of other lexical IDs.
    """
    for name in PROMPT_PARTS:
        place = tokenizer.name_or_path or "the tokenizer"
        _check_part(name, getattr(settings, name), getattr(tokenizer, f"with_{name}"), place)
    model = _model_of(settings, tokenizer)
    _check_part("passage_position", settings.passage_position, model.config.passage_position, settings.init_from)
    if settings.score_mode is not None:
        model.config.score_mode = settings.score_mode
    model.position_embedding.requires_grad_(settings.passage_position)  # loading makes every weight trainable
    return model


def start_weights(
    model: GramForConditionalGeneration, tokenizer: GramTokenizer, settings: TrainingSettings, data: RecommendationData
) -> None:
    """Give random weights the start that the settings name; see [`start_from_items`] and [`start_from_identity`]."""
    if settings.embedding_start == "items":
        start_from_items(model, tokenizer, vectors_of_items(settings, data), settings.seed)
    if settings.attention_start == "identity":
        start_from_identity(model)


def vectors_of_items(settings: TrainingSettings, data: RecommendationData) -> list[np.ndarray]:
    """What items are like: by the largest directions of their texts' vectors, and in the translation's SASRec, if any.

    Raises:
        ValueError: the file is no SASRec, or one that was fitted on anything but the training part of these data.
    """
    texts, sasrec = embed_texts(data.items.texts), settings.translation_folder / SASREC_FILE
    vectors = [texts[:, :_TEXT_DIRECTIONS]]
    return [sasrec_in(sasrec, settings, data).items.weight.numpy(force=True), *vectors] if sasrec.is_file() else vectors


@torch.no_grad()
def start_from_items(
    model: GramForConditionalGeneration, tokenizer: GramTokenizer, vectors: Sequence[np.ndarray], seed: int
) -> None:
    """Start every token's embedding from the items whose ID or prompt has it, in place of random weights alone.

    A token is the mean of its items, each by the logarithm of how often it has the token, in its ID three times as
    much as in its prompt. Half of its embedding's variance is that, turned into the model's width, and half stays
    random: tokens of like items must be told apart.

    Args:
        model, tokenizer: of one catalogue of N items.
        vectors: each (N, v), by which like items are near.
        seed: of the turn.
    """
    weight = model.get_input_embeddings().weight
    prompts = [*tokenizer.sequences, *tokenizer.item_prompts]
    times = np.repeat([_TIMES_IN_ID, 1], len(tokenizer.sequences))
    lengths = [len(prompt) for prompt in prompts]
    tokens = np.fromiter(chain.from_iterable(prompts), dtype=np.int64, count=sum(lengths))
    items = np.tile(np.arange(len(tokenizer.sequences)), 2).repeat(lengths)
    shares = scipy.sparse.csr_array((times.repeat(lengths), (tokens, items)), (len(weight), len(vectors[0])), float)
    shares.data = np.log1p(shares.data)
    rows = np.unique(tokens[tokens != tokenizer.eos_token_id])
    means = shares[rows] @ np.concatenate([_unit(of - of.mean(axis=0)) for of in vectors], axis=1)
    means /= shares[rows].sum(axis=1)[:, None]
    means = _unit(means - means.mean(axis=0))
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((max(means.shape[1], weight.shape[1]),) * 2))[0]
    start = torch.from_numpy(means @ turn[: means.shape[1], : weight.shape[1]]).to(weight)
    weight[rows] = (weight[rows] + weight.std() / start.std().clamp(min=1e-9) * start) / 2**0.5


@torch.no_grad()
def start_from_identity(model: GramForConditionalGeneration) -> None:
    """Let every attention start by handing on what it reads: its output projection undoes that of its values.

    The two are a random turn and its inverse, or a random projection and its transpose where the heads together are
    narrower than the model. So what a token is reaches the scores, which are products with the same embeddings, by no
    random way, but for the feed-forward layers. The token that the decoder starts from, which says nothing, is made
    small, so that what has been read is most of what the decoder holds.

    Source: Trockman and Kolter, Mimetic initialization of self-attention layers, arXiv 2305.09828, for the idea of
    starting the product of the two projections near a multiple of the identity.
    """
    for module in model.modules():
        if isinstance(module, T5Attention):
            nn.init.orthogonal_(module.v.weight)
            module.o.weight.copy_(module.v.weight.T)
    model.get_input_embeddings().weight[model.config.decoder_start_token_id] *= _START_TOKEN


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _check_part(name: str, wanted: bool, found: bool, place: str | None) -> None:
    if wanted != found:
        flag = f"--{name.replace('_', '-')} {str(found).lower()}"
        raise ValueError(f"{place}: was made with {name}={found}, not {wanted}; give {flag}, or another folder")


def _model_of(settings: TrainingSettings, tokenizer: GramTokenizer) -> GramForConditionalGeneration:
    if settings.init_from is not None:
        model = GramForConditionalGeneration.from_pretrained(
            settings.init_from, dtype=torch.float32, dropout_rate=settings.dropout_rate
        )
        check_catalogue(model, tokenizer, settings.init_from)
        return model
    fields = {name: getattr(settings, name) for name in ("max_history", "passage_position", "dropout_rate")}
    if settings.backbone is not None:
        model = GramForConditionalGeneration.from_backbone(settings.backbone, **fields)
        _make_room(model, tokenizer, settings.backbone)
    else:
        shape = ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads")
        fields |= {name: getattr(settings, name) for name in shape}
        model = GramForConditionalGeneration(GramConfig(vocab_size=_in_blocks(len(tokenizer)), **fields))
    model.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences))
    model.generation_config.num_beams = 50
    return model


def _make_room(model: GramForConditionalGeneration, tokenizer: GramTokenizer, backbone: str) -> None:
    """Give code tokens embeddings of the mean and the deviation that those of the backbone's tokens have.

    Raises:
        ValueError: the vocabulary is too small for the tokens that are no codes.
    """
    room, vocabulary = model.config.vocab_size, tokenizer.get_vocab()
    codes = {index for token, index in vocabulary.items() if CODE_TOKEN.fullmatch(token)}
    if len(vocabulary) - len(codes) > room:
        raise ValueError(
            f"the tokenizer has {len(vocabulary) - len(codes)} tokens, {backbone} only {room}; "
            "translate with the backbone's tokenizer"
        )
    if not codes:
        return
    first = min(codes)  # T5 has some rows behind its tokens; as nothing ever is one of them, they are no start
    if len(tokenizer) > room:
        model.resize_token_embeddings(_in_blocks(len(tokenizer)), mean_resizing=False)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    with torch.no_grad():
        for table in tables[:1] if tables[0] is tables[1] else tables:
            deviation, mean = torch.std_mean(table[:first], dim=0)
            table[first:] = mean + deviation * torch.randn_like(table[first:])


def _in_blocks(size: int) -> int:
    """Rows for a vocabulary: whole blocks of 64, as in T5's own 32,128, are faster than an odd number."""
    return -(-size // 64) * 64


def add_lora(model: GramForConditionalGeneration, settings: TrainingSettings) -> PeftModel:
    """Put adapters into a model, in place, and freeze all its weights but its passage position embedding, if any.

    Embeddings and head are one weight in T5, so neither can have an adapter: saved apart, they would be two.

    Returns:
        PEFT's view of the same modules, which can save and merge the adapters.

    Raises:
        ValueError: the model has no linear layers of a name in `lora_targets`, which PEFT would leave out.
    """
    with needs("train", "LoRA"):
        from peft import LoraConfig, get_peft_model

    targets, head = settings.lora_targets.replace(",", " ").split(), model.get_output_embeddings()
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    linear = {name.split(".")[-1] for name, layer in layers if layer is not head}
    for target in targets:
        if target not in linear:
            raise ValueError(f"lora_targets: no layer {target!r} can have an adapter; choose of {sorted(linear)}")
    config = LoraConfig(
        r=settings.lora,
        lora_alpha=settings.lora_alpha or 2 * settings.lora,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        modules_to_save=["position_embedding"] if model.config.passage_position else None,
    )
    adapted = get_peft_model(model, config)
    config.base_model_name_or_path = settings.init_from or settings.backbone
    trained, total = adapted.get_nb_trainable_parameters()
    logger.info("LoRA of rank %d trains %s of %s weights", settings.lora, f"{trained:,}", f"{total:,}")
    return adapted


def optimizer_of(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer; token embeddings have a rate of their own, layer norms no decay."""
    tables = {id(of.weight) for of in (model.get_input_embeddings(), model.get_output_embeddings())}
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} - tables
    groups: dict[str, list] = {"tokens": [], "norms": [], "matrices": [], "others": []}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            own = {"tokens": id(weight) in tables, "norms": "layer_norm" in name, "matrices": id(weight) in linear}
            groups[next((kind for kind, is_one in own.items() if is_one), "others")].append(weight)
    rate, times, decay = settings.learning_rate, settings.embedding_rate, settings.weight_decay
    rates = {"tokens": rate * times}
    decays = {"tokens": decay / times, "norms": 0.0}  # AdamW multiplies them by the rates
    groups = [
        {
            "params": weights,
            "lr": rates.get(kind, rate),
            "highest_lr": rates.get(kind, rate),
            "weight_decay": decays.get(kind, decay),
            "is_matrices": kind == "matrices",
        }
        for kind, weights in groups.items()
        if weights
    ]
    kind = Muon if settings.optimizer == MUON else torch.optim.AdamW
    return kind(groups, eps=settings.adam_epsilon)
