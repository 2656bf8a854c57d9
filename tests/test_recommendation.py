"""Recommending to a few users."""

import copy
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram import cli
from gram.data import training_part
from gram.item_cache_gram import ItemCache
from gram.pipeline_gram import GenerativeRecommendationPipeline
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender
from gram.tokenization_gram import COUNTS


@pytest.fixture(scope="module")
def recommender(model, tokenizer):
    return Recommender(model, tokenizer, batch_size=4)


@pytest.fixture(scope="module")
def histories(data):
    item_ids = data.items.item_ids
    return [[item_ids[row] for row in data.interactions[user]] for user in range(10)]


@pytest.fixture(scope="module")
def training_counts(data):
    return np.bincount(training_part(data).items, minlength=len(data.items))


def items_of(found):
    return [[item.item_id for item in items] for items in found]


def test_recommends_what_generate_returns(recommender, model, tokenizer, histories):
    inputs = tokenizer(histories=histories[:1], return_tensors="pt")
    output = model.generate(**inputs, num_beams=50, num_return_sequences=5, return_dict_in_generate=True)
    (found,) = recommender.recommend(histories[:1], top_k=5, exclude_seen=False)
    assert items_of([found]) == tokenizer.decode_items(output.sequences)
    assert [item.score for item in found] == pytest.approx(output.sequences_scores.tolist())
    assert [item.title for item in found] == [tokenizer.titles[tokenizer.item_rows[item.item_id]] for item in found]


def test_batch_gives_what_each_user_gets_alone(recommender, histories):
    together = recommender.recommend(histories, top_k=7)
    for history, found in zip(histories, together, strict=True):
        (alone,) = recommender.recommend([history], top_k=7)
        assert items_of([alone]) == items_of([found])
        assert [item.score for item in found] == pytest.approx([item.score for item in alone], rel=1e-5, abs=1e-5)
        assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_nothing_seen_is_recommended_however_long_ago(recommender, tokenizer):
    history = tokenizer.item_ids[:25]  # the model reads the newest 8
    (found,) = recommender.recommend([history], top_k=20)
    assert sorted(item.item_id for item in found) == tokenizer.item_ids[25:]
    (found,) = recommender.recommend([history], top_k=30, exclude_seen=False)
    assert sorted(item.item_id for item in found) == tokenizer.item_ids


@settings(max_examples=25)
@given(st.data())
def test_of_what_may_be_recommended_the_ranking_is_that_of_all_items(recommender, tokenizer, histories, data):
    ids = st.sampled_from(tokenizer.item_ids)
    exclude = data.draw(st.lists(ids, max_size=10), label="exclude")
    only = data.draw(st.none() | st.lists(ids, max_size=20), label="only")
    exclude_seen = data.draw(st.booleans(), label="exclude_seen")
    ranking = recommender.recommend(histories, top_k=len(tokenizer.item_ids), exclude_seen=exclude_seen)
    found = recommender.recommend(histories, top_k=7, exclude_seen=exclude_seen, exclude=exclude, only=only)
    for items, all_items in zip(found, ranking, strict=True):
        left = [item for item in all_items if item.item_id not in exclude and (only is None or item.item_id in only)]
        assert [item.item_id for item in items] == [item.item_id for item in left[:7]]
        assert [item.score for item in items] == pytest.approx([item.score for item in left[:7]], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["exclude", "only"])
@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["B0001", "XXX"], "item 'XXX' is not in the catalogue of 30 items"),
        ("B0001", "`{}` is a list of item ids, got the string 'B0001'"),
        ([3], "item ids are strings, got 3"),
        (7, "`{}` is a list of item ids, got a value of type int"),
    ],
)
def test_items_to_choose_from_that_are_none(recommender, histories, name, items, message):
    with pytest.raises(ValueError, match=re.escape(message.format(name))):
        recommender.recommend(histories, **{name: items})


def test_more_items_than_beams_and_than_the_catalogue(recommender, tokenizer, histories):
    (found,) = recommender.recommend(histories[:1], top_k=100, num_beams=1)
    assert len(found) == len(tokenizer.item_ids) - len(set(histories[0]))
    assert len(set(item.item_id for item in found)) == len(found)


def test_wrong_histories_are_named(recommender):
    with pytest.raises(ValueError, match="item 'XXX' is not in the catalogue"):
        recommender.recommend([["B0001", "XXX"]], skip_unknown=False)
    with pytest.raises(ValueError, match="empty"):
        recommender.recommend([[]], skip_unknown=False)
    with pytest.raises(ValueError, match=r"histories\[1\]: item 'XXX'"):
        recommender.recommend([["B0001"], ["XXX"]], skip_unknown=False)
    with pytest.raises(ValueError, match=r"histories\[0\]: a history is a list of item ids, got the string 'B0001'"):
        recommender.recommend(["B0001", "B0002"])
    assert recommender.recommend([]) == []


def test_unknown_items_are_skipped_and_told(recommender, histories):
    mixed = [["gone", *histories[0]], [*histories[1][:2], "XXX", "YYY", *histories[1][2:]], histories[2]]
    found = recommender.recommend(mixed)
    assert [user.skipped for user in found] == [["gone"], ["XXX", "YYY"], []]
    assert not any(user.is_fallback for user in found)
    for user, alone in zip(found, recommender.recommend(histories[:3], skip_unknown=False), strict=True):
        assert items_of([user]) == items_of([alone])
        assert [item.score for item in user] == pytest.approx([item.score for item in alone], rel=1e-5, abs=1e-5)


@settings(max_examples=25)
@given(draw=st.data())
def test_users_of_whom_nothing_is_known_get_what_is_popular(recommender, tokenizer, histories, training_counts, draw):
    ids = st.sampled_from(tokenizer.item_ids)
    exclude = draw.draw(st.lists(ids, max_size=5), label="exclude")
    only = draw.draw(st.none() | st.lists(ids, max_size=20), label="only")
    cold = draw.draw(st.permutations([[], ["gone"], histories[0], histories[1]]), label="histories")
    found = recommender.recommend(cold, top_k=7, exclude=exclude, only=only)
    allowed = [
        row for row, item in enumerate(tokenizer.item_ids) if item not in exclude and (only is None or item in only)
    ]
    best = sorted(allowed, key=lambda row: (-training_counts[row], row))[:7]
    shares = np.log((training_counts + 1) / (training_counts + 1).sum())
    for history, items in zip(cold, found, strict=True):
        assert items.is_fallback == (history in ([], ["gone"]))
        assert items.skipped == [item for item in history if item == "gone"]
        if items.is_fallback:
            assert [item.item_id for item in items] == [tokenizer.item_ids[row] for row in best]
            assert [item.score for item in items] == pytest.approx(shares[best].tolist(), abs=1e-5)
        else:
            (alone,) = recommender.recommend([history], top_k=7, exclude=exclude, only=only)
            assert items_of([items]) == items_of([alone])


def test_a_catalogue_that_does_not_say_what_is_popular(model, tokenizer):
    older = copy.deepcopy(tokenizer)
    older.catalogue = older.catalogue.drop_columns([COUNTS])
    for name in ("popularity", "interactions"):
        older.__dict__.pop(name, None)
    for search in ({"histories": [[]]}, {"histories": [["B0003"]], "cold_share": 0.5}):
        with pytest.raises(ValueError, match="does not say what is popular, in num_interactions; translate and train"):
            Recommender(model, older).recommend(**search)


@settings(max_examples=25)
@given(draw=st.data())
def test_a_share_of_the_places_is_for_items_with_few_interactions(
    recommender, model, tokenizer, histories, training_counts, draw
):
    number = draw.draw(st.integers(1, 12), label="top_k")
    share = draw.draw(st.floats(0, 1), label="cold_share")
    below = draw.draw(st.integers(1, 14), label="cold_below")
    only = draw.draw(st.none() | st.lists(st.sampled_from(tokenizer.item_ids), unique=True), label="only")
    search = {"top_k": number, "only": only, "num_beams": 50}
    plain = items_of(recommender.recommend(histories, **search))
    found = items_of(recommender.recommend(histories, **search, cold_share=share, cold_below=below))
    cold = {item for item, count in zip(tokenizer.item_ids, training_counts.tolist(), strict=True) if count < below}
    vectors = dict(zip(tokenizer.item_ids, ItemCache.in_memory(model, tokenizer).pooled().numpy(), strict=True))
    for history, before, after in zip(histories, plain, found, strict=True):
        may = cold - {*history} if only is None else cold & {*only} - {*history}
        added = [item for item in after if item not in before]
        places = round(share * number)
        assert len({*after} & cold) == max(len({*before} & cold), min(places, len(may)))
        assert after == [item for item in before if item in after] + added
        assert {*before} - {*after} <= {*before} - cold  # and of these the last
        left = [item for item in before if item not in cold]
        assert [item for item in left if item in after] == left[: len(left) - len(before) + len(after) - len(added)]
        likeness = {
            item: max(vectors[item] @ vectors[of] for of in history[-tokenizer.max_history :])
            for item in may - {*before}
        }
        best = sorted(likeness.values(), reverse=True)[: len(added)]
        assert [likeness[item] for item in added] == pytest.approx(best, abs=1e-5)


def test_an_item_in_no_catalogue_brings_in_those_that_are_like_it(recommender, tokenizer, training_counts):
    (row, *_) = np.flatnonzero(training_counts < training_counts.max())
    fields = {"text": tokenizer.catalogue["text"][int(row)].as_py()}
    search = {"top_k": 1, "cold_share": 1.0, "cold_below": int(training_counts.max()), "exclude_seen": False}
    (found,) = recommender.recommend([[fields]], **search)
    (same,) = Recommender(
        recommender.model, tokenizer, item_cache=ItemCache.in_memory(recommender.model, tokenizer)
    ).recommend([[fields]], **search)
    assert [item.item_id for item in found] == [item.item_id for item in same]
    assert training_counts[tokenizer.item_rows[found[0].item_id]] < training_counts.max()


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"num_beams": 0}, {"cold_below": 0}, {"cold_share": 1.5}])
def test_numbers_below_one_are_named(recommender, histories, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        recommender.recommend(histories, **wrong)


def test_loaded_folder_recommends_the_same(recommender, model_folder, histories):
    loaded = Recommender.from_pretrained(model_folder, batch_size=4)
    for items, expected in zip(loaded.recommend(histories), recommender.recommend(histories), strict=True):
        assert items_of([items]) == items_of([expected])
        # Weights of another address may be summed in another order.
        assert [item.score for item in items] == pytest.approx([item.score for item in expected], rel=1e-5, abs=1e-5)
    assert not loaded.model.training


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "catalogue.parquet"]
)
def test_missing_file_of_a_model_folder_is_named(model_folder, tmp_path, name):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"model/{name}: no such file"):
        load_model(folder)


def test_damaged_weights_and_missing_trie_are_named(model_folder, model, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"model/model\.safetensors: cannot be read"):
        load_model(folder)
    trie, model.item_trie = model.item_trie, None
    shape = {name: getattr(model.config, name) for name in ("trie_num_items", "trie_num_nodes", "trie_depth")}
    try:
        model.config.update(dict.fromkeys(shape, 0))
        model.save_pretrained(folder)
    finally:
        model.item_trie = trie
        model.config.update(shape)
    with pytest.raises(ValueError, match="item trie has 0 items"):
        load_model(folder)


STRANGER = {"title": "Silk night  balm", "brand": "", "categories": ["Skin Care", "New"]}


def test_an_item_in_no_catalogue_is_prompted_by_its_text(tokenizer):
    (text,), skipped = tokenizer.known_rows([STRANGER])
    assert (text, skipped) == ("title: Silk night balm; categories: Skin Care, New", [])
    bare = tokenizer.catalogue.drop_columns(["similar_items"])
    bare = bare.append_column("similar_items", pa.array([[]] * len(bare), pa.list_(pa.string())))
    without_ids = tokenizer.from_catalogue(tokenizer, bare, max_passage_length=48, with_id_in_item_prompt=False)
    texts = tokenizer.catalogue["text"].to_pylist()
    assert tokenizer.text_prompts(texts) == without_ids.item_prompts


def test_texts_in_a_history_with_and_without_encodings(recommender, model, tokenizer, histories):
    cached = Recommender(model, tokenizer, batch_size=4, item_cache=model.encode_items(tokenizer, progress=False))
    asked = [[STRANGER], [*histories[0][:3], STRANGER], [STRANGER, *histories[0][:3]], ["XXX", STRANGER], histories[1]]
    found = recommender.recommend(asked, top_k=7)
    for one, other, history in zip(found, cached.recommend(asked, top_k=7), asked, strict=True):
        (alone,) = recommender.recommend([history], top_k=7)
        assert items_of([one, other]) == items_of([alone, alone])
        for of in (one, other):
            assert [item.score for item in of] == pytest.approx([item.score for item in alone], rel=1e-4, abs=1e-4)
        assert not one.is_fallback
        assert one.skipped == other.skipped == [item for item in history if item == "XXX"]
        seen = {item for item in history if isinstance(item, str)}
        assert seen.isdisjoint(item.item_id for item in one)
    assert len({tuple(item.score for item in one) for one in found}) == 4, "its place in the history counts"
    with pytest.raises(ValueError, match="item 'XXX' is not in the catalogue"):
        recommender.recommend([["XXX", STRANGER]], skip_unknown=False)
    (strict,) = recommender.recommend([[STRANGER]], top_k=7, skip_unknown=False)
    assert items_of([strict]) == items_of(found[:1])


def test_an_item_of_no_text_is_told(recommender):
    with pytest.raises(ValueError, match=r"histories\[1\]: an item that is given by its fields has no text"):
        recommender.recommend([["B0001"], [{"title": " ", "brand": None}]])


def test_every_way_to_recommend_takes_texts(model, tokenizer, model_folder, recommender, capsys):
    (expected,) = recommender.recommend([["B0003", {"title": "Silk balm"}]], top_k=3)
    pipe = GenerativeRecommendationPipeline(model=model, tokenizer=tokenizer)
    for inputs in (["B0003", {"title": "Silk balm"}], [["B0003", {"title": "Silk balm"}]]):
        found = pipe(inputs, top_k=3)
        found = found if isinstance(inputs[0], str) else found[0]
        assert [item["item_id"] for item in found] == items_of([expected])[0]
    assert pipe([{"title": "Silk balm"}], top_k=3).is_fallback is False
    flags = ["--history", "B0003", "--history-title", "Silk balm", "--top-k", "3"]
    assert cli.main(["recommend", str(model_folder), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[2] for line in lines] == items_of([expected])[0]
