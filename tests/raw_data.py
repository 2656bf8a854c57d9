"""One small data set in the true form of every format that `gram prepare` reads."""

import gzip
import json
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

START = 1_546_300_800  # 2019-01-01
# User, item, rating, seconds after the start; of user 10 two have the same time, and keep their order.
ROWS = [
    *(("2", "3", 5, 0), ("2", "1", 4, 10), ("2", "2", 3, 20), ("2", "1", 2, 30)),
    *(("10", "3", 1, 5), ("10", "2", 5, 5), ("10", "1", 4, 50)),
    *(("1", "3", 4, 2 * 86_400), ("1", "1", 3, 0), ("1", "2", 5, 86_400)),
]
SEQUENCES = {"1": ["1", "2", "3"], "2": ["3", "1", "2", "1"], "10": ["3", "2", "1"]}
COLUMNS = {"user_column": "who", "item_column": "what", "time_column": "when"}
TABLE = {**COLUMNS, "item_id_column": "id", "text_columns": "name=title, kind"}
TABLE_TEXTS = ['title: Red, "fine" lipstick; kind: Make-up', "title: Blush", "title: Crème; kind: Skin, Face"]


def gzipped(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def json_lines(records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def amazon2014(folder):
    reviews = [
        {"reviewerID": user, "asin": item, "overall": float(rating), "unixReviewTime": START + time, "summary": "x"}
        for user, item, rating, time in ROWS
    ]
    gzipped(folder / "reviews_Beauty.json.gz", json_lines(reviews))
    meta = [
        {"asin": "1", "title": "Red &amp; gold\tlipstick", "price": 2.5, "brand": "Kiss", "description": "It's  red"},
        {"asin": "2", "categories": [["Beauty", "Face"], ["Gifts"]], "title": "Blush"},
        {"asin": "3", "description": "A cream", "categories": [["Beauty"]]},
    ]
    gzipped(folder / "meta_Beauty.json.gz", "".join(f"{record!r}\n" for record in meta))
    return {"input": str(folder)}, [
        "title: Red & gold lipstick; brand: Kiss; description: It's red",
        "title: Blush; categories: Beauty > Face | Gifts",
        "categories: Beauty; description: A cream",
    ]


def amazon2023(folder):
    reviews = [
        {"rating": float(rating), "user_id": user, "parent_asin": item, "asin": "x", "timestamp": (START + time) * 1000}
        for user, item, rating, time in ROWS
    ]
    gzipped(folder / "All_Beauty.jsonl.gz", json_lines(reviews))
    meta = [
        {
            "parent_asin": "1",
            "title": "Lipstick",
            "store": "Kiss",
            "categories": ["Beauty", "Lips"],
            "description": ["Red.", "Long."],
            "features": ["Vegan", "Small"],
        },
        {"parent_asin": "2", "title": "Blush", "store": None, "categories": [], "description": [], "features": []},
        {"parent_asin": "3", "title": "Cream"},
    ]
    (folder / "meta_All_Beauty.jsonl").write_text(json_lines(meta))
    return {"input": str(folder)}, [
        "title: Lipstick; brand: Kiss; categories: Beauty > Lips; description: Red. Long.; features: Vegan Small",
        "title: Blush",
        "title: Cream",
    ]


def yelp(folder):
    reviews = [
        {"user_id": user, "business_id": item, "stars": float(rating), "text": "x", "date": date(time)}
        for user, item, rating, time in ROWS
    ]
    (folder / "yelp_academic_dataset_review.json").write_text(json_lines(reviews))
    businesses = [
        {"business_id": "1", "name": "Bar", "city": "Tampa", "state": "FL", "categories": "Bars, Nightlife"},
        {"business_id": "2", "name": "Inn", "city": "", "state": "", "categories": None},
        {
            "business_id": "3",
            "name": "Spa",
            "city": "Reno",
            "state": "NV",
            "categories": "Spas",
            "hours": {"Monday": "1"},
        },
    ]
    (folder / "yelp_academic_dataset_business.json").write_text(json_lines(businesses))
    return {"input": str(folder)}, [
        "title: Bar; categories: Bars, Nightlife; city: Tampa; state: FL",
        "title: Inn",
        "title: Spa; categories: Spas; city: Reno; state: NV",
    ]


def date(time: int) -> str:
    return datetime.fromtimestamp(START + time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


FILMS = [
    "title: Misérables, Les; year: 1995; genres: Drama, Musical",
    "title: Blink; genres: Thriller",
    "title: Z; year: 1969",
]


def movielens_100k(folder):
    rows = "".join(f"{user}\t{item}\t{rating}\t{START + time}\n" for user, item, rating, time in ROWS)
    (folder / "u.data").write_text(rows)
    flags = {"1": (8, 12), "2": (16,), "3": (0,)}
    titles = {"1": "Misérables, Les (1995)", "2": "Blink", "3": "Z (1969)"}
    lines = [
        "|".join(
            [item, titles[item], "01-Jan-1995", "", "http://x", *("01"[place in flags[item]] for place in range(19))]
        )
        for item in titles
    ]
    (folder / "u.item").write_bytes("\n".join(lines).encode("latin-1") + b"\n")
    return {"format": "movielens", "input": str(folder)}, FILMS


def movielens_1m(folder):
    rows = "".join(f"{user}::{item}::{rating}::{START + time}\n" for user, item, rating, time in ROWS)
    (folder / "ratings.dat").write_text(rows)
    films = "1::Misérables, Les (1995)::Drama|Musical\n2::Blink::Thriller\n3::Z (1969)::(no genres listed)\n"
    (folder / "movies.dat").write_bytes(films.encode("latin-1"))
    return {"format": "movielens", "input": str(folder)}, FILMS


def movielens_20m(folder):
    rows = "".join(f"{user},{item},{rating}.5,{START + time}\n" for user, item, rating, time in ROWS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    films = "movieId,title,genres\n"
    films += '1,"Misérables, Les (1995)",Drama|Musical\n2,Blink,Thriller\n3,Z (1969),(no genres listed)\n'
    (folder / "movies.csv").write_text(films, encoding="utf-8")
    return {"format": "movielens", "input": str(folder)}, FILMS


def recbole(folder):
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    rows = "".join(f"{user}\t{item}\t{rating}\t{float(START + time)}\n" for user, item, rating, time in ROWS)
    (folder / "shop.inter").write_text(header + rows)
    items = "item_id:token\tname:token_seq\tprice:float\tclass:token_seq\n"
    items += "1\tRed lipstick\t2\tLips Gifts\n2\tBlush\t\tFace\n3\tCream\t1\t\n"
    (folder / "shop.item").write_text(items)
    return {"input": str(folder), "text_columns": "name=title,class=genres,price"}, [
        "title: Red lipstick; genres: Lips, Gifts; price: 2",
        "title: Blush; genres: Face",
        "title: Cream; price: 1",
    ]


def table_csv(folder):
    (folder / "log.csv").write_text("what,when,who\n" + "".join(f"{i},{date(t)},{u}\n" for u, i, _, t in ROWS))
    gzipped(
        folder / "goods.csv.gz", 'name,id,kind\n"Red, ""fine""\nlipstick",1,Make-up\nBlush,2,\nCrème,3,"Skin, Face"\n'
    )
    return {**_table(folder, "log.csv", "goods.csv.gz")}, TABLE_TEXTS


def table_tsv(folder):
    rows = "".join(f"{user}\t{item}\t{START + time}\n" for user, item, _, time in ROWS)
    gzipped(folder / "log.tsv.gz", "who\twhat\twhen\n" + rows)
    (folder / "goods.tsv").write_text(
        'id\tname\tkind\r\n1\tRed, "fine" lipstick\tMake-up\r\n2\tBlush\t\r\n3\tCrème\tSkin, Face\r\n'
    )
    return _table(folder, "log.tsv.gz", "goods.tsv"), TABLE_TEXTS


def records():
    """Interactions and items with ids and times of several types."""
    log = [{"who": int(user), "what": item, "when": (START + time) * 1000} for user, item, _, time in ROWS]
    goods = [
        {"id": 1, "name": 'Red, "fine" lipstick', "kind": ["Make-up"]},
        {"id": 2, "name": "Blush", "kind": None},
        {"id": 3, "name": "Crème", "kind": ["Skin", "Face"]},
    ]
    return log, goods


def table_jsonl(folder):
    log, goods = records()
    (folder / "log.jsonl").write_text(json_lines(log))
    gzipped(folder / "goods.jsonl.gz", json_lines(goods))
    return {**_table(folder, "log.jsonl", "goods.jsonl.gz"), "time_unit": "ms"}, TABLE_TEXTS


def table_parquet(folder):
    log, goods = map(pa.Table.from_pylist, records())
    when = log["when"].cast(pa.timestamp("ms", "UTC"))
    log = log.set_column(2, "when", when).set_column(1, "what", log["what"].dictionary_encode())
    pq.write_table(log, folder / "log.parquet")
    pq.write_table(goods, folder / "goods.parquet")
    return _table(folder, "log.parquet", "goods.parquet"), TABLE_TEXTS


def _table(folder, interactions, items):
    return {"format": "table", "interactions": str(folder / interactions), "items": str(folder / items), **TABLE}


def hub(folder):
    log, goods = records()
    (folder / "log").mkdir()
    (folder / "goods" / "books").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(log), folder / "log" / "train.parquet")
    (folder / "goods" / "books" / "part.jsonl").write_text(json_lines(goods))
    (folder / "goods" / "README.md").write_text(
        "---\nconfigs:\n- config_name: books\n  data_files:\n  - split: all\n    path: books/*.jsonl\n---\n"
    )
    given = {"interactions": str(folder / "log"), "items": f"{folder / 'goods'}:books:all", "time_unit": "ms"}
    return {**given, **TABLE}, TABLE_TEXTS


def folder_text(folder):
    lines = [" ".join([user, *SEQUENCES[user]]) for user in ("2", "10", "1")]
    (folder / "user_sequence.txt").write_text("\n".join(lines) + "\n")
    (folder / "item_text.tsv").write_text("asin\tbrand\ttitle\n3\tGlow\tCream\n1\t\tLipstick\n2\tGlow\t\n")
    return {"format": "folder", "input": str(folder)}, [
        "title: Lipstick",
        "brand: Glow",
        "title: Cream; brand: Glow",
    ]


def folder_authors(folder):
    folder_text(folder)
    (folder / "item_text.tsv").unlink()
    lines = [
        "3 title: Cream; of: Paris; brand: Glow; title: Lady",
        "2 brand: Glow;",
        "1 title: Lipstick; categories: A > B",
    ]
    (folder / "item_plain_text.txt").write_text("\n".join(lines) + "\n")
    return {"format": "folder", "input": str(folder)}, [
        "title: Lipstick; categories: A > B",
        "brand: Glow",
        "title: Cream; of: Paris; brand: Glow; title: Lady",
    ]


def folder_parquet(folder):
    from gram.data.prepare import PrepareSettings, prepare

    given, texts = recbole(folder)
    settings = PrepareSettings(format="recbole", **given, user_core=0, item_core=0)
    prepare(settings, folder / "prepared")
    return {"format": "folder", "input": str(folder / "prepared")}, texts


FORMATS = {
    write.__name__: write
    for write in (
        *(amazon2014, amazon2023, yelp, movielens_100k, movielens_1m, movielens_20m, recbole, table_csv, table_tsv),
        *(table_jsonl, table_parquet, hub, folder_text, folder_authors, folder_parquet),
    )
}


def raw(name: str, folder: Path) -> tuple[dict, list[str]]:
    """Writes a format's files; returns settings that keep all of it, and the texts to expect."""
    folder.mkdir(parents=True, exist_ok=True)
    given, texts = FORMATS[name](folder)
    return {"format": name, "user_core": 0, "item_core": 0, **given}, texts
