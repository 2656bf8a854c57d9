"""The tokenizer: prompts as the paper writes them, text as any tokenizer, the way back from sequences to items."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from gram import GramTokenizer

# Run in a process that cannot import the package, on a copy of the folder.
ELSEWHERE = """
import json, sys
try:
    import gram
    raise SystemExit("the package can be imported here")
except ImportError:
    pass
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer
folder, histories, text = json.load(sys.stdin)
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "gram"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(histories=histories, return_tensors="pt")
found = []
for auto_class in (AutoModel, AutoModelForSeq2SeqLM):
    model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
    output = model.generate(**inputs, num_beams=10, num_return_sequences=5, return_dict_in_generate=True)
    found.append([tokenizer.decode_items(output.sequences, 5), output.sequences_scores.tolist()])
prompts = tokenizer(histories=histories)["input_ids"]
print(json.dumps([tokenizer(text)["input_ids"], prompts, tokenizer.item_ids, *found]))
"""


def written(tokenizer, ids):
    """Tokens as text, separators alike whether the vocabulary writes them with or without a space."""
    text = " ".join(tokenizer.convert_ids_to_tokens(ids)) + " "
    return text.replace("▁; ", "; ").replace("▁? ", "? ").replace("▁, ", ", ").replace("<pad> ", "")


def test_prompts_are_the_papers(tokenizer):
    newest, older = 4, 2
    passages = tokenizer(histories=[[tokenizer.item_ids[older], tokenizer.item_ids[newest]]])["input_ids"][0]
    assert len(passages) == 3
    lexical = [written(tokenizer, ids) for ids in tokenizer.lexical_ids]
    user, first, second = (written(tokenizer, ids) for ids in passages)
    assert user.endswith(f"{lexical[newest]}; {lexical[older]}? </s> ")
    assert tokenizer.decode(passages[0], skip_special_tokens=True).startswith("What would user purchase after")
    neighbours = [lexical[tokenizer.item_rows[item]] for item in tokenizer.catalogue["similar_items"][newest].as_py()]
    assert f": {lexical[newest]}; " in first
    assert f": {', '.join(neighbours)}; " in first
    assert f": {lexical[older]}; " in second


def test_every_prompt_is_cut_to_length_and_keeps_its_end(tokenizer):
    prompts = [*tokenizer.item_prompts, tokenizer.user_prompt(range(8))]
    assert max(map(len, prompts)) == tokenizer.max_passage_length
    assert all(prompt[-1] == tokenizer.eos_token_id for prompt in prompts)


def test_the_newest_items_are_read(tokenizer):
    inputs = tokenizer(histories=[tokenizer.item_ids[:12], tokenizer.item_ids[:1]], return_tensors="np")
    assert inputs["input_ids"].shape[:2] == (2, 1 + tokenizer.max_history)
    newest = tokenizer.item_prompts[11]
    assert inputs["input_ids"][0, 1, : len(newest)].tolist() == newest
    assert np.array_equal(inputs["attention_mask"], inputs["input_ids"] != tokenizer.pad_token_id)


def test_without_item_prompts_the_history_is_given_as_rows(tokenizer):
    histories = [tokenizer.item_ids[:12], tokenizer.item_ids[3:4]]
    inputs = tokenizer(histories=histories, item_prompts=False, return_tensors="pt")
    assert inputs["history"].tolist() == [[11, 10, 9, 8, 7, 6, 5, 4], [3, *[-1] * 7]]
    whole = tokenizer(histories=histories, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 1
    for name in ("input_ids", "attention_mask"):
        length = inputs[name].shape[2]
        assert np.array_equal(inputs[name], whole[name][:, :1, :length])
    assert tokenizer(histories=histories, item_prompts=False)["history"] == inputs["history"].tolist()


def test_rows_give_what_their_ids_give(tokenizer):
    rows = [list(range(12)), np.array([3])]
    histories = [[tokenizer.item_ids[row] for row in user] for user in rows]
    for item_prompts in (True, False):
        expected = tokenizer(histories=histories, item_prompts=item_prompts)
        assert tokenizer(rows=rows, item_prompts=item_prompts) == expected
    assert [tokenizer.history_rows(history) for history in histories] == [list(user) for user in rows]
    for wrong in ([[30]], [[-1]], [[1], []]):
        with pytest.raises(ValueError, match="one or more of the catalogue's 30 rows for each user"):
            tokenizer(rows=wrong)
    with pytest.raises(ValueError, match="give text or `histories`, not both"):
        tokenizer(rows=rows, histories=histories)


def test_text_is_tokenized_as_by_the_text_tokenizer(tokenizer):
    text = "Gentle  shampoo: 2 bottles 💧"
    assert tokenizer(text)["input_ids"] == [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    assert tokenizer([text, "balm"], padding=True, return_tensors="pt")["input_ids"].shape[0] == 2


def test_sequences_decode_to_their_items(tokenizer):
    sequences = [[0, *tokenizer.sequences[row]] for row in (3, 1, 2, 0)]
    longest = max(map(len, sequences))
    padded = np.array([[*tokens, *[tokenizer.pad_token_id] * (longest - len(tokens))] for tokens in sequences])
    ids = tokenizer.item_ids
    assert tokenizer.decode_items(padded) == [[ids[3], ids[1], ids[2], ids[0]]]
    assert tokenizer.decode_items(padded, num_return_sequences=2) == [[ids[3], ids[1]], [ids[2], ids[0]]]
    assert tokenizer.decode_items(padded.reshape(2, 2, -1)) == [[ids[3], ids[1]], [ids[2], ids[0]]]
    assert tokenizer.decode_items(np.zeros((2, 3), dtype=int)) == [[]]
    with pytest.raises(ValueError, match="num_return_sequences"):
        tokenizer.decode_items(np.concatenate([padded, padded]))
    with pytest.raises(ValueError, match="no item has the lexical ID"):
        tokenizer.decode_items(padded[:, :2])


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ([[]], "empty"),
        ([], "empty"),
        ([["B0001", "nowhere"]], "'nowhere'"),
        (["B0001"], "list of item ids"),
        (np.array(["B0001"]), "list of item ids"),
        ([["B0001"], None], "list of item ids, got a value of type NoneType"),
        ([{"B0001"}], "list of item ids, got a value of type set"),
        ([["B0001", None]], "item ids are strings, got None"),
        ([[1]], "item ids are strings, got 1"),
        (7, "`histories` is a list of histories, got a value of type int"),
    ],
)
def test_histories_that_cannot_be_read_are_refused(tokenizer, histories, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(histories=histories)


def test_histories_may_be_arrays(tokenizer):
    lists = [tokenizer.item_ids[:3], tokenizer.item_ids[4:7]]
    expected = tokenizer(histories=lists)["input_ids"]
    for histories in (np.array(lists), np.array(lists, dtype=object), [np.array(history) for history in lists]):
        assert tokenizer(histories=histories)["input_ids"] == expected


class OnADevice(torch.Tensor):
    """Numpy cannot read it, as it cannot read a tensor on a GPU."""

    def __array__(self, *_, **__):
        raise TypeError("can't convert a tensor of this device to numpy")


def test_sequences_on_any_device_are_decoded(model, tokenizer):
    inputs = tokenizer(histories=[tokenizer.item_ids[:2], tokenizer.item_ids[5:6]], return_tensors="pt")
    sequences = model.generate(**inputs, num_beams=5, num_return_sequences=3)
    expected, there = tokenizer.decode_items(sequences, 3), sequences.as_subclass(OnADevice)
    assert [len(items) for items in expected] == [3, 3]
    for form in (there, list(there)):
        assert tokenizer.decode_items(form, 3) == expected
    assert tokenizer.decode_items(there.view(2, 3, -1)) == expected


@pytest.mark.parametrize(
    ("sequences", "count", "message"),
    [
        ([[0, 5, 1]] * 4, 3, "4 sequences are no multiple of num_return_sequences=3"),
        ([[0, 5, 1]] * 4, 0, "4 sequences are no multiple of num_return_sequences=0"),
        ([0, 5, 1], None, r"`sequences` must be \(users \* items, tokens\)"),
        (None, None, r"`sequences` must be \(users \* items, tokens\)"),
        ([[-7]], None, r"no item has the lexical ID \[-7\]"),
    ],
)
def test_what_is_no_sequence_is_refused(tokenizer, sequences, count, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode_items(sequences, count)


def change(tokenizer, column, row, value):
    values = tokenizer.catalogue[column].to_pylist()
    values[row] = value
    place = tokenizer.catalogue.column_names.index(column)
    return tokenizer.catalogue.set_column(place, column, pa.array(values))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("item_id", "B0001", "'B0001' twice"),
        ("lexical_id", ["no such token"], "'no such token' is not in the vocabulary"),
        ("lexical_id", [], "it is empty"),
        ("similar_items", ["nowhere"], "'nowhere', which is not in the catalogue"),
    ],
)
def test_a_catalogue_that_does_not_fit_is_refused(tokenizer, column, value, message):
    with pytest.raises(ValueError, match=message):
        GramTokenizer.from_catalogue(tokenizer, change(tokenizer, column, 5, value))


def test_two_items_of_one_lexical_id_are_refused(tokenizer):
    same = tokenizer.catalogue["lexical_id"][0].as_py()
    with pytest.raises(ValueError, match="'B0000' and 'B0005' have the same lexical ID"):
        GramTokenizer.from_catalogue(tokenizer, change(tokenizer, "lexical_id", 5, same))


def test_a_folder_without_its_catalogue_says_so(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "catalogue.parquet").unlink()
    with pytest.raises(ValueError, match=r"catalogue\.parquet is missing"):
        GramTokenizer.from_pretrained(tmp_path)


def test_a_saved_folder_loads_anywhere_and_recommends_the_same(model, tokenizer, model_folder, run_elsewhere, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(model_folder, folder)
    histories, text = [tokenizer.item_ids[:3], tokenizer.item_ids[5:14]], "Rich  balm, 50 ml 💧"
    text_ids, prompt_ids, item_ids, *found = run_elsewhere(ELSEWHERE, [str(folder), histories, text])
    inputs = tokenizer(histories=histories, return_tensors="pt")
    output = model.generate(**inputs, num_beams=10, num_return_sequences=5, return_dict_in_generate=True)
    assert text_ids == tokenizer(text)["input_ids"]
    assert prompt_ids == tokenizer(histories=histories)["input_ids"]
    assert item_ids == tokenizer.item_ids
    for items, scores in found:
        assert items == tokenizer.decode_items(output.sequences, 5)
        assert scores == pytest.approx(output.sequences_scores.tolist(), rel=1e-5)


def test_no_pickle_in_a_model_folder(model_folder):
    suffixes = {path.suffix for path in model_folder.iterdir()}
    assert suffixes == {".py", ".json", ".safetensors", ".parquet"}
