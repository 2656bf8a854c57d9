"""Items come and go: a model folder with a changed catalogue, made from another one, which stays as it is.

What an item is called never changes. A new item gets a row behind the others; one that is removed keeps its row, so
that histories may hold it, and leaves the item trie alone, so that nobody gets it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import __version__
from ..collaborative.neighbours import nearest_items
from ..common.files import new_folder, write_json
from ..common.provenance import hash_of_weights
from ..data.folder import read_items
from ..data.interactions import ItemTable
from ..item_cache_gram import ITEM_CACHE_FOLDER
from ..loading_gram import find_file, read_object
from ..tokenization_gram import CATALOGUE_SCHEMA, COUNTS, GramTokenizer
from ..translation.settings import BUILT_IN_ENCODER
from ..translation.tokens import CODE_TOKEN
from ..trie_gram import ItemTrie
from .loading import load_model

CHANGES_FILE = "catalogue_changes.json"
_KEPT = ("training.json", "training.svg", "card.yaml", "LICENSE")  # what was measured is of the catalogue before


def add_items(
    name_or_path: str | Path,
    items_file: str | Path,
    output: str | Path,
    encoder: str = BUILT_IN_ENCODER,
    vectors: str | Path | None = None,
    blocked_tokens: str | Path | None = None,
    progress: bool = True,
) -> int:
    """Make a model folder with more items; gives how many these are.

    A new item is placed in the tree of lexical IDs by its vector and named by its own words, see [`place_items`]; it is
    called similar to the items whose vectors are nearest. The others keep their IDs, prompts and encodings, and
    nothing is trained. An item that was removed comes back as what it was.

    Args:
        name_or_path: model folder, or a name on the Hub.
        items_file: the new items, see [`read_items`]; their fields become the catalogue's.
        output: new folder. Encodings in the model's folder are taken over, and those of the new items added.
        encoder: that the model's items were embedded with, see [`embed_texts`]; it embeds all items again.
        vectors: file of the vectors of all items, old and new, in place of it, see [`read_vectors`].
        blocked_tokens: file of words that no ID may show.
        progress: show progress bars.

    Raises:
        FileNotFoundError: the model, or a file, is missing.
        ValueError: a file is malformed; an item is in the catalogue already; a field is of another type there; the
            model's IDs are codes; there is something at `output`.
    """
    from ..translation.embedding import embed_texts  # what it needs, those who recommend do without
    from ..translation.given import read_block_list, read_vectors

    with _changed(name_or_path, output, progress) as (model, tokenizer, save):
        items, rows_of, leaves = read_items(items_file), tokenizer.item_rows, model.item_trie.leaves
        for item, text in zip(items.item_ids, items.texts, strict=True):
            row = rows_of.get(item)
            if row is not None and leaves[row] >= 0:
                raise ValueError(f"{items_file}: item {item} is in the catalogue already; leave it out")
            if row is not None and text != tokenizer.catalogue["text"][row].as_py():
                raise ValueError(f"{items_file}: item {item} had another text until it was removed; give it a new id")
        is_new = np.array([item not in rows_of for item in items.item_ids])
        if is_new.any():
            new = _some(items, is_new.nonzero()[0])
            ids, texts = [*tokenizer.item_ids, *new.item_ids], [*tokenizer.catalogue["text"].to_pylist(), *new.texts]
            options = {} if encoder == BUILT_IN_ENCODER else {"progress": progress}
            embedded = embed_texts(texts, encoder, **options) if vectors is None else read_vectors(vectors, ids)
            blocked = [] if blocked_tokens is None else read_block_list(blocked_tokens)
            try:
                tokenizer = with_items(tokenizer, new, embedded, blocked, progress)
            except ValueError as error:
                raise ValueError(f"{items_file}: {error}") from None
        save(tokenizer, add=[tokenizer.item_rows[item] for item in items.item_ids])
    return len(items.item_ids)


def remove_items(name_or_path: str | Path, items: Sequence[str], output: str | Path, progress: bool = True) -> int:
    """Make a model folder that never recommends these items; gives how many it still does.

    They stay in the catalogue, so that users who have them in their history are understood.

    Raises:
        FileNotFoundError: the model is missing.
        ValueError: an item is not in the catalogue; none would be left; there is something at `output`.
    """
    with _changed(name_or_path, output, progress) as (_, tokenizer, save):
        return save(tokenizer, remove=tokenizer.rows_of(items, what="`items`"))


@contextmanager
def _changed(name_or_path: str | Path, output: str | Path, progress: bool):
    """Model, tokenizer, and a function that writes the new folder."""
    with new_folder(output) as folder:
        model, tokenizer = load_model(name_or_path)
        before = hash_of_weights(model)

        def save(tokenizer: GramTokenizer, add: Sequence[int] = (), remove: Sequence[int] = ()) -> int:
            was_in = np.zeros(len(tokenizer.item_ids), dtype=bool)
            was_in[: model.item_trie.num_items] = (model.item_trie.leaves >= 0).numpy(force=True)
            is_in = was_in.copy()
            is_in[list(add)], is_in[list(remove)] = True, False
            if not is_in.any():
                raise ValueError("no item would be left; a model needs one to recommend")
            rows = is_in.nonzero()[0]
            model.set_item_trie(ItemTrie.from_sequences([tokenizer.sequences[row] for row in rows], rows, len(is_in)))
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            for name in _KEPT:
                if found := find_file(name_or_path, name):
                    shutil.copyfile(found, folder / name)
            if shards := sorted((Path(name_or_path) / ITEM_CACHE_FOLDER).glob("*.safetensors")):
                (folder / ITEM_CACHE_FOLDER).mkdir()
                for shard in shards:
                    _link(shard, folder / ITEM_CACHE_FOLDER / shard.name)
                model.encode_items(tokenizer, folder / ITEM_CACHE_FOLDER, progress=progress)
            facts = {"added": int((is_in & ~was_in).sum()), "removed": int((was_in & ~is_in).sum())}
            facts |= {"num_items": len(rows), "before": before, "gram-recommender": __version__}
            changes = find_file(name_or_path, CHANGES_FILE)
            write_json(
                folder / CHANGES_FILE, {"changes": [*(read_object(changes)["changes"] if changes else []), facts]}
            )
            return len(rows)

        yield model, tokenizer, save


def with_items(
    tokenizer: GramTokenizer, items: ItemTable, vectors: np.ndarray, blocked: Sequence[str] = (), progress: bool = False
) -> GramTokenizer:
    """A tokenizer whose catalogue goes on with these items; their IDs are not in the first one's.

    Args:
        vectors: (N + M, d), of the catalogue's items and of these.
        blocked, progress: as of [`place_items`].

    Raises:
        ValueError: the catalogue's IDs are codes, or a field is of another type there.
    """
    from ..translation.placement import place_items

    catalogue, num_old = tokenizer.catalogue, len(tokenizer.item_ids)
    first_id = catalogue["lexical_id"][0].as_py()
    if all(map(CODE_TOKEN.fullmatch, first_id)):
        raise ValueError(
            f"the model's IDs are codes, such as {' '.join(first_id)}; items are added to lexical IDs alone"
        )
    texts = [*catalogue["text"].to_pylist(), *items.texts]
    named = place_items(tokenizer.lexical_ids, texts, vectors, tokenizer, blocked=blocked, progress=progress)
    most = max(map(len, catalogue["similar_items"].to_pylist()))
    similar = nearest_items(vectors, most, first=num_old)
    ids = [*tokenizer.item_ids, *items.item_ids]
    columns = [items.item_ids, items.titles, items.texts, map(tokenizer.convert_ids_to_tokens, named)]
    columns.append([ids[row] for row in rows if row >= 0] for rows in similar.tolist())
    more = pa.table([list(column) for column in columns], schema=CATALOGUE_SCHEMA)
    for name in () if items.fields is None else items.fields.column_names:
        if name not in (*more.column_names, COUNTS):  # new items have none
            more = more.append_column(*_as_there(items.fields.select([name]), catalogue.schema))
    joined = pa.concat_tables([catalogue, more], promote_options="default").replace_schema_metadata()
    parts = ("max_history", "max_passage_length", "with_user_prompt", "with_item_prompts", "with_id_in_item_prompt")
    return GramTokenizer.from_catalogue(tokenizer, joined, **{name: getattr(tokenizer, name) for name in parts})


def _as_there(field: pa.Table, schema: pa.Schema) -> tuple[pa.Field, pa.ChunkedArray]:
    """A field of new items as the catalogue has it, if it has it."""
    (name,) = field.column_names
    if name not in schema.names:
        return field.schema.field(0), field[name]
    values, wanted = field[name], schema.field(name).type
    if pa.types.is_list(wanted) and pa.types.is_string(values.type):
        values = pc.split_pattern(values, ", ")  # as a list is written where all are texts
    try:
        return schema.field(name), values.cast(wanted)
    except pa.ArrowException:
        raise ValueError(f"field {name} is {values.type}, in the catalogue {wanted}; give it as that") from None


def _some(items: ItemTable, places: np.ndarray) -> ItemTable:
    lists = ([of[place] for place in places] for of in (items.item_ids, items.titles, items.texts))
    return ItemTable(*lists, fields=None if items.fields is None else items.fields.take(places))


def _link(source: Path, target: Path) -> None:
    """Another name for a file that nobody writes into, where the file system has such; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
