"""What becomes of the items' texts, whatever file they come from: what people would read, without mark-up."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram.data import read_folder
from gram.data.prepare import PrepareSettings, prepare
from gram.data.sources.lines import clean

from .raw_data import json_lines, raw


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("wool &amp;amp; silk", "wool & silk"),
        ("Tom&#39;s &quot;B&quot;", 'Tom\'s "B"'),
        ("AT&T, R&D; food&region", "AT&T, R&D; food&region"),
        ('<span class="a-size">Red shoe</span>', "Red shoe"),
        ("&lt;b&gt;Bold&lt;/b&gt;<br/>new", "Bold new"),
        ("<script>var a = 1 < 2;</script>Shoe<style>p {}", "Shoe"),
        ("Shoe <!-- a comment -->", "Shoe"),
        ("I <3 <Artist>, a < b > c", "I <3 <Artist>, a < b > c"),
        ("['A', 'B & C']", "A, B & C"),
        ('["A", null, "it\'s"]', "A, it's"),
        ("['A' 'B']", "A, B"),
        ("[['A', 'B'], ['C']]", "A, B, C"),
        ("[]", ""),
        ("[None]", ""),
        ("[Blu-ray] ['x'", "[Blu-ray] ['x'"),
        ("[2012]", "[2012]"),
        *((name, "") for name in ("nan", "NaN", "None", "null", "<NA>", "NaT", " nan ", "<b>None</b>")),
        ("None of them", "None of them"),
        ("a\x00b\u2028c\x85 d", "a b c d"),
        ("hat \ud83d", "hat \ufffd"),
        ("\ude0a \ud83d\ude00 \ud83dx", "\ufffd \U0001f600 \ufffdx"),
    ],
)
def test_texts_are_as_people_would_read_them(written, text):
    assert clean(written) == text
    assert clean(text) == text


@given(st.text(st.sampled_from("ab &;<>/['\",]()#3\\\n\ud83d\ude00"), max_size=40))
def test_a_clean_text_stays_so(text):
    once = clean(text)
    assert once == " ".join(once.split())
    once.encode()
    assert clean(once) == once


WILD = "<b>Salt</b> &amp;amp; None's \ud83d"
TAME = "Salt & None's \ufffd"
FILES_OF_ITEMS = {
    "amazon2014": ("meta_Beauty.json", {"asin": "1", "title": WILD, "brand": "nan"}),
    "amazon2023": ("meta_All_Beauty.jsonl", {"parent_asin": "1", "title": WILD, "store": float("nan")}),
    "yelp": ("yelp_academic_dataset_business.json", {"business_id": "1", "name": WILD, "categories": None}),
    "table_jsonl": ("goods.jsonl", {"id": 1, "name": WILD, "kind": [None, "nan"]}),
}


@pytest.mark.parametrize("name", FILES_OF_ITEMS)
def test_all_formats_of_records_clean_texts_alike(name, tmp_path):
    settings, _ = raw(name, tmp_path / "raw")
    file, record = FILES_OF_ITEMS[name]
    key = next(iter(record))
    others = [{**record, key: type(record[key])(number)} for number in (2, 3)]
    (tmp_path / "raw" / file).write_text(json_lines([record, *others]))
    (tmp_path / "raw" / f"{file}.gz").unlink(missing_ok=True)
    if "items" in settings:
        settings["items"] = str(tmp_path / "raw" / file)
    prepare(PrepareSettings(**settings), tmp_path / "out")
    assert read_folder(tmp_path / "out").items.texts == [f"title: {TAME}"] * 3


@pytest.mark.parametrize(
    "name",
    [
        "movielens_100k",
        "movielens_1m",
        "movielens_20m",
        "recbole",
        "table_csv",
        "table_tsv",
        "table_parquet",
        "folder_text",
    ],
)
def test_all_formats_of_tables_clean_texts_alike(name, tmp_path):
    settings, texts = raw(name, tmp_path / "raw")
    if name == "table_parquet":
        table = pq.read_table(settings["items"])
        names = pa.array([title.replace("Blush", "<i>Bl&uuml;sh</i>") for title in table["name"].to_pylist()])
        pq.write_table(table.set_column(1, "name", names), settings["items"])
    else:
        for path in (tmp_path / "raw").iterdir():
            packed = path.suffix == ".gz"
            content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
            for word in (b"Blush", b"Blink", b"Lipstick"):
                content = content.replace(word, b"<i>Bl&uuml;sh</i>")
            path.write_bytes(gzip.compress(content) if packed else content)
    prepare(PrepareSettings(**settings), tmp_path / "out")
    expected = [text.replace("Blush", "Blüsh").replace("Blink", "Blüsh").replace("Lipstick", "Blüsh") for text in texts]
    assert read_folder(tmp_path / "out").items.texts == expected


def test_the_amazon_files_of_2018_have_names_of_their_own(tmp_path):
    settings, _ = raw("amazon2014", tmp_path / "raw")
    meta = {"category": ["Clothing", "Shoes"], "title": "Shoe", "description": ["made of", "wool"], "feature": ["warm"]}
    path = tmp_path / "raw" / "meta_Beauty.json"
    path.write_text(json_lines([{**meta, "asin": item} for item in "123"]))
    (tmp_path / "raw" / "meta_Beauty.json.gz").unlink()
    prepare(PrepareSettings(**settings), tmp_path / "out")
    texts = read_folder(tmp_path / "out").items.texts
    assert texts == ["title: Shoe; categories: Clothing > Shoes; description: made of wool; features: warm"] * 3


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
@pytest.mark.parametrize(("name", "file"), [("movielens_100k", "u.item"), ("movielens_1m", "movies.dat")])
def test_movielens_is_read_in_its_own_encoding(name, file, encoding, tmp_path):
    settings, texts = raw(name, tmp_path / "raw")
    path = tmp_path / "raw" / file
    path.write_bytes(path.read_bytes().decode("latin-1").encode(encoding))
    prepare(PrepareSettings(**settings), tmp_path / "out")
    assert read_folder(tmp_path / "out").items.texts == texts


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ("name=title,class=genres", "title: Red lipstick; genres: Lips, Gifts"),
        ("name,class", "name: Red lipstick; class: Lips, Gifts"),
        ("name:token_seq,class:token_seq", "name: Red lipstick; class: Lips, Gifts"),
    ],
)
def test_the_first_text_of_recbole_is_no_list(columns, text, tmp_path):
    settings, _ = raw("recbole", tmp_path / "raw")
    settings |= {"text_columns": columns, "user_column": "user_id:token"}
    prepare(PrepareSettings(**settings), tmp_path / "out")
    assert read_folder(tmp_path / "out").items.texts[0] == text
