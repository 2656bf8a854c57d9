"""Items come and go: `gram add-items` and `gram remove-items`."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gram import cli
from gram.collaborative.neighbours import nearest_items
from gram.item_cache_gram import ITEM_CACHE_FOLDER, ItemCache
from gram.serving.catalogue_changes import CHANGES_FILE, add_items, remove_items
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender
from gram.train_accelerate import main as train
from gram.training.settings import TrainingSettings
from gram.translation.placement import place_items

from .conftest import BRANDS, NOUNS, WORDS
from .test_training import as_flags

TEXTS = st.lists(st.sampled_from([*WORDS, *NOUNS, *BRANDS, "zzz", "7"]), min_size=1, max_size=6).map(" ".join)


def write_items(path, items):
    pq.write_table(pa.Table.from_pylist([{"item_id": item, "title": title} for item, title in items.items()]), path)
    return path


@settings(max_examples=8)
@given(st.data())
def test_additions_and_removals_in_any_order(model_folder, tmp_path_factory, data):
    folder, given_so_far, removed = tmp_path_factory.mktemp("changed"), {}, set()
    ids, source = load_model(model_folder)[1].item_ids, model_folder
    for step in range(data.draw(st.integers(1, 4), label="steps")):
        before, target = pq.read_table(source / "catalogue.parquet"), folder / f"step-{step}"
        if data.draw(st.booleans(), label="add"):
            texts = data.draw(st.lists(TEXTS, min_size=1, max_size=5), label="texts")
            new = {f"new-{step}-{place}": text for place, text in enumerate(texts)}
            new |= {item: given_so_far[item] for item in removed & given_so_far.keys()}  # these come back
            assert add_items(source, write_items(folder / "new.parquet", new), target, progress=False) == len(new)
            given_so_far, removed, ids = (
                given_so_far | new,
                removed - new.keys(),
                [*ids, *sorted(new.keys() - set(ids))],
            )
        else:
            gone = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=6), label="gone")
            removed |= set(gone)
            assert remove_items(source, gone, target, progress=False) == len(ids) - len(removed)
        model, tokenizer = load_model(target)  # which checks that the trie is that of the catalogue
        assert sorted(tokenizer.item_ids) == sorted(ids)
        assert tokenizer.catalogue.slice(0, len(before)).select(before.column_names).equals(before)
        assert len(set(map(tuple, tokenizer.lexical_ids))) == len(ids)

        history = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=4), label="history")
        exclude = data.draw(st.lists(st.sampled_from(ids), max_size=6), label="exclude")
        (found,) = Recommender(model, tokenizer).recommend([history], top_k=len(ids), num_beams=100, exclude=exclude)
        assert {item.item_id for item in found} == set(ids) - removed - set(history) - set(exclude)
        rows = [tokenizer.item_rows[item.item_id] for item in found]
        inputs = tokenizer(histories=[history], return_tensors="pt")
        exact = model.generate(**inputs, exact=True, num_return_sequences=len(ids), return_dict_in_generate=True)
        of_all = [row for row in exact.item_indices.flatten().tolist() if row in rows]
        assert rows == of_all, "the ranking is the exhaustive one"
        source = target


def test_an_item_goes_where_those_like_it_are(model_folder, tokenizer, tmp_path):
    rows = range(0, len(tokenizer.item_ids), 5)
    lines = [f"twin-of-{row} {tokenizer.catalogue['text'][row]}\n" for row in rows]
    (tmp_path / "new.txt").write_text("".join(lines))
    add_items(model_folder, tmp_path / "new.txt", tmp_path / "more", progress=False)
    catalogue = pq.read_table(tmp_path / "more" / "catalogue.parquet").to_pylist()
    for row, new in zip(rows, catalogue[len(tokenizer.item_ids) :], strict=True):
        old = catalogue[row]
        assert (new["item_id"], new["title"], new["text"]) == (f"twin-of-{row}", old["title"], old["text"])
        assert new["lexical_id"][0] == old["lexical_id"][0], "the same cluster"
        assert new["similar_items"][0] == old["item_id"], "nothing is more alike"
        assert len(new["similar_items"]) == 3


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.integers(3, 9)] * 3), min_size=2, max_size=30, unique=True), st.data())
def test_new_ids_are_new_whatever_there_is(tokenizer, paths, data):
    words = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]) if len(token) > 3]
    old = [tokenizer.convert_tokens_to_ids([words[number] for number in dict.fromkeys(path)]) for path in paths]
    old = [list(one) for one in dict.fromkeys(map(tuple, old))]
    texts = ["daily cream"] * len(old) + data.draw(st.lists(TEXTS, min_size=1, max_size=20))
    vectors = np.random.default_rng(0).normal(size=(len(texts), 4))
    cap = data.draw(st.sampled_from([2, 1000]))
    new = place_items(old, texts, vectors, tokenizer, max_fan_out=cap)
    assert len(new) == len(texts) - len(old)
    assert len({*map(tuple, new), *map(tuple, old)}) == len(texts)
    assert all(new)


def test_the_nearest_cluster_is_that_of_the_nearest_mean(tokenizer):
    tokens = tokenizer.convert_tokens_to_ids(["▁daily", "▁cream", "▁serum", "▁mask"])
    old = [[a, b, c] for a in tokens[:2] for b in tokens[2:] for c in (7, 8)]
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.5], [1, 0.6], [0, 1], [0.1, 1], [0.5, 1], [0.6, 1]])
    (new,) = place_items(old, ["x"] * 8 + ["night balm"], [*vectors, [0.5, 0.9]], tokenizer)
    assert new[:2] == [tokens[1], tokens[3]]


def test_encodings_are_kept_and_those_of_new_items_added(model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    model, tokenizer = load_model(folder)
    model.encode_items(tokenizer, folder / ITEM_CACHE_FOLDER, dtype="int8", progress=False)
    add_items(
        folder, write_items(tmp_path / "new.parquet", {"new": "rich silk balm"}), tmp_path / "more", progress=False
    )
    for shard in (folder / ITEM_CACHE_FOLDER).glob("*.safetensors"):
        assert (tmp_path / "more" / ITEM_CACHE_FOLDER / shard.name).read_bytes() == shard.read_bytes()
    model, tokenizer = load_model(tmp_path / "more")
    cache = ItemCache.open(tmp_path / "more" / ITEM_CACHE_FOLDER, model, tokenizer)
    fresh = ItemCache.in_memory(model, tokenizer, dtype="int8")
    rows = torch.arange(len(tokenizer.item_ids))
    for kept, made in zip(cache.gather(rows), fresh.gather(rows), strict=True):
        torch.testing.assert_close(kept, made, atol=0.05, rtol=0.05)
    history = [["new", tokenizer.item_ids[3]]]
    (with_cache,) = Recommender(model, tokenizer, item_cache=fresh).recommend(history, top_k=5)
    (from_folder,) = Recommender.from_pretrained(tmp_path / "more").recommend(history, top_k=5)
    assert [item.item_id for item in with_cache] == [item.item_id for item in from_folder]


def test_fields_of_new_items(model_folder, tokenizer, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    prices = pa.array([float(row) for row in range(len(tokenizer.item_ids))])
    priced = tokenizer.from_catalogue(tokenizer, tokenizer.catalogue.append_column("price", prices), max_history=8)
    priced.save_pretrained(folder)
    new = {"item_id": ["new"], "title": ["rich balm"], "price": [99], "sale": [True]}
    pq.write_table(pa.table(new), tmp_path / "new.parquet")
    add_items(folder, tmp_path / "new.parquet", tmp_path / "more", progress=False)
    recommender = Recommender.from_pretrained(tmp_path / "more")
    for condition in ("price>=50", "sale=true"):
        (found,) = recommender.recommend([["B0001"]], where=[condition])
        assert [item.item_id for item in found] == ["new"]
    pq.write_table(pa.table({**new, "item_id": ["newer"], "price": ["cheap"]}), tmp_path / "wrong.parquet")
    with pytest.raises(ValueError, match=r"wrong.parquet: field price is string, in the catalogue double"):
        add_items(folder, tmp_path / "wrong.parquet", tmp_path / "wrong", progress=False)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("add-items", "--items", "there.tsv"), "there.tsv: item B0001 is in the catalogue already; leave it out"),
        (("add-items", "--items", "no.tsv"), "no.tsv: no such file"),
        (("add-items", "--items", "new.tsv", "--vectors", "no.npy"), "no.npy: no such file"),
        (("add-items", "--items", "new.tsv", "--blocked-tokens", "no.txt"), "no.txt: no such file"),
        (("remove-items", "--ids", "X1"), "item 'X1' is not in the catalogue"),
        (("remove-items", "--ids", "@all.txt"), "no item would be left"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_nothing(
    model_folder, tokenizer, tmp_path, monkeypatch, capsys, command, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.tsv").write_text("item_id\ttitle\nB0001\tx\n")
    (tmp_path / "new.tsv").write_text("item_id\ttitle\nnew\trich balm\n")
    (tmp_path / "all.txt").write_text("\n".join(tokenizer.item_ids))
    name, *flags = command
    assert cli.main([name, str(model_folder), *flags, "--output", "out"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main([name, "nowhere/model", *flags, "--output", "out"]) == 2
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("")
    assert cli.main([name, str(model_folder), *flags, "--output", "out"]) == 2
    assert "out: exists already" in capsys.readouterr().err


def test_an_item_that_comes_back_is_the_one_that_it_was(model_folder, tokenizer, tmp_path):
    remove_items(model_folder, ["B0029"], tmp_path / "fewer", progress=False)
    text = tokenizer.catalogue["text"][29].as_py()
    (tmp_path / "back.txt").write_text(f"B0029 {text}\n")
    add_items(tmp_path / "fewer", tmp_path / "back.txt", tmp_path / "again", progress=False)
    for name in ("model.safetensors", "catalogue.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (model_folder / name).read_bytes()
    (tmp_path / "back.txt").write_text("B0029 title: something else\n")
    with pytest.raises(ValueError, match="item B0029 had another text until it was removed"):
        add_items(tmp_path / "fewer", tmp_path / "back.txt", tmp_path / "other", progress=False)


def test_commands_card_and_history_of_changes(quickstart_run, tmp_path, capsys):
    folder, _ = quickstart_run
    (tmp_path / "new.tsv").write_text("item_id\ttitle\nnew\tThe Longest Film\n")
    assert (
        cli.main(["add-items", str(folder), "--items", str(tmp_path / "new.tsv"), "--output", str(tmp_path / "a")]) == 0
    )
    assert "1 items added" in capsys.readouterr().out
    assert cli.main(["remove-items", str(tmp_path / "a"), "--ids", "1", "--output", str(tmp_path / "b")]) == 0
    card = (tmp_path / "b" / "README.md").read_text()
    assert "After training 1 items were added to the catalogue and 1 removed." in card
    assert "This model has not been evaluated" in card
    changes = json.loads((tmp_path / "b" / CHANGES_FILE).read_text())["changes"]
    assert [(change["added"], change["removed"]) for change in changes] == [(1, 0), (0, 1)]
    (popular,) = Recommender.from_pretrained(tmp_path / "b").recommend([[]], top_k=100)
    assert popular.is_fallback
    assert popular[-1].item_id == "new"
    assert "1" not in {item.item_id for item in popular}


def test_items_like_the_last_ones_alone():
    vectors = np.random.default_rng(0).normal(size=(50, 8))
    np.testing.assert_array_equal(nearest_items(vectors, 5, first=40), nearest_items(vectors, 5)[40:])


@pytest.fixture
def newer_log(data_folder, tmp_path):
    """The same log some weeks later, in another order of the items: every other user has had `new`."""
    log = tmp_path / "log"
    log.mkdir()
    head, *items = (data_folder / "item_text.tsv").read_text().splitlines()
    (log / "item_text.tsv").write_text("\n".join([head, *items[::-1], "new\tSilver kettle\t\t"]) + "\n")
    users = (data_folder / "user_sequence.txt").read_text().splitlines()
    later = [f"{' '.join(line.split()[:3])} new {' '.join(line.split()[3:])}" for line in users[::2]]
    (log / "user_sequence.txt").write_text("\n".join([*later, *users[1::2]]) + "\n")
    return log


def test_training_goes_on_with_a_changed_catalogue(model_folder, newer_log, tmp_path):
    gone = (newer_log / "user_sequence.txt").read_text().split()[1]  # users still have it in their history
    add_items(model_folder, write_items(tmp_path / "new.parquet", {"new": "Silver kettle"}), tmp_path / "added")
    remove_items(tmp_path / "added", [gone], tmp_path / "changed")
    before = load_model(tmp_path / "changed")[1]
    settings = TrainingSettings(
        data=str(newer_log),
        output_dir=str(tmp_path / "trained"),
        init_from=str(tmp_path / "changed"),
        max_history=before.max_history,
        max_passage_length=before.max_passage_length,
        epochs=4,
        learning_rate=0.01,
        batch_size=32,
        validation_beams=5,
        score_mode="trie",
        distillation="sasrec",
        distillation_draws=1,
        distillation_graph=0.5,
    )
    train([*as_flags(settings), "--sasrec-epochs", "2"])
    model, tokenizer = load_model(tmp_path / "trained")
    assert tokenizer.catalogue.select(["item_id", "lexical_id"]).equals(
        before.catalogue.select(["item_id", "lexical_id"])
    )
    users = [line.split()[1:-2] for line in (newer_log / "user_sequence.txt").read_text().splitlines()]
    assert tokenizer.interactions[tokenizer.item_rows["new"]] == sum(user.count("new") for user in users)
    found = Recommender(model, tokenizer).recommend(users, top_k=5, num_beams=20)
    found = {item.item_id for items in found for item in items}
    assert "new" in found
    assert gone not in found


def test_a_log_with_an_item_of_no_catalogue_is_refused(model_folder, newer_log, tmp_path, capsys):
    paths = ["--data", newer_log, "--init-from", model_folder, "--output-dir", tmp_path / "trained"]
    with pytest.raises(
        ValueError, match=r"log: item new is not in the model's catalogue; `gram add-items` adds new items"
    ):
        train(list(map(str, paths)))
    assert not (tmp_path / "trained").exists()
