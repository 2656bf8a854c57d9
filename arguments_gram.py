"""What is given to a model, checked where it comes in: a wrong argument is named, and nothing wrong goes deeper.

Every function raises TypeError for an argument of another type, and ValueError for an impossible shape or value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import Cache, CompileConfig
from transformers.generation import GenerationConfig
from transformers.utils import ModelOutput

# A condition on a field of a catalogue.
_CONDITION = re.compile(r"\s*([^<>=!]*[^<>=!\s])\s*(<=|>=|!=|=|<|>)\s*(.*\S)\s*", re.DOTALL)
_COMPARE = {"<=": pc.less_equal, ">=": pc.greater_equal, "<": pc.less, ">": pc.greater}
_NUMBER = r"^\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"

# What becomes of every field of a GenerationConfig. These are heeded ...
HEEDED = {
    *("num_beams", "num_return_sequences", "length_penalty", "return_dict_in_generate", "max_length", "max_new_tokens"),
    *("pad_token_id", "eos_token_id", "decoder_start_token_id"),
    *("cache_implementation", "compile_config", "disable_compile"),
}
# ... these change nothing that a search over a trie, without sampling, assistant or cache of its own, could give ...
HARMLESS = {
    *("transformers_version", "use_cache", "early_stopping", "bos_token_id"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight"),
    *("max_matching_ngram_size", "is_assistant", "low_memory"),
}
# ... and all others are refused, unless they have the value with which they do nothing: this, None, False or 0.
NEUTRAL = {
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "num_beam_groups": 1, "guidance_scale": 1.0},
    **{"repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0},
}
# Arguments of `generate` that trainers hand on with a batch, and that mean nothing to a search.
PASSED_ON = {"labels", "synced_gpus"}
# And of `forward`, which gets the same batch.
OF_GENERATE = {"excluded_items"}

_KNOWN = HEEDED | HARMLESS | PASSED_ON
_FIELDS = frozenset(vars(GenerationConfig()))
_LENGTH_UNSET = 20  # what `max_length` is where nobody has set it
_INSTEAD = {
    "do_sample": "items are ranked by beam search",
    "renormalize_logits": '`score_mode="trie"` scores over the legal tokens alone',
    "output_scores": "`sequences_scores` and `item_indices` come with `return_dict_in_generate=True`",
    "output_attentions": "`explain` tells what the decoder attends to",
    **dict.fromkeys(("suppress_tokens", "bad_words_ids"), "`excluded_items` and `allowed_items` choose among items"),
}


@dataclass(frozen=True)
class SearchOptions:
    """What `generate` heeds of a GenerationConfig."""

    num_beams: int
    num_items: int
    length_penalty: float
    return_dict: bool
    compile_config: CompileConfig | None
    max_length: float  # most tokens of a sequence, start token included; inf where nobody has set it


def search_options(
    config, of_model: GenerationConfig, given: GenerationConfig | None, keywords: Mapping[str, Any], exact: bool
) -> SearchOptions:
    """What is asked for by keywords, before what the given GenerationConfig says, before what the model's own says.

    Options that would have no effect are refused. `exact`: exact search, which has neither beams nor a compiled form.
    """
    if not isinstance(given, GenerationConfig | None):
        raise TypeError(f"`generation_config` must be a GenerationConfig, got a value of type {type(given).__name__}")
    options: dict[str, Any] = {}
    for layer in (vars(of_model), {} if given is None else vars(given), keywords):
        options |= {name: value for name, value in layer.items() if value is not None and name[0] != "_"}
    for name, value in options.items():
        plain = isinstance(value, bool | int | float | str | list | tuple | dict)
        does_nothing = plain and (not value or value == NEUTRAL.get(name))
        if name not in _KNOWN and not does_nothing:
            if name not in _FIELDS and name in keywords:
                raise ValueError(f"generate() got an unknown argument {name!r}")
            instead = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
            raise ValueError(f"generate() has no use for `{name}` ({value!r:.80}), and refuses it{instead}")
    for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        own = getattr(config, name)
        if options.get(name, own) not in (own, [own]):
            raise ValueError(f"`{name}` is {options[name]!r}; the model was made with {own}, and has no other")
    num_items = whole_number("num_return_sequences", options.get("num_return_sequences", 1))
    num_beams = num_items if exact else whole_number("num_beams", options.get("num_beams", 1))
    if num_items > num_beams:
        raise ValueError(f"`num_return_sequences` is {num_items}, more than `num_beams`, {num_beams}")
    penalty = options.get("length_penalty", 1.0)
    if not isinstance(penalty, Real) or not math.isfinite(penalty):
        raise ValueError(f"`length_penalty` is {penalty!r}; it must be a finite number")
    longest = math.inf
    if options.get("max_length", _LENGTH_UNSET) != _LENGTH_UNSET:
        longest = whole_number("max_length", options["max_length"])
    if "max_new_tokens" in options:
        longest = min(longest, 1 + whole_number("max_new_tokens", options["max_new_tokens"]))
    return_dict = bool(options.get("return_dict_in_generate"))
    return SearchOptions(num_beams, num_items, penalty, return_dict, _compile_config(options, exact), longest)


def _compile_config(options: Mapping[str, Any], exact: bool) -> CompileConfig | None:
    cache, config = options.get("cache_implementation", "dynamic"), options.get("compile_config")
    if cache not in ("dynamic", "static"):
        raise ValueError(f"`cache_implementation` is {cache!r}; it must be 'dynamic' or 'static'")
    if cache == "dynamic":
        if config is not None:
            raise ValueError('`compile_config` has no effect without `cache_implementation="static"`')
        return None
    if exact:
        raise ValueError('exact search has no static form: give `cache_implementation="dynamic"`, or `exact=False`')
    return None if options.get("disable_compile") else config or CompileConfig()


def whole_number(name: str, value: Any) -> int:
    """The value; raises ValueError where it is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return int(value)


def integers(name: str, values: Any, shape: Sequence[str | int]) -> torch.Tensor:
    """The values as int64, of a shape whose sizes are given as numbers where they are known, else as words."""
    expected = f"({', '.join(map(str, shape))})"
    if not isinstance(values, torch.Tensor) or values.is_floating_point() or values.dtype == torch.bool:
        got = f"{values.dtype}" if isinstance(values, torch.Tensor) else f"a value of type {type(values).__name__}"
        raise TypeError(f'`{name}` must be a tensor {expected} of integers, got {got}; `return_tensors="pt"` gives one')
    sizes = zip(values.shape, shape, strict=False)
    if values.dim() != len(shape) or any(isinstance(known, int) and size != known for size, known in sizes):
        raise ValueError(f"`{name}` must be {expected}, got shape {tuple(values.shape)}")
    if not values.numel():
        raise ValueError(f"`{name}` is empty, of shape {tuple(values.shape)}; it must be {expected}")
    return values.long()


def zeros_and_ones(name: str, mask: Any, shape: Sequence[int]) -> torch.Tensor:
    """A mask of integers, truth values or floats as int64; its values are yet to be checked by [`check_ranges`]."""
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"`{name}` must be a tensor {tuple(shape)}, got a value of type {type(mask).__name__}")
    if mask.shape != torch.Size(shape):
        raise ValueError(f"`{name}` must be of shape {tuple(shape)}, got {tuple(mask.shape)}")
    if mask.is_floating_point() and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"`{name}` must be 1 at tokens and 0 at padding, and holds other numbers")
    return mask.long()


def check_ranges(*checks: tuple[str, torch.Tensor, int, int | None]) -> None:
    """Check (name, values, lowest, highest or None) of each; values of all come from the device at once."""
    found = torch.stack([bound for _, values, _, _ in checks for bound in values.aminmax()]).tolist()
    for (name, _, lowest, highest), least, most in zip(checks, found[::2], found[1::2], strict=True):
        if least < lowest or (highest is not None and most > highest):
            wrong = least if least < lowest else most
            upward = "on" if highest is None else f"to {highest}"
            raise ValueError(f"`{name}` holds {wrong}; it may hold numbers from {lowest} {upward}")


def read_passages(
    config, input_ids: Any, attention_mask: Any, shape: Sequence[str | int] = ("users", "passages", "tokens")
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of passages and their mask, both int64: 0 at padding, by default at padding tokens."""
    input_ids = integers("input_ids", input_ids, shape)
    most = config.max_history + 1
    if input_ids.dim() == 3 and input_ids.shape[1] > most:
        raise ValueError(f"`input_ids` holds {input_ids.shape[1]} passages a user; the model reads at most {most}")
    if attention_mask is None:
        mask = input_ids.ne(config.pad_token_id).long()
    else:
        mask = zeros_and_ones("attention_mask", attention_mask, input_ids.shape)
    read = input_ids.masked_fill(mask == 0, 0)  # what stands at padding is not looked up
    check_ranges(("input_ids", read, 0, config.vocab_size - 1), ("attention_mask", mask, 0, 1))
    return input_ids, mask


def check_users(mask: torch.Tensor) -> None:
    """Raise ValueError, naming the user, where a mask (B, ...) has a user of nothing but padding."""
    empty = (~mask.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"user {empty[0]} has no passage, only padding; give a user prompt or an item")


def read_encoded(
    config, encoder_outputs: Any, input_ids: Any, attention_mask: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """States (B, M, d) of encoder outputs, and their mask (B, M)."""
    states = encoder_outputs[0] if isinstance(encoder_outputs, tuple | list | ModelOutput) else None
    if not isinstance(states, torch.Tensor) or states.dim() != 3:
        raise TypeError("`encoder_outputs` must be what `encode` returned, or a tuple that begins with its states")
    if input_ids is not None:
        attention_mask = read_passages(config, input_ids, attention_mask)[1]
    if not isinstance(attention_mask, torch.Tensor):
        raise ValueError("give `encoder_outputs` with their `attention_mask`, or with the passages' `input_ids`")
    mask = zeros_and_ones("attention_mask", attention_mask.flatten(1), states.shape[:2])
    check_ranges(("attention_mask", mask, 0, 1))
    return states, mask


def read_targets(
    config,
    batch_size: int,
    labels: Any,
    decoder_input_ids: Any,
    decoder_inputs_embeds: Any = None,
    decoder_attention_mask: Any = None,
    past_key_values: Cache | None = None,
) -> torch.Tensor | None:
    """Labels (B, T) int64, or None; what the decoder is given beside them or in their place is checked too."""
    length, checks, highest = "tokens", [], config.vocab_size - 1
    if decoder_input_ids is not None:
        if decoder_inputs_embeds is not None:
            raise ValueError("give `decoder_input_ids` or `decoder_inputs_embeds`, not both")
        length = integers("decoder_input_ids", decoder_input_ids, (batch_size, length)).shape[1]
        checks.append(("decoder_input_ids", decoder_input_ids.long(), 0, highest))
    elif decoder_inputs_embeds is not None:
        shape = tuple(decoder_inputs_embeds.shape)
        if len(shape) != 3 or (shape[0], shape[2]) != (batch_size, config.d_model):
            expected = f"({batch_size}, tokens, {config.d_model})"
            raise ValueError(f"`decoder_inputs_embeds` must be {expected}, got shape {shape}")
        length = shape[1]
    elif labels is None:
        raise ValueError("give `labels`, or `decoder_input_ids`; to recommend items, call `generate`")
    if labels is not None:
        labels = integers("labels", labels, (batch_size, length))
        checks.append(("labels", labels.masked_fill(labels == -100, 0), 0, highest))
        length = labels.shape[1]
    if decoder_attention_mask is not None:
        length += 0 if past_key_values is None else past_key_values.get_seq_length()
        mask = zeros_and_ones("decoder_attention_mask", decoder_attention_mask, (batch_size, length))
        checks.append(("decoder_attention_mask", mask, 0, 1))
    if checks:
        check_ranges(*checks)
    return labels


def read_soft_targets(config, labels: torch.Tensor | None, soft_targets: Any) -> dict | None:
    """Distributions that stand in for the labels, checked; see `GramForConditionalGeneration.forward`."""
    if soft_targets is None:
        return None
    if labels is None:
        raise ValueError("`soft_targets` stand in for `labels`: give these too")
    tokens = integers("tokens", soft_targets["tokens"], (*labels.shape, "choices"))
    shares = soft_targets["shares"]
    if not isinstance(shares, torch.Tensor) or shares.shape != tokens.shape:
        raise ValueError(f"`shares` must be a tensor of the shape of `tokens`, {tuple(tokens.shape)}")
    check_ranges(("tokens", tokens, -1, config.vocab_size - 1))
    return {"tokens": tokens, "shares": shares}


def read_history(config, num_samples: int, history: Any) -> dict[str, torch.Tensor]:
    """The grouped form's items, checked; see `GramForConditionalGeneration.forward`."""
    names = ("input_ids", "attention_mask", "items", "positions")
    missing = [name for name in names if name not in history]
    if missing:
        raise ValueError(f"`history` needs {', '.join(names)}; there is no {missing[0]!r}")
    input_ids, mask = read_passages(config, history["input_ids"], history["attention_mask"], ("items", "tokens"))
    items = integers("items", history["items"], ("groups", "slots"))
    shape = (len(items), num_samples // len(items), items.shape[1])
    positions = integers("positions", history["positions"], shape)
    check_ranges(("items", items, 0, len(input_ids) - 1), ("positions", positions, 0, config.max_history))
    return {"input_ids": input_ids, "attention_mask": mask, "items": items, "positions": positions}


def catalogue_rows(
    name: str, rows: Any, batch_size: int, device: torch.device, num_items: int | None = None, most: int | None = None
) -> torch.Tensor:
    """Catalogue rows (B, K) int64 on a device, -1 for none, of a tensor, an array, or a list for each user.

    `num_items` of the catalogue is given where rows beyond it are wrong, `most` where K has a limit.
    """
    expected = f"({batch_size}, {'1 or more' if most is None else f'{most} or fewer'})"
    if isinstance(rows, torch.Tensor) or (isinstance(rows, np.ndarray) and rows.dtype != object):
        users = rows = _as_tensor(rows)
        got = f"{tuple(rows.shape)}"
    else:
        try:
            users = [_as_tensor(user) for user in rows]
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"`{name}` must be catalogue rows {expected}, got {rows!r:.80}") from None
        users = [user if user.numel() else torch.full((1,), -1, device=user.device) for user in users]
        got = f"{rows!r:.80}"
    if len(users) != batch_size or any(user.dim() != 1 or (most and len(user) > most) for user in users):
        raise ValueError(f"`{name}` must be of shape {expected}, one list for each user, got {got}")
    for user in users:
        if user.is_floating_point() or user.dtype == torch.bool:
            raise TypeError(f"`{name}` must be integers, catalogue rows, got {user.dtype}")
    if users is not rows:
        rows = torch.nn.utils.rnn.pad_sequence(users, batch_first=True, padding_value=-1)
    rows = rows.to(device, torch.long)
    if rows.numel():
        check_ranges((name, rows, -1, None if num_items is None else num_items - 1))
    return rows


def _as_tensor(values: Any) -> torch.Tensor:
    # A tensor stays where it is; all else is read on the CPU, whatever the default device.
    return values if isinstance(values, torch.Tensor) else torch.as_tensor(values, device="cpu")


def check_trie(trie: Any, vocab_size: int) -> None:
    """Check a trie that is given to a model: it holds items, and only tokens that the model's vocabulary has."""
    if type(trie).__name__ != "ItemTrie":  # it may come from another copy of this code
        raise TypeError(f"`item_trie` must be an ItemTrie, got a value of type {type(trie).__name__}")
    if not trie.num_items:
        raise ValueError("`item_trie` holds no item")
    if int(trie.tokens.max()) >= vocab_size:
        raise ValueError(f"`item_trie` holds token {int(trie.tokens.max())}; the model's vocabulary has {vocab_size}")


def list_of(items: Sequence, place: str, what: str) -> list:
    """A list, array or tensor as a list; ValueError, led in by `place`, where `what` is none."""
    items = as_lists(items)
    if not isinstance(items, Sequence):
        raise ValueError(f"{place}{what} is a list of item ids, got a value of type {type(items).__name__}")
    if isinstance(items, str):
        raise ValueError(f"{place}{what} is a list of item ids, got the string {items!r}")
    return list(items)


def text_of(fields: Mapping[str, Any], place: str) -> str:
    """The text of an item's fields, as a data folder's tables give it."""
    parts = []
    for name, value in fields.items():
        value = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        if value is not None and (words := " ".join(str(value).split())):
            parts.append(f"{name}: {words}")
    if not parts:
        raise ValueError(f"{place}an item that is given by its fields has no text, {fields!r:.80}; fill one of them")
    return "; ".join(parts)


def ids_of(items: Sequence[str], place: str, what: str) -> list[str]:
    """The same, and ValueError where an entry is no string."""
    items = list_of(items, place, what)
    for item in items:
        if not isinstance(item, str):
            raise ValueError(f"{place}item ids are strings, got {item!r}")
    return items


def as_lists(values):
    """Arrays, tensors and lists of them, as lists."""
    if hasattr(values, "tolist"):
        return values.tolist()
    return [as_lists(value) for value in values] if isinstance(values, list | tuple) else values


def items_where(catalogue: pa.Table, condition: str) -> np.ndarray:
    """(N,) bool: which items of a catalogue meet a condition, `FIELD=VALUE`, or with `!=`, `<=`, `>=`, `<` or `>`.

    A field that is a list meets one if any of its parts does; a text also if one of its parts between commas equals the
    value. Texts that are numbers are compared as such by `<=` and its kin. An item without a value meets none but `!=`.

    Raises:
        ValueError: it is no condition, the catalogue has no such field, or the value is not of the field's type.

    Example:
        >>> films = pa.table({"genres": ["Action, Comedy", "Drama"], "year": [1995, 2001]})
        >>> items_where(films, "genres=Comedy"), items_where(films, "year>=2000")
        (array([ True, False]), array([False,  True]))
    """
    parts = _CONDITION.fullmatch(condition) if isinstance(condition, str) else None
    if parts is None:
        raise ValueError(f"{condition!r} is no condition; write FIELD=VALUE, or one of != <= >= < > in place of =")
    name, operator, value = parts.groups()
    if name not in catalogue.column_names:
        raise ValueError(f"{condition!r}: there is no field {name!r}; there are {', '.join(catalogue.column_names)}")
    column, owner, code = catalogue[name].combine_chunks(), None, None
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        owner, column = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
    if pa.types.is_dictionary(column.type):  # each value is looked at once
        code, column = pc.fill_null(column.indices.cast(pa.int32()), -1).to_numpy(), column.dictionary
    met = _met(column, operator, value, condition).to_numpy(zero_copy_only=False)
    if code is not None:
        met = np.append(met, False)[code]
    if owner is not None:
        of_parts, met = met, np.zeros(len(catalogue), dtype=bool)
        met[owner[of_parts]] = True
    return ~met if operator == "!=" else met


def _met(column: pa.Array, operator: str, value: str, condition: str) -> pa.Array:
    """Which values meet the condition, and for `!=` which do not."""
    compare, kind = _COMPARE.get(operator, pc.equal), column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if compare is not pc.equal:
            is_number = pc.fill_null(pc.match_substring_regex(column, _NUMBER), False)
            column = pc.if_else(is_number, pc.utf8_trim_whitespace(column), None).cast(pa.float64())
            return pc.fill_null(compare(column, _scalar(value, pa.float64(), condition)), False)
        part = rf"(^|,)\s*{re.escape(value)}\s*(,|$)"
        return pc.fill_null(pc.or_(pc.equal(column, value), pc.match_substring_regex(column, part)), False)
    return pc.fill_null(compare(column, _scalar(value, kind, condition)), False)


def _scalar(value: str, kind: pa.DataType, condition: str) -> pa.Scalar:
    is_whole = pa.types.is_integer(kind)
    try:
        return pa.scalar(value).cast(pa.float64() if is_whole else kind)
    except pa.ArrowException:
        what = "a number" if is_whole or pa.types.is_floating(kind) else f"of the field's type, {kind}"
        raise ValueError(f"{condition!r}: {value!r} is not {what}") from None
