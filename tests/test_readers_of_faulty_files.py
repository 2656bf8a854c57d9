"""Files with the faults that logs and catalogues have in the wild: the right answer, or one line that names it."""

from decimal import Decimal
from pathlib import Path

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram.data import read_folder
from gram.data.prepare import PrepareSettings, prepare
from gram.training.facts import data_facts
from gram.translation.given import read_lexical_ids, read_similar_items

from .raw_data import json_lines

CASES = Path(__file__).parents[1].parent / "shared" / "cases"
START = 1_600_000_000
ITEMS = ("i1", "i2", "i3")


def csv(header, rows):
    return header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


LOG = [("u", item, START + place) for place, item in enumerate(ITEMS)]
GOODS = [(item, f"Tool {item}") for item in ITEMS]
LOG_CSV, GOODS_CSV = csv("user_id,item_id,timestamp", LOG), csv("item_id,title", GOODS)
LOG_RECORDS = [dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)) for row in LOG]
GOODS_RECORDS = [dict(zip(("item_id", "title"), row, strict=True)) for row in GOODS]


@pytest.fixture
def prepared(tmp_path):
    """Prepares two tables, given as text, bytes or Arrow tables; returns the data and the report."""

    def of(log=LOG_CSV, goods=GOODS_CSV, suffix="csv", output="out", **settings):
        places = {}
        for name, content in (("interactions", log), ("items", goods)):
            kind = "parquet" if isinstance(content, pa.Table) else suffix
            path = tmp_path / f"{name}.{kind}"
            if isinstance(content, pa.Table):
                pq.write_table(content, path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            places[name] = str(path)
        given = {"format": "table", "text_columns": "title", "user_core": 0, "item_core": 0, **places, **settings}
        report = prepare(PrepareSettings(**given), tmp_path / output)
        return read_folder(tmp_path / output), report

    return of


@pytest.fixture
def refused(prepared):
    """What is said of two tables: one line, and no traceback of a library."""

    def of(*tables, **settings):
        with pytest.raises(ValueError) as error:
            prepared(*tables, **settings)
        said = str(error.value)
        assert type(error.value) is ValueError
        assert "\n" not in said
        assert ";" in said  # the remedy
        return said

    return of


def test_data_with_a_damaged_report_are_those_of_no_report(prepared):
    data, _ = prepared()
    assert data_facts(data)["prepared"]
    (data.folder / "prepare.json").write_text("{")
    assert data_facts(read_folder(data.folder))["prepared"] is None


def log_with(**columns):
    """The log as Arrow columns, some of them others."""
    users, items, times = zip(*LOG, strict=True)
    return pa.table({"user_id": users, "item_id": items, "timestamp": times, **columns})


TOOLS = [(f"i{number}", f"Tool {number}") for number in range(1, 41)]
TOOLS_LOG = csv("user_id,item_id,timestamp", [("u", f"i{number}", START + number) for number in range(1, 41)])


@pytest.mark.parametrize(
    ("format", "titles"),
    [
        ("table", {3: '"5 inch nail'}),
        ("table", {20: '"5 inch nail'}),
        ("table", {40: '"5 inch nail'}),
        ("table", {3: '"5 inch nail', 30: '7 inch"'}),
        ("table", {3: '"5 inch nail', 30: '"7 inch nail'}),
        ("table", {3: '"5 inch nail', 4: '"7 inch, quoted"'}),
        ("hub", {3: '"5 inch nail', 30: '7 inch"'}),
    ],
)
def test_a_stray_quote_costs_the_lines_where_quotes_open_and_no_other(format, titles, prepared, refused, tmp_path):
    goods = csv("item_id,title", [(item, titles.get(number, title)) for number, (item, title) in enumerate(TOOLS, 1)])
    places = {}
    if format == "hub":
        for name, content in (("interactions", TOOLS_LOG), ("items", goods)):
            (tmp_path / name).mkdir()
            (tmp_path / name / "train.csv").write_text(content)
            places[name] = str(tmp_path / name)
    said = refused(TOOLS_LOG, goods, format=format, **places)
    assert f".csv:{min(titles) + 1}: a quote opens here" in said
    data, report = prepared(TOOLS_LOG, goods, format=format, skip_bad_lines=True, **places)
    lost = [number for number, title in titles.items() if title.count('"') == 1 and title[0] == '"']
    assert report.facts["bad_lines"]["count"] == len(lost)
    assert [line.split(":")[1] for line in report.facts["bad_lines"]["first"]] == [str(number + 1) for number in lost]
    assert sorted(data.items.item_ids) == sorted(f"i{number}" for number in range(1, 41) if number not in lost)


def test_a_stray_quote_in_the_log_costs_one_interaction(prepared):
    data, report = prepared(TOOLS_LOG.replace("u,i7,", '"u,i7,'), csv("item_id,title", TOOLS), skip_bad_lines=True)
    assert len(data.interactions.items) == 39
    assert (report.stages[0].interactions, report.stages[0].dropped) == (39, 1)


def test_fields_of_several_lines_are_read(prepared):
    goods = 'item_id,title\ni1,"Red\n\nlipstick, new\nBuy now"\ni2,"A ""b""\nc,d"\ni3,"' + "long\n" * 2000 + '"\n'
    texts = prepared(goods=goods)[0].items.texts
    assert texts[:2] == ["title: Red lipstick, new Buy now", 'title: A "b" c,d']
    assert texts[2].count("long") == 2000


def test_a_field_may_be_long(prepared):
    goods = csv("item_id,title", [("i1", "word " * 40_000), *GOODS[1:]])
    assert len(prepared(goods=goods)[0].items.texts[0]) > 199_000


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"user_id,item_id,timestamp,item_id", "interactions.csv:1: two columns are named item_id; rename one"),
        (b"user_id:token,item_id:token,timestamp,item_id:float", "csv:1: two columns are named item_id; rename one"),
        (b'"user_id,item_id,timestamp', "interactions.csv:1: a quote opens here"),
        (b"us\xe9r_id,item_id,timestamp", "interactions.csv:1: not UTF-8 (byte 0xe9 at place 3)"),
        (b"user_id;item_id;timestamp", "interactions.csv:1: column user_id is missing; name one of user_id;item_id"),
    ],
)
def test_a_wrong_header_is_never_skipped(header, message, refused):
    for skip in (False, True):
        assert message in refused(header + LOG_CSV[25:].encode(), skip_bad_lines=skip)


def test_two_columns_of_one_name_are_refused_in_parquet_and_json(refused, prepared):
    twice = pa.table([["u"], ["a"], [1], ["b"]], names=["user_id", "item_id", "timestamp", "item_id"])
    assert "two columns are named item_id" in refused(twice)
    repeated = '{"user_id": "u", "item_id": "a", "item_id": "b", "timestamp": 1}\n' + json_lines(LOG_RECORDS)
    goods = json_lines(GOODS_RECORDS)
    assert "jsonl:1: two values of the name item_id" in refused(repeated, goods, "jsonl")


def test_marks_of_windows_and_empty_trailing_cells_do_no_harm(prepared):
    log = "\ufeff" + LOG_CSV.replace("\n", "\r\n")
    goods = "\n" + GOODS_CSV.replace("i1,Tool i1", "i1,Tool\0 i1,,")
    assert prepared(log, goods)[0].items.titles == ["Tool i1", "Tool i2", "Tool i3"]


MILLISECONDS = [(user, item, time * 1000) for user, item, time in LOG]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "text"])
def test_the_unit_of_times_is_judged_by_their_years(kind, prepared, refused):
    def table(rows):
        if kind == "csv":
            return csv("user_id,item_id,timestamp", rows), GOODS_CSV
        records = [dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)) for row in rows]
        if kind == "jsonl":
            return json_lines(records), json_lines(GOODS_RECORDS), "jsonl"
        log = pa.Table.from_pylist(records)
        times = log["timestamp"].cast(pa.string() if kind == "text" else pa.int64())
        return log.set_column(2, "timestamp", times), GOODS_CSV

    said = refused(*table(MILLISECONDS))
    assert f"time {START * 1000} is in the year 52671 if it counts seconds; pass --time-unit ms if" in said
    said = refused(*table(LOG), time_unit="ms")
    assert f"time {START} is in 1970 if it counts milliseconds; pass --time-unit s if" in said
    mixed = [*LOG[:2], MILLISECONDS[2]]
    line = 4 if kind == "csv" else 3
    assert f":{line}: time {(START + 2) * 1000} is in the year" in refused(*table(mixed))
    assert f":{line - 2}: time {START} is in 1970" in refused(*table(mixed), time_unit="ms")
    assert prepared(*table(MILLISECONDS), time_unit="ms")[0].items.item_ids == list(ITEMS)


def test_lines_that_are_all_bad_say_why(refused):
    said = refused(csv("user_id,item_id,timestamp", MILLISECONDS), skip_bad_lines=True)
    assert "no interactions; all lines were skipped, the first of them interactions.csv:2: time" in said


@pytest.mark.parametrize(
    "times",
    [
        pa.array([START, START + 1, START + 2], pa.timestamp("s", "Europe/Berlin")).cast(
            pa.timestamp("ns", "Asia/Tokyo")
        ),
        pa.array([START, START + 1, START + 2], pa.timestamp("s")).cast(pa.timestamp("ms")),
        pa.array([Decimal(START), Decimal(START + 1), Decimal(START + 2)]),
        pa.array([START, START + 1, START + 2], pa.uint64()).dictionary_encode(),
        pa.array(["2020-09-13T12:26:40Z", " 1600000001 ", "2020-09-13 14:26:42+02:00"]),
        pa.array([b"2020-09-13", b"2020-09-13 12:26:41", b"2020-09-13 12:26:42.000000000"]),
    ],
)
def test_times_of_many_types_are_one_time(times, prepared, tmp_path):
    prepared(log_with(timestamp=times))
    found = pq.read_table(tmp_path / "out" / "interactions.parquet")["time"].to_pylist()
    assert found[1:] == [START + 1, START + 2]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (pa.array([1, 2, 3], pa.duration("s")), "the times are of type duration[s]; make them numbers or dates"),
        (pa.array([1, 2, 3], pa.time64("us")), "the times are of type time64[us]; make them numbers or dates"),
        (pa.array([True] * 3), "the times are of type bool"),
        (pa.array([[1]] * 3), "the times are of type list<"),
        (
            pa.array(np.full(3, START, dtype=np.float32)),
            "of type float, which rounds them to minutes; make them double",
        ),
        (pa.array([1, None, 3], pa.timestamp("s")), "parquet:2: time is missing"),
        (pa.array([START, -(2**63), START]), "parquet:2: time -9223372036854775808 is in the year -2922770"),
        (pa.array(["2020-01-01", "NaT", "x"]), "parquet:2: time is missing, or neither a number nor a date"),
        (pa.array(["2020-01-01", "9999-12-31", "x"]), "parquet:2: time 9999-12-31 is in the year 9999; give one"),
    ],
)
def test_what_can_be_no_time_is_refused(times, message, refused):
    assert message in refused(log_with(timestamp=times))


GOODS_BY_NUMBER = csv("item_id,title", [(number, f"Tool {number}") for number in (1, 2, 3)])


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([1, 2, 3], pa.uint8()),
        pa.array([1.0, 2.0, 3.0]),
        pa.array([1.0, 2.0, 3.0], pa.float32()),
        pa.array([Decimal("1.00"), Decimal("2.00"), Decimal("3.00")]),
        pa.array([1, 2, 3]).dictionary_encode(),
        pa.array(["1", "2", "3"], pa.large_string()),
        pa.array([b"1", b"2", b"3"]),
    ],
)
def test_whole_numbers_are_ids_in_every_type(ids, prepared):
    assert prepared(log_with(item_id=ids), GOODS_BY_NUMBER)[0].items.item_ids == ["1", "2", "3"]


def test_whole_numbers_of_json_are_ids_as_floats_too(prepared):
    log = json_lines([{**record, "item_id": float(place)} for place, record in enumerate(LOG_RECORDS, 1)])
    goods = json_lines([{"item_id": number, "title": "Tool"} for number in (1, 2, 3)])
    assert prepared(log, goods, "jsonl")[0].items.item_ids == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pa.array([1.0, 2.5, 3.0]), "the item ids are of type double; give every id as text"),
        (pa.array([1.0, 2.0, 2.0**53]), "the item ids are of type double; give every id as text"),
        (pa.array([1.0, 2.0, 2.0**24], pa.float32()), "the item ids are of type float; give every id as text"),
        (pa.array([Decimal("1.5")] * 3), "the item ids are of type decimal128(2, 1)"),
        (pa.array([True] * 3), "the item ids are of type bool"),
        (pa.array([1, 2, 3], pa.timestamp("s")), "the item ids are of type timestamp"),
        (pa.array([1.0, float("nan"), 3.0]), "parquet:2: item id is empty"),
        (pa.array([b"1", b"\xff", b"3"]), "column item_id is not UTF-8"),
        *(
            (pa.array(["1", name, "3"]), f"parquet:2: item id {name!r} stands for a missing value")
            for name in ("nan", "None", "null", "<NA>", "NaT")
        ),
        *(
            (pa.array(["1", name, "3"]), f"parquet:2: item id {name!r} holds a space or a control")
            for name in ("2\x1cx", "2\0", "2\u2028", "\x85")
        ),
    ],
)
def test_what_can_be_no_id_is_refused(ids, message, refused):
    assert message in refused(log_with(item_id=ids), GOODS_BY_NUMBER)


@pytest.mark.parametrize("name", [None, float("nan"), "nan", "<NA>", "\ud83d", "a\x1cb", True, []])
def test_json_without_an_id_is_a_bad_line_of_both_files(name, refused, prepared):
    log = json_lines([*LOG_RECORDS, {**LOG_RECORDS[0], "item_id": name}])
    goods = json_lines([*GOODS_RECORDS, {"item_id": name, "title": "x"}])
    assert "interactions.jsonl:4: item" in refused(log, goods, "jsonl")
    assert "items.jsonl:4: item" in refused(json_lines(LOG_RECORDS), goods, "jsonl")
    data, report = prepared(log, goods, "jsonl", skip_bad_lines=True)
    assert data.items.item_ids == list(ITEMS)
    assert report.facts["bad_lines"]["count"] == 2


def test_data_folders_hold_to_the_same_rule_of_ids(tmp_path):
    for wrong in ("nan", "a\x07b"):
        (tmp_path / "item_text.tsv").write_text(f"item_id\ttitle\n{wrong}\tTool\n")
        with pytest.raises(ValueError, match=r"item_text\.tsv:2: item id '.*' (stands for|holds)"):
            read_folder(tmp_path)
        (tmp_path / "item_text.tsv").write_text("item_id\ttitle\na\tTool\n")
        (tmp_path / "user_sequence.txt").write_text(f"{wrong} a a a\n")
        with pytest.raises(ValueError, match=r"user_sequence\.txt:1: user id '.*' (stands for|holds)"):
            read_folder(tmp_path)


def test_ids_written_in_two_ways_are_told_by_name(refused, prepared):
    floats = csv("user_id,item_id,timestamp", [("u", f"{place}.0", START + place) for place in (1, 2, 3)])
    assert "interactions.csv: id 1.0 is written 1 in" in refused(floats, GOODS_BY_NUMBER)
    whole = floats.replace(".0,", ",")
    assert "items.csv: id 2.0 is written 2 in" in refused(whole, GOODS_BY_NUMBER.replace("\n2,", "\n2.0,"))
    users = csv("user_id,item_id,timestamp", [("7", 1, START), ("7", 2, START), ("7.0", 3, START)])
    assert "interactions.csv: id 7.0 is written 7 in" in refused(users, GOODS_BY_NUMBER)
    assert "no item id of it, such as i1, is one of an item with a text in" in refused(LOG_CSV, GOODS_BY_NUMBER)
    same = prepared(floats, GOODS_BY_NUMBER.replace(",T", ".0,T"))[0]
    assert same.items.item_ids == ["1.0", "2.0", "3.0"]


def test_ids_of_similar_items_may_be_numbers(tmp_path):
    pq.write_table(pa.table({"item_id": [7, 8], "similar_items": [[8], []]}), tmp_path / "near.parquet")
    assert read_similar_items(tmp_path / "near.parquet", ["7", "8"]).tolist() == [[1], [-1]]
    pq.write_table(pa.table({"item_id": [7], "similar_items": [8]}), tmp_path / "near.parquet")
    with pytest.raises(ValueError, match=r"near\.parquet: no Parquet file of ids and lists of ids \("):
        read_similar_items(tmp_path / "near.parquet", ["7", "8"])


@pytest.mark.parametrize("read", [read_lexical_ids, read_similar_items])
def test_a_given_file_that_is_missing_is_not_looked_for_in_the_data_folder(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"given\.txt: no such file; give one that is there, by a path from"):
        read("given.txt", ["a"])


def test_leading_zeros_stay_in_csv_data_sets(tmp_path):
    ids = ["007", "7", "0012"]
    (tmp_path / "log").mkdir()
    (tmp_path / "goods").mkdir()
    (tmp_path / "log" / "train.csv").write_text(csv("user_id,item_id,timestamp", [("01", item, START) for item in ids]))
    (tmp_path / "goods" / "train.csv").write_text(csv("item_id,title", [(item, f"Tool {item}") for item in ids]))
    places = {"interactions": str(tmp_path / "log"), "items": str(tmp_path / "goods"), "text_columns": "title"}
    prepare(PrepareSettings("hub", **places, user_core=0, item_core=0), tmp_path / "out")
    data = read_folder(tmp_path / "out")
    assert sorted(data.items.item_ids) == sorted(ids)
    assert data.interactions.user_ids == ["01"]


def test_python_dictionaries_are_records(prepared):
    log = "".join(f"{record!r}\n".replace(": '", ": u'") for record in LOG_RECORDS)
    goods = "".join(f"{{u'item_id': u'{item}', u'title': u'Tool {item}', u'tags': ['a', u'b']}}\n" for item in ITEMS)
    texts = prepared(log, goods, "jsonl", text_columns="title,tags")[0].items.texts
    assert texts[0] == "title: Tool i1; tags: a, b"


def test_a_folder_whose_preparation_was_stopped_is_refused(prepared, tmp_path):
    prepared()
    (tmp_path / "out" / "prepare.json").unlink()  # written last
    with pytest.raises(FileNotFoundError, match=r"prepare\.json: no such file, so `gram prepare` was stopped before"):
        read_folder(tmp_path / "out")


FAULTY_USERS = ["ann", "bob", "cid", "", "nan", "a b", "d\x07"]
FAULTY_ITEMS = ["i1", "i2", "i3", "i4", "x", "", "None"]
FAULTY_TIMES = [START, START + 5, START + 9, "2020-09-14", START * 1000, "", "soon"]
FAULTY_ROWS = st.tuples(
    *map(st.sampled_from, (FAULTY_USERS, FAULTY_ITEMS, FAULTY_TIMES)), st.sampled_from(["", '"', ",x"])
)
FAULTY_GOODS = st.tuples(st.sampled_from(FAULTY_ITEMS), st.sampled_from(["Tool", "", "nan", '"5 inch', "[]"]))
SOUND_ROWS = [(user, f"i{item}", START + item) for user in ("eve", "fay") for item in (1, 2, 3, 4)]


@hypothesis.settings(max_examples=30)  # each example writes files
@given(
    rows=st.lists(FAULTY_ROWS, max_size=40),
    goods=st.lists(FAULTY_GOODS, max_size=12),
    core=st.integers(0, 4),
)
def test_the_account_adds_up(rows, goods, core, tmp_path_factory):
    folder = tmp_path_factory.mktemp("account")
    lines = [f"{tail if tail == chr(34) else ''}{u},{i},{t}{tail if tail == ',x' else ''}\n" for u, i, t, tail in rows]
    sound = [f"{user},{item},{time}\n" for user, item, time in SOUND_ROWS]
    described = [f"{item},{title}\n" for item, title in goods] + [f"i{item},Tool {item}\n" for item in (1, 2, 3, 4)]
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(lines + sound))
    (folder / "goods.csv").write_text("item_id,title\n" + "".join(described))
    places = {"interactions": str(folder / "log.csv"), "items": str(folder / "goods.csv"), "text_columns": "title"}
    settings = PrepareSettings("table", **places, user_core=core, item_core=min(core, 2), skip_bad_lines=True)
    report = prepare(settings, folder / "out")
    data = read_folder(folder / "out")

    dropped = [stage.dropped for stage in report.stages]
    assert len(lines) + len(sound) == len(data.interactions.items) + sum(dropped)
    items = report.facts["items"]
    assert items["read"] == len(described)
    reasons = [items[name] for name in ("bad", "without_text", "repeated", "without_interactions")]
    assert items["read"] == len(data.items) + sum(reasons)
    assert dropped[0] + items["bad"] == report.facts["bad_lines"]["count"]
    assert {"eve", "fay"} <= set(data.interactions.user_ids)


TABLE_CASE = {"format": "table", "text_columns": "title"}
CASE_ANSWERS = [
    ("stray-quote", TABLE_CASE, "items.csv:4: a quote opens here"),
    ("stray-quote-late", TABLE_CASE, "items.csv:21: a quote opens here"),
    ("stray-quote-log", TABLE_CASE, "log.csv:86: a quote opens here"),
    ("stray-quote-pair", TABLE_CASE, "items.csv:4: a quote opens here"),
    ("ms-as-s", TABLE_CASE, "log.csv:2: time 1500000000000 is in the year"),
    ("ms-as-s", {**TABLE_CASE, "time_unit": "ms"}, "title: Red shoe"),
    ("ms-mixed", TABLE_CASE, "log.csv:2: time 1600000000000 is in the year"),
    ("ms-mixed", {**TABLE_CASE, "time_unit": "ms"}, "log.csv:3: time 1600000060 is in 1970"),
    ("hub-leading-zeros", TABLE_CASE, "title: Red shoe"),
    (
        "hub-leading-zeros",
        {"format": "hub", "interactions": "log", "items": "goods", "text_columns": "title"},
        "title: Red shoe",
    ),
    ("float-ids", TABLE_CASE, "log.csv: id 1.0 is written 1 in"),
    ("ml10m-utf8", {"format": "movielens"}, "title: Misérables, Les; year: 1995; genres: Drama"),
    ("dup-header", TABLE_CASE, "log.csv:1: two columns are named item_id"),
    ("html", TABLE_CASE, "title: Salt & Pepper"),
    ("html", {"format": "yelp"}, "title: Salt & Red shoe; city: X; state: Y"),
    (
        "amazon2018",
        {"format": "amazon2014"},
        "title: Red shoe; brand: B; categories: Clothing > Shoes; description: made of & wool; features: warm",
    ),
    ("nested-strings", {**TABLE_CASE, "text_columns": "title,categories"}, "title: Red shoe; categories: A, B & C"),
    ("steam-literal", {**TABLE_CASE, "interactions": "log.jsonl", "items": "items.jsonl"}, "title: Red shoe"),
    (
        "recbole-name",
        {"format": "recbole", "text_columns": "name=title,genre"},
        "title: Red shoe; genre: Action, Sci-Fi",
    ),
    ("surrogate-amazon2023", {"format": "amazon2023"}, "title: Red shoe; brand: S; description: nice"),
    ("surrogate-jsonl", {**TABLE_CASE, "interactions": "log.jsonl", "items": "items.jsonl"}, "title: Red shoe"),
    ("id-control", TABLE_CASE, "log.csv:2: item id 'i1\\x1cx' holds a space or a control character"),
    ("long-field", TABLE_CASE, "title: Red shoe word word"),
]


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases: the faulty files are not there")
@pytest.mark.parametrize(("name", "settings", "answer"), CASE_ANSWERS)
def test_the_shared_cases_end_in_the_right_answer_or_in_one_line(name, settings, answer, tmp_path):
    folder = CASES / name
    if settings["format"] in ("table", "hub"):
        settings = {"interactions": "log.csv", "items": "items.csv", **settings}
        settings |= {kind: str(folder / settings[kind]) for kind in ("interactions", "items")}
    else:
        settings = {**settings, "input": str(folder)}
    settings = PrepareSettings(**settings, user_core=0, item_core=0)
    if answer.startswith("title"):
        prepare(settings, tmp_path / "out")
        assert read_folder(tmp_path / "out").items.texts[0].startswith(answer)
    else:
        with pytest.raises(ValueError) as error:
            prepare(settings, tmp_path / "out")
        assert answer in str(error.value)
        assert "\n" not in str(error.value)
