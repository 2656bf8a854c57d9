"""Real data at full size: Amazon Beauty's 12,101 items with the true T5 vocabulary."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[1].parent / "shared"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared: the Amazon data are not there")


@pytest.fixture(scope="module")
def data():
    from gram.data import read_folder

    return read_folder(SHARED / "data" / "beauty")


@pytest.fixture(scope="module")
def text_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SHARED / "t5_tokenizer")


def catalogue(data, text_tokenizer, **choices):
    from gram.translation import TranslationSettings, translate

    return translate(data, text_tokenizer, TranslationSettings(**choices), progress=False)


def test_50_beams_return_50_items(data, text_tokenizer):
    from gram import GramConfig, GramForConditionalGeneration, GramTokenizer, ItemTrie
    from gram.data import evaluation_histories

    folder = data.folder
    given = catalogue(
        data,
        text_tokenizer,
        lexical_ids=str(folder / "lexical_ids.txt"),
        similar_items=str(folder / "similar_items.txt"),
    ).catalogue
    tokenizer = GramTokenizer.from_catalogue(text_tokenizer, given)
    torch.manual_seed(0)
    model = GramForConditionalGeneration(GramConfig()).eval()  # T5-small's shape
    model.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences))
    histories, _ = evaluation_histories(data, "test")
    for start in range(0, 16, 8):
        users = [[tokenizer.item_ids[row] for row in histories[user]] for user in range(start, start + 8)]
        inputs = tokenizer(histories=users, return_tensors="pt")
        output = model.generate(**inputs, num_beams=50, num_return_sequences=50, return_dict_in_generate=True)
        items = tokenizer.decode_items(output.sequences, 50)
        assert [len(set(found)) for found in items] == [50] * 8
        assert [[tokenizer.item_rows[item] for item in found] for found in items] == output.item_indices.tolist()


def test_own_lexical_ids_are_distinct_and_share_prefixes(data, text_tokenizer):
    found = catalogue(data, text_tokenizer, num_similar=0)
    lexical_ids = [tuple(tokens) for tokens in found.catalogue["lexical_id"].to_pylist()]
    assert len(set(lexical_ids)) == len(lexical_ids) == 12_101
    assert "12,101 items, 0 duplicate IDs" in str(found.statistics)
    first, second = (len({tokens[:depth] for tokens in lexical_ids}) for depth in (1, 2))
    assert first == 128
    assert first < second < 12_101
