"""Every format that `gram prepare` reads: what comes of it, and what is said of a line that is wrong."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gram.data import read_folder
from gram.data.prepare import PrepareSettings, prepare
from gram.data.sources.lines import Reading, lines

from .raw_data import FORMATS, SEQUENCES, START, TABLE, raw


def prepared(settings, output):
    """The data, and the report, of settings as a dictionary."""
    report = prepare(PrepareSettings(**settings), output)
    return read_folder(output), report


def sequences_of(data):
    item_ids = data.items.item_ids
    return {
        user: [item_ids[row] for row in rows]
        for user, rows in zip(data.interactions.user_ids, data.interactions, strict=True)
    }


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_sequences_and_its_texts(name, tmp_path):
    settings, texts = raw(name, tmp_path / "raw")
    data, report = prepared(settings, tmp_path / "out")
    assert list(sequences_of(data).items()) == list(SEQUENCES.items())
    assert data.items.item_ids == ["1", "2", "3"]
    assert data.items.texts == texts
    times = pq.read_table(tmp_path / "out" / "interactions.parquet")["time"].to_pylist()
    expected = [0, 1, 2, 0, 1, 2, 3, 0, 1, 2] if name in ("folder_text", "folder_authors") else None
    assert times == (expected or [START + time for time in (0, 86_400, 172_800, 0, 10, 20, 30, 5, 5, 50)])
    assert report.facts["inputs"]
    assert all(len(file["sha256"]) == 64 and "/" not in file["file"] for file in report.facts["inputs"])


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith(("folder", "hub", "table"))])
def test_low_ratings_are_dropped(name, tmp_path):
    settings, _ = raw(name, tmp_path / "raw")
    data, report = prepared({**settings, "min_rating": 3}, tmp_path / "out")
    assert sequences_of(data) == {"1": ["1", "2", "3"], "2": ["3", "1", "2"]}
    assert [(stage.name, stage.dropped) for stage in report.stages][1] == ("rating from 3", 2)


# Format, file, line, what is put in there, what is said.
WRONG_LINES = [
    ("amazon2014", "reviews_Beauty.json.gz", 2, "{'asin': 1, ", "not JSON"),
    ("amazon2014", "reviews_Beauty.json.gz", 2, '{"asin": 1, "asin": 2}', "two values of the name asin"),
    ("amazon2014", "reviews_Beauty.json.gz", 2, "[]", "not a JSON object"),
    (
        "amazon2014",
        "reviews_Beauty.json.gz",
        2,
        '{"reviewerID": "1", "asin": "2"}',
        "unixReviewTime is missing; add it",
    ),
    (
        "amazon2014",
        "reviews_Beauty.json.gz",
        2,
        '{"reviewerID": "a b", "asin": "2", "unixReviewTime": 1}',
        "user id 'a b' holds a space or a control character; give",
    ),
    ("amazon2014", "meta_Beauty.json.gz", 4, "__import__('os').system('false')", "not a Python literal (ValueError)"),
    ("amazon2014", "meta_Beauty.json.gz", 4, "{'asin': '1', 'title': ", "not a Python literal (SyntaxError)"),
    ("amazon2014", "meta_Beauty.json.gz", 4, "[1]", "not a JSON object"),
    ("amazon2014", "meta_Beauty.json.gz", 4, "{'title': 'x'}", "asin is missing"),
    ("amazon2014", "meta_Beauty.json.gz", 4, "{'asin': 'B 4', 'title': 'x'}", "item id 'B 4' holds a space"),
    ("amazon2014", "meta_Beauty.json.gz", 4, "{'asin': '4', 'title': {}}", "'{}' is no text"),
    ("amazon2023", "All_Beauty.jsonl.gz", 3, '{"user_id": "1", ', "not JSON"),
    ("amazon2023", "All_Beauty.jsonl.gz", 3, '{"user_id": "1", "timestamp": 1}', "parent_asin is missing"),
    ("amazon2023", "meta_All_Beauty.jsonl", 1, '{"title": "x"}', "parent_asin is missing"),
    ("yelp", "yelp_academic_dataset_review.json", 1, "x", "not JSON"),
    (
        *("yelp", "yelp_academic_dataset_review.json", 1),
        *('{"user_id": "1", "business_id": "1", "date": "2019-13-01"}', "time is missing, or neither a number nor a"),
    ),
    ("yelp", "yelp_academic_dataset_business.json", 2, '{"business_id": ""}', "item id is empty"),
    ("movielens_100k", "u.data", 4, "1\t2\t3", "3 columns by '\\t', not 4"),
    ("movielens_100k", "u.data", 4, "1\t2\t3\tyesterday", "time is missing"),
    ("movielens_100k", "u.item", 2, "2|Blink|1994", "3 columns by '|', not 24"),
    ("movielens_1m", "ratings.dat", 4, "1::2::3", "3 columns by '::', not 4"),
    ("movielens_1m", "movies.dat", 2, "2:Blink", "1 columns by '::', not 3"),
    ("movielens_20m", "ratings.csv", 4, "1,2,3", "3 columns, the header has 4"),
    ("movielens_20m", "movies.csv", 3, '2,"Blink"x,', "not a row of the table"),
    ("recbole", "shop.inter", 4, "1\t2\t3", "3 columns, the header has 4"),
    ("recbole", "shop.inter", 4, "1\t2\t3\t", "time is missing"),
    ("recbole", "shop.item", 2, "1 a\tx\t1\tx", "item id '1 a' holds a space"),
    ("table_csv", "log.csv", 2, "1,2019-01-01", "2 columns, the header has 3"),
    ("table_csv", "log.csv", 2, "1,,2", "time is missing"),
    ("table_csv", "goods.csv.gz", 5, '"Red",1', "2 columns, the header has 3"),
    ("table_tsv", "log.tsv.gz", 2, "1\t\u00a0\t5", "item id '\\xa0' holds a space"),
    ("table_jsonl", "log.jsonl", 2, '{"who": 1.5, "what": true, "when": 1}', "what is 'True', neither text nor a"),
    ("table_jsonl", "goods.jsonl.gz", 4, '{"id": 4, "name": {"en": "x"}}', "is no text"),
    ("folder_text", "user_sequence.txt", 4, "4", "user 4 has no items"),
    ("folder_text", "user_sequence.txt", 4, "1 2 3", "user 1 has a line already; join the two"),
    ("folder_text", "item_text.tsv", 5, "4", "1 columns, the header has 3"),
    ("folder_authors", "item_plain_text.txt", 4, "4 A film", "item 4: the text starts with none of title, brand"),
    *(
        (name, file, 2, b"\xff\xfe", "not UTF-8 (byte 0xff at place 1); save the file as UTF-8")
        for name, file in {
            "amazon2014": "meta_Beauty.json.gz",
            "amazon2023": "meta_All_Beauty.jsonl",
            "yelp": "yelp_academic_dataset_review.json",
            "movielens_20m": "movies.csv",
            "recbole": "shop.item",
            "table_csv": "log.csv",
            "table_tsv": "goods.tsv",
            "table_jsonl": "log.jsonl",
            "folder_text": "user_sequence.txt",
            "folder_authors": "item_plain_text.txt",
        }.items()
    ),
]


def insert(path, number, line):
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = content.splitlines(keepends=True)
    lines[number - 1 : number - 1] = [(line if isinstance(line, bytes) else line.encode()) + b"\n"]
    content = b"".join(lines)
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(("name", "file", "number", "line", "message"), WRONG_LINES)
def test_a_wrong_line_is_named_or_skipped_and_counted(name, file, number, line, message, tmp_path):
    settings, _ = raw(name, tmp_path / "raw")
    insert(tmp_path / "raw" / file, number, line)
    with pytest.raises(ValueError) as error:
        prepared(settings, tmp_path / "out")
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'raw' / file}:{number}: ")
    assert message in said
    assert said.endswith(", or pass --skip-bad-lines")
    assert "\n" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]

    data, report = prepared({**settings, "skip_bad_lines": True}, tmp_path / "out")
    assert sequences_of(data) == SEQUENCES
    assert report.facts["bad_lines"]["count"] == 1
    (shown,) = report.facts["bad_lines"]["first"]
    assert shown.startswith(f"{file}:{number}: ")
    assert shown in str(report)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *(("amazon2014", "reviews_Beauty.json.gz"), ("amazon2014", "meta_Beauty.json.gz")),
        *(("amazon2023", "All_Beauty.jsonl.gz"), ("table_csv", "goods.csv.gz"), ("table_tsv", "log.tsv.gz")),
    ],
)
def test_a_truncated_gzip_ends_the_file(name, file, tmp_path):
    settings, _ = raw(name, tmp_path / "raw")
    path = tmp_path / "raw" / file
    path.write_bytes(path.read_bytes()[:-4])  # all lines are there, the end is not
    with pytest.raises(ValueError, match=rf"{file}:\d+: the gzip file ends early; get the file again, or pass"):
        prepared(settings, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    _, report = prepared({**settings, "skip_bad_lines": True}, tmp_path / "out")
    assert report.facts["bad_lines"]["count"] == 1


def test_lines_before_a_break_in_a_gzip_file_are_kept(tmp_path):
    path = tmp_path / "long.csv.gz"
    draw = random.Random(0)
    packed = gzip.compress("".join(f"{number},{draw.random()}\n" for number in range(200_000)).encode(), mtime=0)
    path.write_bytes(packed[: len(packed) // 2])
    reading = Reading(skip_bad_lines=True)
    numbers = [number for number, _ in lines(path, reading)]
    assert 50_000 < len(numbers) < 150_000
    assert reading.shown == [f"long.csv.gz:{len(numbers) + 1}: the gzip file ends early"]


def test_long_files_come_in_several_batches(tmp_path):
    (tmp_path / "raw").mkdir()
    rows = [(f"u{row % 7}", f"i{row % 11}", row) for row in range(70_000)]
    (tmp_path / "raw" / "log.tsv").write_text("who\twhat\twhen\n" + "".join(f"{u}\t{i}\t{t}\n" for u, i, t in rows))
    (tmp_path / "raw" / "goods.tsv").write_text("id\tname\n" + "".join(f"i{item}\tItem {item}\n" for item in range(11)))
    places = {"interactions": str(tmp_path / "raw" / "log.tsv"), "items": str(tmp_path / "raw" / "goods.tsv")}
    data, _ = prepared({"format": "table", **places, **TABLE, "text_columns": "name=title"}, tmp_path / "out")
    found = sequences_of(data)
    assert found == {f"u{user}": [item for other, item, _ in rows if other == f"u{user}"] for user in range(7)}


def test_a_file_that_is_not_gzip_is_named(tmp_path):
    settings, _ = raw("amazon2014", tmp_path / "raw")
    (tmp_path / "raw" / "meta_Beauty.json.gz").write_text("{'asin': '1', 'title': 'x'}\n")
    with pytest.raises(ValueError, match=r"meta_Beauty\.json\.gz:1: not a sound gzip file"):
        prepared(settings, tmp_path / "out")


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_file_is_named(name, tmp_path):
    settings, _ = raw(name, tmp_path / "raw")
    files = [path for path in sorted((tmp_path / "raw").rglob("*")) if path.is_file() and path.name != "prepare.json"]
    for path in files if name != "folder_parquet" else files[:2]:
        if name == "hub" and path.parent.name == "goods":  # the README is no data
            continue
        content = path.read_bytes()
        path.unlink()
        with pytest.raises((FileNotFoundError, ValueError)) as error:
            prepared(settings, tmp_path / "out")
        assert str(tmp_path / "raw") in str(error.value)
        assert ";" in str(error.value)
        assert "\n" not in str(error.value)
        path.write_bytes(content)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("recbole", {"time_column": "time"}, "shop.inter:1: column time is missing; name one of user_id, item_id"),
        ("recbole", {"text_columns": "title"}, "shop.item:1: column title is missing; name one of item_id, name"),
        ("recbole", {"text_columns": None}, "--text-columns is required for format recbole"),
        ("recbole", {"text_columns": "name,name"}, "text_columns is 'name,name'; it must be"),
        ("recbole", {"text_columns": "item_id"}, "text_columns is 'item_id'; it must be"),
        ("recbole", {"min_rating": 1, "rating_column": "user_id"}, "two of user_column, item_column"),
        ("table_csv", {"user_column": "user"}, "log.csv:1: column user is missing; name one of what, when, who"),
        ("table_csv", {"items": None}, "--items is required for format table"),
        ("table_csv", {"interactions": "log.xlsx"}, "log.xlsx: no such file"),
        ("table_jsonl", {"text_columns": "headline"}, "goods.jsonl.gz:1: column headline is missing, in all lines"),
        ("table_jsonl", {"min_rating": 2}, "log.jsonl:1: rating is missing"),
        ("table_parquet", {"time_column": "time"}, "log.parquet:1: column time is missing; name one of who, what"),
        ("hub", {"time_column": "time"}, "log: column time is missing; name one of who, what"),
        ("hub", {"interactions": "./nowhere"}, "./nowhere: no such folder; give one, or a name on the Hub"),
        ("hub", {"interactions": "some/nowhere"}, "some/nowhere: cannot be read"),
        ("hub", {"interactions": "a:b:c:d"}, "a:b:c:d: not of the form NAME, NAME:CONFIG or NAME:CONFIG:SPLIT"),
        ("folder_text", {"min_rating": 2}, "min_rating is set, but data folders hold no ratings"),
        ("folder_text", {"since": "2019-01-01"}, "user_sequence.txt: there are no times"),
        ("folder_text", {"split": "global-time"}, "user_sequence.txt: there are no times"),
        ("folder_text", {"input": None}, "--input is required for format folder"),
        ("yelp", {"input": "nowhere"}, "nowhere: no such folder; give the one with the yelp files"),
        ("movielens_1m", {"input": "."}, ".: no u.data, ratings.dat or ratings.csv"),
    ],
)
def test_settings_that_do_not_fit_the_files(name, wrong, message, tmp_path):
    settings, _ = raw(name, tmp_path / "raw")
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        prepared({**settings, **wrong}, tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_several_files_of_a_kind_ask_for_a_choice(tmp_path):
    settings, _ = raw("amazon2014", tmp_path / "raw")
    reviews = tmp_path / "raw" / "reviews_Beauty.json.gz"
    (tmp_path / "raw" / "reviews_Toys.json.gz").write_bytes(reviews.read_bytes())
    with pytest.raises(ValueError, match=r"several files hold interactions: .*; name one with --interactions"):
        prepared(settings, tmp_path / "out")
    data, _ = prepared({**settings, "interactions": str(reviews)}, tmp_path / "out")
    assert sequences_of(data) == SEQUENCES


def test_rows_of_parquet_are_checked_like_lines(tmp_path):
    settings, _ = raw("table_parquet", tmp_path / "raw")
    log = pa.table({"who": ["1", None, "1"], "what": [1, 2, 3], "when": [1.5, 2.5, None]})
    pq.write_table(log, settings["interactions"])
    with pytest.raises(ValueError, match=r"log\.parquet:2: user id is empty; give"):
        prepared(settings, tmp_path / "out")
    pq.write_table(log.set_column(0, "who", pa.array([0.5, 1.5, 2.5])), settings["interactions"])
    with pytest.raises(ValueError, match=r"log\.parquet: the user ids are of type double; give every id as text"):
        prepared(settings, tmp_path / "out")
    (tmp_path / "raw" / "log.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"log\.parquet: not a sound Parquet file"):
        prepared(settings, tmp_path / "out")


def test_only_the_first_bad_lines_are_listed(tmp_path):
    settings, _ = raw("yelp", tmp_path / "raw")
    path = tmp_path / "raw" / "yelp_academic_dataset_review.json"
    path.write_text("bad\n" * 30 + path.read_text())
    _, report = prepared({**settings, "skip_bad_lines": True}, tmp_path / "out")
    bad_lines = json.loads((tmp_path / "out" / "prepare.json").read_text())["bad_lines"]
    assert bad_lines["count"] == 30
    assert len(bad_lines["first"]) == 20
    assert "30 bad lines were skipped, the first of them:" in str(report)


def test_a_data_set_of_the_hub_is_pinned_to_its_commit(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    settings, _ = raw("hub", tmp_path / "raw")
    load, asked = datasets.load_dataset_builder, []

    def load_dataset_builder(path, name, revision):
        asked.append((path, name, revision))
        return load(str(tmp_path / "raw" / "log"), name)

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, name: huggingface_hub.DatasetInfo(id=name, sha="c0ffee")
    )
    with pytest.raises(ValueError, match="some/goods: column id is missing"):
        prepared({**settings, "interactions": "some/log", "items": "some/goods"}, tmp_path / "out")
    assert asked == [("some/log", None, "c0ffee"), ("some/goods", None, "c0ffee")]
