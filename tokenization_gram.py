"""Tokenizer of GRAM: a text tokenizer, the catalogue's lexical IDs, and the prompts made of both."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from transformers import AddedToken, BatchEncoding, PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from .arguments_gram import as_lists, ids_of, items_where, list_of, text_of, whole_number
from .loading_gram import CHECKSUMS, add_checksums, check_checksums, new_file, read_object

CATALOGUE_FILE = "catalogue.parquet"
COUNTS = "num_interactions"  # a field that translation adds: how often an item is in the training part
CATALOGUE_SCHEMA = pa.schema(
    {
        "item_id": pa.string(),
        "title": pa.string(),
        "text": pa.string(),
        "lexical_id": pa.list_(pa.string()),
        "similar_items": pa.list_(pa.string()),
    }
)
_EACH_ONCE = pa.dictionary(pa.int32(), pa.string())
_CONDITIONS_KEPT = 256
# Every fixed wording of the prompts; a vocabulary trained for GRAM must be able to write it.
PROMPT_WORDING = ("What would user purchase after", ";", "?", "item:", "; similar items:", ",")


class GramTokenizer(TokenizersBackend):
    r"""Text tokenizer that also knows a catalogue: each item's lexical ID, similar items, text and title.

    `tokenizer(text)` is an ordinary text tokenizer. `tokenizer(histories=...)` makes the multi-granular inputs of
    [`GramForConditionalGeneration`]: the user prompt and one item prompt per item of the history (arXiv 2506.01673,
    section 3.2). Lexical IDs enter the prompts as the tokens that they are, never as text.

    Args:
        catalogue_file (`str`): Parquet file with the columns of `CATALOGUE_SCHEMA`; its row order is the catalogue's.
            Others are fields to choose items by, see [`allowed_rows`].
        catalogue (`pyarrow.Table`): the same in memory, instead of the file.
        max_history (`int`, *optional*, defaults to 20): most items of a history that are read, the newest.
        max_passage_length (`int`, *optional*, defaults to 128): tokens of the longest prompt, end token included.
        with_user_prompt (`bool`, *optional*, defaults to `True`): without it the user prompt is empty, a passage of no
            tokens, and the item prompts keep their places from 1 on.
        with_item_prompts (`bool`, *optional*, defaults to `True`): without them every item prompt is empty.
        with_id_in_item_prompt (`bool`, *optional*, defaults to `True`): without it an item prompt does not hold its
            item's own lexical ID.
        kwargs: of [`~transformers.TokenizersBackend`].

    Raises:
        ValueError: the catalogue is missing, lacks a column or a value, holds an item twice or a lexical ID twice, or
            spells a lexical ID with a token that the vocabulary does not have; a limit is below 1; neither kind of
            prompt is left; or one of a folder's files is not the one that was saved with the others.

    Example:
        >>> tokenizer = GramTokenizer.from_pretrained(model_folder)
        >>> inputs = tokenizer(histories=[["B0003", "B0007"], ["B0001"]], return_tensors="pt")
        >>> inputs["input_ids"].shape[:2]  # users, passages: the user prompt and two item prompts
        torch.Size([2, 3])
        >>> tokenizer.decode_items([tokenizer.sequences[7]])
        [['B0007']]
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json", "catalogue_file": CATALOGUE_FILE}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012
    _auto_class = "AutoTokenizer"

    def __init__(
        self,
        *args,
        catalogue_file: str | None = None,
        catalogue: pa.Table | None = None,
        max_history: int = 20,
        max_passage_length: int = 128,
        with_user_prompt: bool = True,
        with_item_prompts: bool = True,
        with_id_in_item_prompt: bool = True,
        **kwargs,
    ):
        kwargs.pop(CHECKSUMS, None)  # of the folder, not of the tokenizer
        limits = {"max_history": max_history, "max_passage_length": max_passage_length}
        parts = {"with_user_prompt": with_user_prompt, "with_item_prompts": with_item_prompts}
        parts["with_id_in_item_prompt"] = with_id_in_item_prompt
        super().__init__(*args, **limits, **parts, **kwargs)
        for name, limit in limits.items():
            whole_number(name, limit)
        for part in parts.values():
            if not isinstance(part, bool):
                raise ValueError(f"which parts a prompt has is said by True or False, not by {part!r}")
        for name in ("eos_token", "pad_token", "unk_token"):
            if getattr(self, name) is None:
                raise ValueError(f"the tokenizer has no {name}; give one as an argument")
        if not (with_user_prompt or with_item_prompts):
            raise ValueError("with neither user prompt nor item prompts there is nothing to read; leave one of them")
        if catalogue is None:
            catalogue = _read_catalogue(catalogue_file, kwargs.get("name_or_path") or "the tokenizer's folder")
        self.max_history, self.max_passage_length = max_history, max_passage_length
        self.with_user_prompt, self.with_item_prompts = with_user_prompt, with_item_prompts
        self.with_id_in_item_prompt = with_id_in_item_prompt
        try:
            self.catalogue = _checked(catalogue)
            self.item_ids: list[str] = self.catalogue["item_id"].to_pylist()
            self.titles: list[str] = self.catalogue["title"].to_pylist()
            self.item_rows: dict[str, int] = {item: row for row, item in enumerate(self.item_ids)}
            self.lexical_ids: list[list[int]] = self._lexical_token_ids()
        except ValueError as error:
            raise ValueError(f"{catalogue_file or 'catalogue'}: {error}") from error

    @classmethod
    def convert_to_native_format(cls, **kwargs):
        """What `__init__` gets of a saved folder: the whole `tokenizer.json`."""
        # Without this the backend is rebuilt from the bare vocabulary, and its normalizer is lost.
        return super().convert_to_native_format(**{**kwargs, "trust_remote_code": True})

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files, *args, **kwargs):
        files = {name: path for name, path in resolved_vocab_files.items() if path is not None}
        if config := files.pop("tokenizer_config_file", None):
            check_checksums(config, read_object(config), files.values())
        return super()._from_pretrained(resolved_vocab_files, *args, **kwargs)

    @classmethod
    def from_catalogue(
        cls, text_tokenizer: PreTrainedTokenizerBase, catalogue: pa.Table, new_tokens: Sequence[str] = (), **kwargs
    ) -> GramTokenizer:
        """Join a text tokenizer, which is left as it is, with a translated catalogue.

        Args:
            text_tokenizer, catalogue: lexical IDs are made of the text tokenizer's vocabulary and of `new_tokens`.
            new_tokens: are added to the vocabulary, in this order.
            kwargs: of [`GramTokenizer`]: the limits and parts of the prompts.

        Example:
            >>> from gram.translation import train_vocabulary
            >>> words = train_vocabulary(["red shoe", "blue shoe", *PROMPT_WORDING], 60)
            >>> shoes = [
            ...     {"item_id": "r", "title": "Red", "text": "red shoe", "lexical_id": words.tokenize("shoe red")},
            ...     {"item_id": "b", "title": "Blue", "text": "blue shoe", "lexical_id": words.tokenize("shoe blue")},
            ... ]
            >>> catalogue = pa.Table.from_pylist([{**shoe, "similar_items": []} for shoe in shoes], CATALOGUE_SCHEMA)
            >>> GramTokenizer.from_catalogue(words, catalogue, max_history=5).item_rows
            {'r': 0, 'b': 1}
        """
        special = {name: str(getattr(text_tokenizer, name)) for name in ("eos_token", "unk_token", "pad_token")}
        backend = copy.deepcopy(text_tokenizer.backend_tokenizer)
        backend.add_tokens([AddedToken(token, normalized=False) for token in new_tokens])
        return cls(tokenizer_object=backend, catalogue=catalogue, **special, **kwargs)

    @cached_property
    def sequences(self) -> list[list[int]]:
        """Every item's lexical ID with its end token, in row order: what an `ItemTrie` is built from."""
        return [[*lexical_id, self.eos_token_id] for lexical_id in self.lexical_ids]

    @cached_property
    def item_prompts(self) -> list[list[int]]:
        """Every item's prompt, in row order: its ID, its similar items' IDs, its text, the end token."""
        if not self.with_item_prompts:
            return [[] for _ in self.item_ids]
        item, similar_items = self.wording("item:"), self.wording("; similar items:")
        comma, semicolon = self.wording(","), self.wording(";")
        texts = self(self.catalogue["text"].to_pylist(), add_special_tokens=False, verbose=False)["input_ids"]
        prompts = []
        for lexical_id, neighbours, text in zip(
            self.lexical_ids, self.catalogue["similar_items"].to_pylist(), texts, strict=True
        ):
            prompt = [*item, *(lexical_id if self.with_id_in_item_prompt else [])]
            for place, neighbour in enumerate(neighbours):
                prompt += [*(comma if place else similar_items), *self.lexical_ids[self.item_rows[neighbour]]]
            prompts.append(self._end([*prompt, *semicolon, *text]))
        return prompts

    def text_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Item prompts of items that are in no catalogue: their texts, without an ID and similar items."""
        if not self.with_item_prompts:
            return [[] for _ in texts]
        words = self(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [self._end([*self.wording("item:"), *self.wording(";"), *text]) for text in words]

    def user_prompt(self, history: Sequence[int]) -> list[int]:
        """Token ids of the user prompt for a history of catalogue rows, newest first."""
        if not self.with_user_prompt:
            return []
        semicolon, prompt = self.wording(";"), list(self.wording("What would user purchase after"))
        named = [row for row in history if row < len(self.lexical_ids)]  # what is in no catalogue has no ID
        for place, row in enumerate(named):
            prompt += [*(semicolon if place else []), *self.lexical_ids[row]]
        return self._end([*prompt, *self.wording("?")])

    def __call__(
        self,
        text=None,
        *args,
        histories: Sequence[Sequence[str]] | None = None,
        rows: Sequence[Sequence[int]] | None = None,
        texts: Sequence[str] = (),
        item_prompts: bool = True,
        return_tensors=None,
        **kwargs,
    ) -> BatchEncoding:
        """Tokenize text, as every tokenizer does, or histories.

        Args:
            text: see [`~transformers.PreTrainedTokenizerBase.__call__`]; also for all other arguments.
            histories: item ids of each user, oldest first, in lists or arrays; the newest `max_history` of them are
                read.
            rows: the same as catalogue rows, in place of `histories`.
            texts: of items that are in no catalogue, and have the rows behind it.
            item_prompts: False where the items' encodings come from a cache: only the user prompts are made.
            return_tensors: `"pt"` or `"np"`; lists by default.

        Returns:
            For histories `input_ids` and `attention_mask` (B, P, L), padded: passage 0 is the user prompt, passage 1
            the newest item's prompt, and so on. Passage 0 is all padding in a tokenizer without user prompt, and the
            only one in a tokenizer without item prompts. With `item_prompts=False` P is 1, and `history` (B, S) int64
            holds the catalogue rows of the items that the model reads, newest first, padded with -1.

        Raises:
            ValueError: a history is empty, is no list of strings or names an item that is not in the catalogue.

        Example:
            >>> tokenizer(histories=[["B0003", "B0007"]], item_prompts=False)["history"]
            [[7, 3]]
        """
        if histories is None and rows is None:
            return super().__call__(text, *args, return_tensors=return_tensors, **kwargs)
        if text is not None or args or kwargs or not (histories is None or rows is None):
            meaningful = "`item_prompts` and `return_tensors` have a meaning"
            raise ValueError(f"give text or `histories`, not both; with histories only {meaningful}")
        if rows is None and not isinstance(histories, Iterable):
            raise ValueError(f"`histories` is a list of histories, got a value of type {type(histories).__name__}")
        rows = [self.history_rows(history) for history in histories] if rows is None else list(map(as_lists, rows))
        if not rows:
            raise ValueError("`histories` is empty; give at least one user's history")
        num_rows = len(self.item_ids) + len(texts)
        if not all(history and 0 <= min(history) and max(history) < num_rows for history in rows):
            raise ValueError(f"`rows` needs one or more of the catalogue's {num_rows} rows for each user")
        rows = [history[: -self.max_history - 1 : -1] for history in rows]  # the newest, newest first
        prompts = self.item_prompts if item_prompts and self.with_item_prompts else None
        if prompts and texts:
            prompts = [*prompts, *self.text_prompts(texts)]
        passages = [[self.user_prompt(user), *([prompts[row] for row in user] if prompts else [])] for user in rows]
        length = max(len(tokens) for user in passages for tokens in user)
        input_ids = np.full((len(rows), max(map(len, passages)), max(length, 1)), self.pad_token_id)  # (B, P, L)
        attention_mask = np.zeros_like(input_ids)
        for user, of_user in enumerate(passages):
            for place, tokens in enumerate(of_user):
                input_ids[user, place, : len(tokens)] = tokens
                attention_mask[user, place, : len(tokens)] = 1
        data = {"input_ids": input_ids, "attention_mask": attention_mask}
        if not item_prompts:
            data["history"] = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int64)  # (B, S)
            for user, history in enumerate(rows):
                data["history"][user, : len(history)] = history
        if return_tensors is None:
            data = {name: values.tolist() for name, values in data.items()}
        return BatchEncoding(data, tensor_type=return_tensors)

    def history_rows(self, history: Sequence[str], place: str = "") -> list[int]:
        """Catalogue rows of a history of item ids, in its order.

        Raises:
            ValueError: led in by `place`: it is empty, no list of strings, or names an item that is not there.
        """
        rows = self.rows_of(history, place, "a history")
        if not rows:
            raise ValueError(f"{place}a history is empty; give at least one item id")
        return rows

    def known_rows(
        self, history: Sequence[str | Mapping[str, Any]], place: str = ""
    ) -> tuple[list[int | str], list[str]]:
        """What the model can read of a history, perhaps nothing, in its order; and the ids of the rest.

        Of an item of the catalogue that is its row. An item that is in no catalogue may be given by its fields, a
        dictionary, in place of an id: it becomes the text that its prompt has.

        Raises:
            ValueError: led in by `place`: it is no list of strings and dictionaries, or a dictionary has no text.

        Example:
            >>> tokenizer.known_rows(["B0003", "gone", {"title": "Silk soap", "brand": "Lumen"}])
            ([3, 'title: Silk soap; brand: Lumen'], ['gone'])
        """
        history = list_of(history, place, "a history")
        ids = ids_of([item for item in history if not isinstance(item, Mapping)], place, "a history")
        skipped = [item for item in ids if item not in self.item_rows]
        read = [text_of(item, place) if isinstance(item, Mapping) else self.item_rows.get(item) for item in history]
        return [item for item in read if item is not None], skipped

    def allowed_rows(
        self, exclude: Sequence[str] = (), only: Sequence[str] | None = None, where: str | Sequence[str] = ()
    ) -> np.ndarray | None:
        """Catalogue rows (n,) of the items that may be recommended, ascending; None where none are forbidden.

        Args:
            exclude: ids of items that may not.
            only: ids of those that may; by default all.
            where: conditions that all of those meet which may, such as `genres=Comedy` or `price<=20`: fields of the
                catalogue, see [`items_where`].

        Raises:
            ValueError: ids are no list of strings, or name an item that is not in the catalogue; a condition is none,
                names a field that is not there, or a value that the field cannot have.

        Example:
            >>> tokenizer.allowed_rows(only=["B0003", "B0007", "B0001"], exclude=["B0007"])
            array([1, 3])
        """
        is_allowed = np.full(len(self.item_ids), only is None)
        if only is not None:
            is_allowed[self.rows_of(only, what="`only`")] = True
        is_allowed[self.rows_of(exclude, what="`exclude`")] = False
        for condition in [where] if isinstance(where, str) else where:
            is_allowed &= self._meeting(condition)
        return None if is_allowed.all() else is_allowed.nonzero()[0]

    def _meeting(self, condition: str) -> np.ndarray:
        """(N,) bool: the items that meet a condition; those of the latest conditions are kept, as bits."""
        kept = self.__dict__.setdefault("_conditions", {})
        bits = kept.pop(condition, None) if isinstance(condition, str) else None
        if bits is None:
            bits = np.packbits(items_where(self._fields, condition))
        kept[condition] = bits
        for oldest in list(kept)[:-_CONDITIONS_KEPT]:
            kept.pop(oldest, None)  # another thread may have been faster
        return np.unpackbits(bits, count=len(self.item_ids)).view(bool)

    @cached_property
    def _fields(self) -> pa.Table:
        """The catalogue, with each different text of a field once, so that a condition looks at it once."""
        table = self.catalogue
        for place, field in enumerate(table.schema):
            is_list = pa.types.is_list(field.type)
            is_text = pa.types.is_string(field.type.value_type if is_list else field.type)
            if is_text and field.name not in CATALOGUE_SCHEMA.names:
                column = table[field.name].combine_chunks().cast(pa.list_(_EACH_ONCE) if is_list else _EACH_ONCE)
                table = table.set_column(place, field.name, column)
        return table

    def rows_of(self, items: Sequence[str], place: str = "", what: str = "this") -> list[int]:
        """Catalogue rows of item ids, in their order.

        Raises:
            ValueError: led in by `place`: `what` is no list of strings, or names an item that is not there.
        """
        items = ids_of(items, place, what)
        for item in items:
            if item not in self.item_rows:
                where = f"in the catalogue of {len(self.item_ids)} items; see `tokenizer.item_ids`"
                raise ValueError(f"{place}item {item!r} is not {where}")
        return [self.item_rows[item] for item in items]

    def decode_items(self, sequences, num_return_sequences: int | None = None) -> list[list[str]]:
        """Item ids of generated sequences.

        Args:
            sequences (B * K, T): what `generate` returned, on any device; or (B, K, T); or lists of the same.
            num_return_sequences: K; by default all sequences are one user's.

        Returns:
            Each user's item ids, best first; shorter than K where `generate` found fewer items.

        Raises:
            ValueError: a sequence is no item's lexical ID; the number of sequences is no multiple of K; one user has
                an item twice, as happens where K is not given for several users.

        Example:
            >>> inputs = tokenizer(histories=[["B0003"], ["B0001"]], return_tensors="pt")
            >>> sequences = model.generate(**inputs, num_beams=5, num_return_sequences=3)
            >>> [len(items) for items in tokenizer.decode_items(sequences, num_return_sequences=3)]
            [3, 3]
        """
        values = as_lists(sequences)
        if not (isinstance(values, list) and all(isinstance(row, list) for row in values)):
            raise ValueError("`sequences` must be (users * items, tokens) or (users, items, tokens)")
        if values and not (values[0] and isinstance(values[0][0], list)):
            group = len(values) if num_return_sequences is None else num_return_sequences
            if group < 1 or len(values) % group:
                raise ValueError(f"{len(values)} sequences are no multiple of num_return_sequences={group}")
            values = [values[first : first + group] for first in range(0, len(values), group)]
        users = [[item for row in user if (item := self._item(row)) is not None] for user in values]
        if any(len(set(items)) < len(items) for items in users):
            raise ValueError("sequences of several users: give `num_return_sequences`, as in `generate`")
        return users

    def _item(self, sequence: list[int]) -> str | None:
        padding = (self.pad_token_id, self.eos_token_id, -100)  # the last where a trainer has joined predictions
        tokens = [token for token in sequence if token not in padding]
        if not tokens:
            return None
        row = self._row_of_lexical_id.get(tuple(tokens))
        if row is None:
            spelled = self.convert_ids_to_tokens(tokens) if min(tokens) >= 0 else tokens
            raise ValueError(f"no item has the lexical ID {spelled}")
        return self.item_ids[row]

    @cached_property
    def interactions(self) -> np.ndarray:
        """(N,) how often each item is in the training part; 0 for those that came later.

        Raises:
            ValueError: the catalogue does not say.
        """
        if COUNTS not in self.catalogue.column_names:
            raise ValueError(f"the catalogue does not say what is popular, in {COUNTS}; translate and train again")
        return pc.fill_null(self.catalogue[COUNTS], 0).to_numpy()

    @cached_property
    def popularity(self) -> np.ndarray:
        """(N,) logarithm of every item's share of these interactions, one more given to each; raises as these do."""
        counts = self.interactions + 1
        return np.log(counts / counts.sum()).astype(np.float32)

    @cached_property
    def _row_of_lexical_id(self) -> dict[tuple[int, ...], int]:
        return {tuple(lexical_id): row for row, lexical_id in enumerate(self.lexical_ids)}

    def _lexical_token_ids(self) -> list[list[int]]:
        vocabulary, seen, lexical_ids = self._tokenizer.get_vocab(), {}, []
        for item, tokens in zip(self.item_ids, self.catalogue["lexical_id"].to_pylist(), strict=True):
            unknown = [token for token in tokens if token not in vocabulary]
            if unknown or not tokens or self.eos_token in tokens:
                what = f"token {unknown[0]!r} is not in the vocabulary" if unknown else "it is empty"
                what = "it holds the end token" if self.eos_token in tokens else what
                raise ValueError(f"lexical ID of item {item!r}: {what}; translate with this tokenizer")
            if (other := seen.setdefault(tuple(tokens), item)) != item:
                raise ValueError(f"items {other!r} and {item!r} have the same lexical ID {tokens}")
            lexical_ids.append([vocabulary[token] for token in tokens])
        return lexical_ids

    def wording(self, text: str) -> list[int]:
        """Token ids of a fixed wording of the prompts, without the space before it."""
        known = self.__dict__.setdefault("_wordings", {})
        if text not in known:
            tokens = self(text, add_special_tokens=False)["input_ids"]
            known[text] = [token for token in tokens if self.convert_ids_to_tokens(token) != "▁"]
        return known[text]

    def _end(self, prompt: list[int]) -> list[int]:
        return [*prompt[: self.max_passage_length - 1], self.eos_token_id]

    def _save_pretrained(self, save_directory, file_names, legacy_format=None, filename_prefix=None):
        file_names = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        path = Path(save_directory) / (f"{filename_prefix}-{CATALOGUE_FILE}" if filename_prefix else CATALOGUE_FILE)
        with new_file(path) as part:
            pq.write_table(self.catalogue, part)
        file_names = (*file_names, str(path))
        add_checksums(file_names[0], file_names[1:])
        return file_names


def _read_catalogue(path: str | None, folder: str) -> pa.Table:
    if path is None or not Path(path).is_file():
        raise ValueError(f"{folder}: {CATALOGUE_FILE} is missing; a GRAM tokenizer is saved with its catalogue")
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); save the tokenizer again") from error


def _checked(catalogue: pa.Table) -> pa.Table:
    missing = [name for name in CATALOGUE_SCHEMA.names if name not in catalogue.column_names]
    if missing:
        raise ValueError(f"the catalogue has no column {missing[0]!r}; it needs {', '.join(CATALOGUE_SCHEMA.names)}")
    if catalogue.num_rows == 0:
        raise ValueError("the catalogue has no items")
    metadata = catalogue.schema.metadata
    try:
        known = catalogue.select(CATALOGUE_SCHEMA.names).cast(CATALOGUE_SCHEMA)
    except pa.ArrowException as error:
        raise ValueError(f"the catalogue's columns are not of the types {CATALOGUE_SCHEMA.types}: {error}") from None
    for name in catalogue.column_names:
        if name not in CATALOGUE_SCHEMA.names:
            known = known.append_column(catalogue.schema.field(name), catalogue[name])
    catalogue = known.replace_schema_metadata(metadata)
    for name in ("item_id", "title", "text", "lexical_id", "similar_items"):
        column = catalogue[name]
        if column.null_count or (pa.types.is_list(column.type) and pc.list_flatten(column).null_count):
            raise ValueError(f"the catalogue has an item without a value in column {name!r}; fill it, or drop the item")
    known, items = set(), catalogue["item_id"].to_pylist()
    for item in items:
        if item in known:
            raise ValueError(f"the catalogue holds item {item!r} twice; keep one of its rows")
        known.add(item)
    for item, neighbours in zip(items, catalogue["similar_items"].to_pylist(), strict=True):
        if strangers := [neighbour for neighbour in neighbours if neighbour not in known]:
            raise ValueError(f"item {item!r} is similar to {strangers[0]!r}, which is not in the catalogue")
    return catalogue


__all__ = ["GramTokenizer"]
