"""Conditions on the fields of a catalogue: against plain Python, from a data folder to what is recommended."""

import datetime
import operator
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram import GramTokenizer
from gram.arguments_gram import items_where
from gram.data import read_folder
from gram.serving.recommendation import Recommender

OPERATORS = {
    **{"=": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge},
    **{"<": operator.lt, ">": operator.gt},
}
NAMES = st.sampled_from(["Comedy", "Drama", "War (1940-45)", "sci-fi", "a.b"])


@given(st.lists(st.none() | st.integers(-3, 3)), st.sampled_from(list(OPERATORS)), st.integers(-6, 6))
def test_numbers_are_compared_as_numbers_be_they_texts_or_not(values, sign, twice):
    value = twice / 2
    expected = [sign == "!=" if each is None else OPERATORS[sign](each, value) for each in values]
    texts = [pa.string(), pa.dictionary(pa.int32(), pa.string())]
    for kind in [pa.int64(), pa.float32(), *(texts if sign not in ("=", "!=") else [])]:
        column = pa.array(values, pa.int64())
        column = column.cast(pa.string()).cast(kind) if kind in texts else column.cast(kind)
        catalogue = pa.table({"price": column})
        assert items_where(catalogue, f"price {sign} {value}").tolist() == expected


@given(st.lists(st.none() | st.lists(NAMES)), NAMES)
def test_a_list_or_a_text_with_commas_has_its_parts(values, name):
    expected = [each is not None and name in each for each in values]
    texts = [None if each is None else ", ".join(each) for each in values]
    plain = pa.array(values, pa.list_(pa.string())), pa.array(texts, pa.string())
    each_once = plain[0].cast(pa.list_(pa.dictionary(pa.int32(), pa.string()))), plain[1].dictionary_encode()
    for column in (*plain, *each_once):
        catalogue = pa.table({"genres": column})
        assert items_where(catalogue, f"genres={name}").tolist() == expected
        assert items_where(catalogue, f"genres != {name}").tolist() == [not met for met in expected]


def test_truth_values_dates_and_whole_texts():
    days = [datetime.date(2020, 1, 1), None, datetime.date(2021, 6, 1)]
    catalogue = pa.table({"in_stock": [True, False, None], "since": days, "brand": ["A, B", "7", "x12"]})
    met = {
        **{"in_stock=true": [True, False, False], "in_stock!=true": [False, True, True]},
        **{"since>=2020-06-01": [False, False, True], "brand=A, B": [True, False, False]},
        **{"brand>5": [False, True, False], "brand=12": [False, False, False]},
    }
    assert {condition: items_where(catalogue, condition).tolist() for condition in met} == met


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        *((wrong, f"{wrong!r} is no condition; write FIELD=VALUE") for wrong in ("price", "=3", "price=", "", 3)),
        ("colour=red", "'colour=red': there is no field 'colour'; there are price, in_stock"),
        ("price<cheap", "'price<cheap': 'cheap' is not a number"),
        ("in_stock=perhaps", "'in_stock=perhaps': 'perhaps' is not of the field's type, bool"),
    ],
)
def test_what_is_no_condition(condition, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        items_where(pa.table({"price": [1], "in_stock": [True]}), condition)


@pytest.fixture(scope="module")
def shop(data_folder, tokenizer, tmp_path_factory):
    """A tokenizer whose catalogue has the fields of `items.parquet`, translated from a folder with that."""
    from gram.translation import TranslationSettings, translate

    folder = tmp_path_factory.mktemp("shop")
    items = read_folder(data_folder).items
    count = len(items)
    fields = {
        "title": items.titles,
        "genres": [["red", "blue"][: row % 3] for row in range(count)],
        "price": [row / 2 if row % 5 else None for row in range(count)],
        "in_stock": [row % 4 > 0 for row in range(count)],
    }
    pq.write_table(pa.table({"item_id": items.item_ids, **fields}), folder / "items.parquet")
    lines = [line.split() for line in (data_folder / "user_sequence.txt").read_text().splitlines()]
    rows = [(user, item, place) for user, *sequence in lines for place, item in enumerate(sequence)]
    log = pa.table(dict(zip(("user_id", "item_id", "time"), zip(*rows, strict=True), strict=True)))
    pq.write_table(log, folder / "interactions.parquet")
    data = read_folder(folder)
    assert data.items.texts[7] == f"title: {items.titles[7]}; genres: red; price: 3.5; in_stock: true"
    settings = TranslationSettings(num_clusters=4, depth=3, num_similar=0)
    translation = translate(data, tokenizer, settings, progress=False)
    return GramTokenizer.from_catalogue(tokenizer, translation.catalogue, max_history=8, max_passage_length=48), fields


def test_fields_keep_their_types_from_the_data_folder_to_a_saved_tokenizer(shop, tmp_path):
    tokenizer, fields = shop
    tokenizer.save_pretrained(tmp_path)
    catalogue = GramTokenizer.from_pretrained(tmp_path).catalogue
    kinds = {"genres": pa.list_(pa.string()), "price": pa.float64(), "in_stock": pa.bool_()}
    for name, kind in kinds.items():
        assert catalogue.schema.field(name).type in (kind, pa.list_(pa.field("element", pa.string())))
        assert catalogue[name].to_pylist() == fields[name]


def test_every_condition_holds_for_what_may_be_recommended(shop):
    tokenizer, fields = shop
    rows = tokenizer.allowed_rows(where=["genres=red", "price<=10", "in_stock=true"], exclude=[tokenizer.item_ids[7]])
    columns = [fields[name] for name in ("genres", "price", "in_stock")]
    met = ["red" in of and price is not None and price <= 10 and there for of, price, there in zip(*columns)]  # noqa: B905
    met[7] = False
    assert rows.tolist() == np.flatnonzero(met).tolist()
    assert tokenizer.allowed_rows(where="genres=red").tolist() == [row for row in range(len(met)) if row % 3]
    assert tokenizer.allowed_rows(where=["price>1000"]).tolist() == []
    assert tokenizer.allowed_rows() is None


def test_recommendations_meet_the_conditions_in_the_order_of_all(model, tokenizer):
    recommender = Recommender(model, tokenizer)
    history, where = [tokenizer.item_ids[:3]], ["title!=X", "brand=" + tokenizer.catalogue["brand"][1].as_py()]
    rows = tokenizer.allowed_rows(where=where)
    assert 0 < len(rows) < len(tokenizer.item_ids)
    (ranking,) = recommender.recommend(history, top_k=len(tokenizer.item_ids))
    (found,) = recommender.recommend(history, where=where)
    allowed = {tokenizer.item_ids[row] for row in rows}
    assert [item.item_id for item in found] == [item.item_id for item in ranking if item.item_id in allowed][:10]
