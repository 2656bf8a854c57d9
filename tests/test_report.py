"""The HTML report: what it holds, and what a reader sees and does in a real browser."""

import json
import re
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gram import cli
from gram.tokenization_gram import CATALOGUE_SCHEMA
from gram.translation import TreeStatistics
from gram.translation.report import write_report

NASTY = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 1</script>",
    "<!--<script>",
    '"><img src="https://example.com/x.png" onerror="window.ran = 1">',
    'it\'s "quoted" & &amp; {{data}} \\u003c \\',
    "Crème brûlée 🧴👩🏽‍🔬",
    "שלום עולם \u202e(evil)",
    "line\u2028and\tparagraph\u2029",
    "",
)


def catalogue_of(titles, lexical_ids, similar=None):
    names = [f"I{number}" for number in range(len(titles))]
    neighbours = similar or [[] for _ in names]
    return pa.table([names, titles, titles, lexical_ids, neighbours], schema=CATALOGUE_SCHEMA)


def nasty_catalogue():
    """Titles that try to be markup; IDs of unequal length, a duplicate and IDs with a suffix among them."""
    ids = [["▁a", "b", "0"], ["▁a", "b", "1"], ["▁a"], ["▁a", "<b>"], ["x", "y"], ["x", "y"], ["x", "</script>", "z"]]
    ids += [["▁c", f"▁{number}{number}"] for number in range(len(NASTY) - len(ids))]
    similar = [[f"I{(item + step) % len(NASTY)}" for step in (1, 2, 4, 5)] for item in range(len(NASTY))]
    return catalogue_of(NASTY, ids, similar)


def wide_catalogue(count=450):
    """450 items under one token, and one item beside them."""
    ids = [["▁wide", f"w{number:03d}"] for number in range(count)] + [["▁alone"]]
    return catalogue_of([f"Item {number}" for number in range(count + 1)], ids)


def write(catalogue, path, **options):
    statistics = TreeStatistics.of(catalogue["lexical_id"].to_pylist())
    write_report(catalogue, statistics, path, **options)
    return statistics


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1])


# The file


def test_same_catalogue_gives_the_same_bytes_and_nothing_else(tokenizer, tmp_path):
    for name in ("one", "two"):
        write(tokenizer.catalogue, tmp_path / name / "report.html")
    one, two = ((tmp_path / name / "report.html").read_bytes() for name in ("one", "two"))
    assert one == two
    write(tokenizer.catalogue, tmp_path / "one" / "report.html", title="Another")
    assert (tmp_path / "one" / "report.html").read_bytes() != one
    assert len(list((tmp_path / "one").iterdir())) == 1


def test_file_refers_to_nothing_outside(tokenizer, tmp_path):
    write(tokenizer.catalogue, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'" in page
    assert not re.search(r"https?://|\bsrc=|<link|@import|url\(|innerHTML|insertAdjacentHTML|document\.write", page)


def test_wrong_arguments(tokenizer, tmp_path):
    (tmp_path / "folder.html").mkdir()
    for name in ("report.htm", "report", "folder.html"):
        with pytest.raises(ValueError, match=f"{name}: the report is a web page; give a file name that ends in .html"):
            write(tokenizer.catalogue, tmp_path / name)


def test_page_holds_at_most_max_items_spread_over_the_tree(tmp_path):
    write(wide_catalogue(), tmp_path / "report.html", max_items=9)
    data = data_of(tmp_path / "report.html")
    places = [int(name[1:]) for name in data["ids"]]
    assert len(places) == 9
    assert {after - before for before, after in pairwise(places)} <= {50, 51}


# The command


@pytest.fixture
def translate(data_folder, tmp_path, capsys):
    def run(report, data=data_folder):
        argv = ["translate", "--data", data, "--output", tmp_path / "new", "--report", report, "--num-similar", 2]
        shape = ["--num-clusters", 4, "--depth", 3, "--vocab-size", 400]
        code = cli.main([str(word) for word in argv + shape])
        return code, *capsys.readouterr()

    return run


def test_translate_writes_a_report(translate, tmp_path):
    for name in ("new/report.html", "new/reports/report.html", "reports/beauty.html"):
        code, lines, _ = translate(tmp_path / name)
        assert code == 0
        assert lines.splitlines()[-1] == f"report: {tmp_path / name}"
        data = data_of(tmp_path / name)
        catalogue = pq.read_table(tmp_path / "new" / "catalogue.parquet").to_pylist()
        assert sorted(data["ids"]) == sorted(item["item_id"] for item in catalogue)
        assert all(len(rows) == 2 for rows in data["similar"])


def test_translate_checks_the_name_of_the_report_first(translate, tmp_path):
    code, lines, errors = translate(tmp_path / "reports" / "beauty.txt")
    assert (code, lines) == (2, "")
    assert "beauty.txt: the report is a web page; give a file name that ends in .html" in errors
    assert not list(tmp_path.iterdir())


# The page in a browser


@pytest.fixture
def visit(browser, tmp_path):
    """Writes the report of a catalogue and opens it. At the end: nothing was asked for, nothing went wrong or ran."""
    opened = []

    def visit(catalogue, address="", **options):
        path = tmp_path / "report.html"
        write(catalogue, path, **options)
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.set_default_timeout(60_000)
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.goto(path.as_uri() + address)
        opened.append((page, path.as_uri(), requests, errors))
        return page

    yield visit
    for page, address, requests, errors in opened:
        ran = page.evaluate("window.ran")
        page.close()
        assert (requests, errors, ran) == ([address], [], None)


def similar_of(item):
    """(title, id, lexical ID) of the similar items that an open item shows."""
    return [
        (
            line.locator(".link").inner_text(),
            line.locator(".id").inner_text(),
            line.locator(".token").all_inner_texts(),
        )
        for line in item.locator(".similar ol > li").all()
    ]


def expected_similar(catalogue, name):
    items = {item["item_id"]: item for item in catalogue.to_pylist()}
    neighbours = [items[other] for other in items[name]["similar_items"]]
    return [(item["title"] or "no title", item["item_id"], item["lexical_id"]) for item in neighbours]


def rows_in(scope):
    return scope.locator(":scope > li > .row")


def items_below(scope, path):
    """(id, lexical ID) of the items in an unfolded list of nodes; `path`: the tokens of the rows above it."""
    found = []
    for item in scope.locator(":scope > li").all():
        row = item.locator(":scope > .row")
        tokens = row.locator(".token").all_inner_texts()
        if "leaf" in row.get_attribute("class"):
            assert tokens[: len(path)] == path
            found.append((row.locator(".id").inner_text(), tokens))
            continue
        below = items_below(item.locator(":scope > ul"), path + tokens)
        assert row.locator(".size").inner_text() == f"{len(below)} items"
        assert row.locator(".titles > *").count() == min(len(below), 3)
        found += below
    return found


def search_for(page, query):
    page.fill("#query", query)
    return page.locator("#hits button")


def test_figures_are_the_statistics(visit, tokenizer):
    for catalogue in (tokenizer.catalogue, nasty_catalogue()):
        ids = catalogue["lexical_id"].to_pylist()
        statistics = TreeStatistics.of(ids)
        page = visit(catalogue, title="What <b>it</b> is called")
        assert page.title() == page.inner_text("h1") == "What <b>it</b> is called"
        names = ("items", "depth", "duplicates", "suffixed", "suffix-share", "mean-tokens")
        assert [page.inner_text(f"#{name}") for name in names] == [
            str(statistics.items),
            str(len(statistics.levels)),
            str(statistics.duplicates),
            str(statistics.suffixed),
            f"{100 * statistics.suffixed / statistics.items:.1f} %",
            f"{sum(map(len, ids)) / len(ids):.2f}",
        ]
        levels = page.locator("#levels tbody tr")
        shown = [[float(cell) for cell in row.locator("th, td").all_inner_texts()] for row in levels.all()]
        assert shown == [pytest.approx(row, abs=0.0051) for row in statistics.levels]
        assert page.locator("#levels .bar").count() == 3 * len(shown)
        assert page.locator("#left-out").is_hidden()


def test_every_item_is_found_by_unfolding_the_tree(visit, tokenizer):
    """Opens whatever can be opened, and reads the tree off the page."""
    for catalogue in (tokenizer.catalogue, nasty_catalogue()):
        page = visit(catalogue)
        while page.locator(".branch[aria-expanded=false]").count():
            page.locator(".branch[aria-expanded=false]").first.click()
        found = items_below(page.locator("#tree"), [])
        expected = zip(catalogue["item_id"].to_pylist(), catalogue["lexical_id"].to_pylist(), strict=True)
        assert sorted(found) == sorted(expected)


def test_children_come_when_a_node_is_opened_and_hide_when_it_is_closed(visit, tokenizer):
    page = visit(tokenizer.catalogue)
    branch = page.locator("#tree > li").filter(has=page.locator(":scope > .branch")).first
    button, below = branch.locator(":scope > .row"), branch.locator(":scope > ul > li")
    assert (button.get_attribute("aria-expanded"), below.count()) == ("false", 0)
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    assert below.first.is_visible()
    button.click()
    assert button.get_attribute("aria-expanded") == "false"
    assert below.first.is_hidden()


def test_search_opens_the_tree_at_an_item_and_shows_what_is_similar(visit, tokenizer):
    page = visit(tokenizer.catalogue)
    for item in tokenizer.catalogue.slice(7, 2).to_pylist():
        for query in (item["item_id"], item["title"].upper(), " ".join(reversed(item["title"].split()))):
            hits = search_for(page, query)
            assert (hits.count(), page.inner_text("#count")) == (1, "1 item")
            hits.first.click()
            chosen = page.locator("#tree .chosen")
            chosen.filter(has_text=item["title"]).wait_for()
            assert page.locator("#found").is_hidden()
            assert chosen.locator(":scope > .row .id").inner_text() == item["item_id"]
            assert chosen.locator(":scope > .row").is_visible()
            assert similar_of(chosen) == expected_similar(tokenizer.catalogue, item["item_id"])


def test_search_lists_at_most_fifty_and_an_exact_id_first(visit):
    page = visit(wide_catalogue())
    assert search_for(page, "item").count() == 50
    assert page.inner_text("#count") == "451 items, the first 50"
    assert search_for(page, "I4").first.inner_text().startswith("Item 4")
    assert search_for(page, "nowhere").count() == 0
    assert page.inner_text("#count") == "0 items"
    search_for(page, "")
    assert page.locator("#found").is_hidden()


def test_similar_items_count_the_tokens_they_share_and_lead_on(visit):
    page = visit(nasty_catalogue())
    search_for(page, "I0").first.click()
    item = page.locator(".chosen")
    item.wait_for()
    assert similar_of(item) == expected_similar(nasty_catalogue(), "I0")
    counts = ["2 leading tokens shared", "1 leading token shared", "0 leading tokens shared", "0 leading tokens shared"]
    assert item.locator(".count").all_inner_texts() == counts
    assert item.locator("ol > li").first.locator(".token.shared").all_inner_texts() == ["▁a", "b"]

    item.locator("ol .link").nth(1).click()
    page.locator(".chosen > .row .id", has_text="I2").wait_for()
    page.go_back()
    page.locator(".chosen > .row .id", has_text="I0").wait_for()


def test_address_with_an_item_opens_it(visit):
    page = visit(nasty_catalogue(), address="#item=I6")
    assert page.locator(".chosen > .row .id").inner_text() == "I6"
    for unknown in ("#item=I60", "#item=%", "#item="):
        assert visit(nasty_catalogue(), address=unknown).locator(".chosen").count() == 0


def test_item_ids_may_be_anything(visit):
    names = ["100% <b>'#\"?&/", "%41", "tree", "שלום"]
    catalogue = catalogue_of(["Title"] * 4, [["▁a", f"▁{number}{number}"] for number in range(4)])
    page = visit(catalogue.set_column(0, CATALOGUE_SCHEMA.field("item_id"), pa.array(names)))
    for name in names:
        search_for(page, name).first.click()
        chosen = page.locator(".chosen > .row .id")
        chosen.get_by_text(name, exact=True).wait_for()
        assert chosen.text_content() == name


def test_titles_are_shown_as_they_are_and_run_nothing(visit):
    page = visit(nasty_catalogue(), title="</title><script>window.ran = 1</script>{{data}}")
    assert page.title() == "</title><script>window.ran = 1</script>{{data}}"
    for number, title in enumerate(NASTY):
        search_for(page, f"I{number}").first.click()
        page.locator(".chosen > .row .id", has_text=f"I{number}").wait_for()
        assert page.locator(".chosen > .row").locator("bdi, .untitled").first.text_content() == title or "no title"
    assert search_for(page, "creme brulee").count() == 1
    assert page.locator("main script, main img").count() == 0
    assert page.evaluate("document.scripts.length") == 2


def test_keyboard(visit, tokenizer):
    page = visit(tokenizer.catalogue)
    focused = "document.activeElement"
    page.focus("#tree > li:first-child > .row")
    page.keyboard.press("Enter")
    assert page.evaluate(f"{focused}.ariaExpanded") == "true"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.parentElement.parentElement.parentElement.parentElement.id") == "tree"
    page.keyboard.press("ArrowLeft")  # to the parent, then closes it
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(f"{focused}.ariaExpanded") == "false"
    page.keyboard.press("ArrowRight")  # opens it, then to its first child
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(f"[...{focused}.parentElement.parentElement.children].indexOf({focused}.parentElement)") == 1
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(f"{focused} === document.querySelector('#tree .row')")

    title = tokenizer.catalogue["title"][4].as_py()
    page.focus("#query")
    page.keyboard.type(title)
    page.keyboard.press("Escape")
    assert page.locator("#found").is_hidden()
    page.keyboard.type(" ")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.locator(".chosen", has_text=title).wait_for()
    assert page.evaluate(f"{focused}.parentElement.classList.contains('chosen')")


def test_many_children_come_two_hundred_at_a_time(visit):
    page = visit(wide_catalogue())
    page.locator(".branch").click()
    below = rows_in(page.locator("#tree ul"))
    assert below.count() == 200
    page.get_by_text("Show 200 more of 450").click()
    assert below.count() == 400
    assert page.evaluate("document.activeElement.textContent").startswith("Item 200")
    search_for(page, "I449").first.click()  # beyond what is shown
    page.locator(".chosen", has_text="I449").wait_for()
    assert below.count() == 450
    assert page.locator(".more").count() == 0


def test_sample_table(visit, tokenizer):
    page = visit(tokenizer.catalogue)
    lines = page.locator("#sample tbody tr").all()
    items = {item["item_id"]: item for item in tokenizer.catalogue.to_pylist()}
    names = [line.locator(".id").inner_text() for line in lines]
    assert len(lines) == 12
    assert names == sorted(names)  # spread over the catalogue, in its order
    for name, line in zip(names, lines, strict=True):
        item, nearest = line.locator("td").nth(0), line.locator("td").nth(2)
        assert item.locator(".link").inner_text() == items[name]["title"]
        assert line.locator(".token").all_inner_texts() == items[name]["lexical_id"]
        titles = [items[other]["title"] for other in items[name]["similar_items"][:3]]
        assert nearest.locator(".link").all_inner_texts() == titles
    lines[3].locator(".link").first.click()
    page.locator(".chosen > .row .id", has_text=names[3]).wait_for()


def test_one_item(visit):
    page = visit(catalogue_of(["Alone"], [["▁alone", "▁here"]]))
    assert page.inner_text("#items") == "1"
    page.locator("#tree .row").click()
    page.get_by_text("No similar items").wait_for()
    assert page.locator("#tree .token").all_inner_texts() == ["▁alone", "▁here"]
    assert page.locator("#sample td").nth(2).inner_text() == "none"


def test_sampled_page_says_so_and_keeps_the_sizes(visit, tokenizer):
    page = visit(wide_catalogue(), max_items=9)
    assert page.inner_text("#left-out").startswith("This page holds a sample of 9 of the 451 items")
    assert page.inner_text("#items") == "451"
    assert page.inner_text(".branch .size") == "450 items"
    page.locator(".branch").click()
    assert rows_in(page.locator("#tree ul")).count() == 9

    page = visit(tokenizer.catalogue, max_items=10)
    items = {item["item_id"]: item for item in tokenizer.catalogue.to_pylist()}
    embedded = page.evaluate("data.ids")
    for name in embedded:
        search_for(page, name).first.click()
        item = page.locator(".chosen", has=page.locator(f":scope > .row :text-is('{name}')"))
        lines = item.locator("ol > li")
        lines.first.wait_for()
        assert lines.locator(".id").all_inner_texts() == items[name]["similar_items"]
        missing = [other for other in items[name]["similar_items"] if other not in embedded]
        assert item.get_by_text("not on this page").count() == len(missing)


@pytest.mark.parametrize("width", [1280, 400])
def test_page_fits_the_window(visit, tokenizer, width):
    page = visit(tokenizer.catalogue)
    page.set_viewport_size({"width": width, "height": 800})
    search_for(page, "B0003").first.click()
    page.locator(".chosen").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
