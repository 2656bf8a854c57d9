"""The demo Space: its folder, what it asks of a model, and what a visitor sees and does in a real browser."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from huggingface_hub import metadata_load

from gram import GramForConditionalGeneration, GramTokenizer, cli
from gram.hub.space_folder import write_space

from .waiting import PATIENCE

NASTY = '<script>window.ran = 1</script><img src=x onerror="window.ran = 1"> {{value}} ${value} "Q" & Ж'


# The folder and the command


def test_folder_is_ready_to_push(tmp_path, capsys):
    assert cli.main(["space", "someone/films", "--output", str(tmp_path / "space")]) == 0
    assert capsys.readouterr().out == f"Space of someone/films saved to {tmp_path / 'space'}\n"
    files = {path.name for path in (tmp_path / "space").iterdir()}
    code = {"app.py", "clicks.js", "engine.py", "style.css", "views.html", "visits.py"}
    assert files == code | {"README.md", "requirements.txt"}
    card = metadata_load(tmp_path / "space" / "README.md")
    assert (card["sdk"], card["app_file"], card["models"]) == ("gradio", "app.py", ["someone/films"])
    pinned = Path(__file__).parent.parent.joinpath("constraints.txt").read_text()
    assert f"gradio=={card['sdk_version']}\n" in pinned
    for name in code:
        assert "gram." not in re.sub(r"\.gram-\S+", "", (tmp_path / "space" / name).read_text())


def test_wrong_arguments(tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, message in (
        ([str(tmp_path), "--output", str(tmp_path / "new")], "is a folder; a Space loads its model from the Hub"),
        (["not a name", "--output", str(tmp_path / "new")], "Repo id must use alphanumeric chars"),
        (["someone/films", "--output", str(tmp_path / "full")], "exists already; give another name"),
        (["someone/films", "--output", str(tmp_path / "new"), "--port", "1"], "--port belongs to --run"),
        (["someone/films"], "one of the arguments --output --repo-id --run is required"),
    ):
        assert cli.main(["space", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_space_whose_model_cannot_be_had_says_so():
    pytest.importorskip("gradio", reason="gradio is not installed")
    command = [sys.executable, "-m", "gram.cli", "space", "someone/films", "--run"]
    environment = {name: value for name, value in os.environ.items() if name != "MODEL_ID"}
    options = {"env": environment | {"HF_HUB_OFFLINE": "1"}, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, **options)
    assert done.returncode == 1
    assert "\napp.py: someone/films: " in f"\n{done.stderr}"
    assert "Traceback" not in done.stderr


# The page in a browser


@pytest.fixture(scope="module")
def space(quickstart_run, tmp_path_factory):
    """The Space, running: its address, and the model and tokenizer that it shows. One film has a nasty title."""
    pytest.importorskip("gradio", reason="gradio is not installed")
    folder = tmp_path_factory.mktemp("space")
    model = GramForConditionalGeneration.from_pretrained(quickstart_run[0]).eval()
    tokenizer = GramTokenizer.from_pretrained(quickstart_run[0])
    titles = ["" if row == 3 else NASTY if row == 4 else title for row, title in enumerate(tokenizer.titles)]
    place = tokenizer.catalogue.column_names.index("title")
    tokenizer.catalogue = tokenizer.catalogue.set_column(place, tokenizer.catalogue.schema.field("title"), [titles])
    tokenizer.titles = titles
    model.save_pretrained(folder / "films")
    tokenizer.save_pretrained(folder / "films")
    write_space(folder / "space", "someone/films")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MODEL_ID")}
    environment |= {"GRADIO_SERVER_PORT": str(port), "MODEL_ID": str(folder / "films"), "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        command = [sys.executable, str(folder / "space" / "app.py")]
        app = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}/"
    try:
        wait_for(address, app, folder / "log")
        yield address, model, tokenizer
    finally:
        app.terminate()
        app.wait(PATIENCE)
    assert "Traceback" not in (folder / "log").read_text()


def wait_for(address, app, log):
    for _ in range(4 * PATIENCE):
        try:
            return urllib.request.urlopen(address, timeout=PATIENCE).close()
        except OSError:
            assert app.poll() is None, log.read_text()
            time.sleep(0.25)
    pytest.fail(f"the Space did not start in {PATIENCE} seconds:\n{log.read_text()}")


@pytest.fixture
def visit(browser, space):
    """Opens the Space, without the example. At the end: nothing came from elsewhere, nothing went wrong or ran."""
    opened, wrong = [], []

    def visit(width=1280, height=900, is_cleared=True):
        page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("request", lambda asked: asked.url.startswith((space[0], "data:", "blob:")) or wrong.append(asked.url))
        page.on("response", lambda answer: answer.status < 400 or wrong.append(answer.url))
        page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(space[0])
        page.wait_for_selector("#hits .gram-row")
        opened.append(page)
        if is_cleared:
            page.click("#clear")
            page.get_by_text("Nothing yet.").wait_for()
        return page

    yield visit
    for page in opened:
        assert page.evaluate("window.ran") is None
        page.context.close()
    assert wrong == []


def expect_titles(page, name, titles):
    """Waits until a list shows these titles."""
    script = """([name, titles]) => JSON.stringify(titles) ===
        JSON.stringify([...document.querySelectorAll(`#${name} .gram-title`)].map(title => title.textContent))"""
    page.wait_for_function(script, arg=[name, titles])


def search(page, words, titles):
    page.fill("#words input, #words textarea", words)
    expect_titles(page, "hits", titles)


def add(page, tokenizer, rows):
    """Finds items by id, one by one, and adds them; oldest first."""
    for count, row in enumerate(rows, start=1):
        page.fill("#words input, #words textarea", tokenizer.item_ids[row])
        page.wait_for_function("row => document.querySelector('#hits .gram-row')?.dataset.row === String(row)", arg=row)
        page.locator("#hits .gram-row").first.click()
        page.locator("#history .gram-row").nth(count - 1).wait_for()


def recommended(model, tokenizer, rows):
    """Rows, scores and explanation of ten items, as the model gives them without the Space."""
    inputs = tokenizer(histories=[[tokenizer.item_ids[row] for row in rows]], return_tensors="pt")
    options = {"num_beams": 50, "num_return_sequences": 10, "return_dict_in_generate": True}
    output = model.generate(**inputs, excluded_items=torch.tensor([rows]), **options)
    return output.item_indices[0].tolist(), output.sequences_scores, model.explain(output.item_indices, **inputs)


def percents(page, selector):
    return [float(text.removesuffix(" %")) for text in page.locator(selector).all_text_contents()]


def keep_screenshot(page, name, folder):
    folder = Path(os.environ.get("GRAM_ARTEFACTS") or folder)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / name, full_page=True)
    assert (folder / name).stat().st_size > 10_000


def test_from_history_to_recommendations_and_why(visit, space, tmp_path):
    _, model, tokenizer = space
    page = visit()
    rows = [8, 1, 12]
    add(page, tokenizer, rows)
    expect_titles(page, "history", [tokenizer.titles[row] for row in reversed(rows)])
    page.click("#recommend")
    found, scores, why = recommended(model, tokenizer, rows)
    expect_titles(page, "results", [tokenizer.titles[row] or tokenizer.item_ids[row] for row in found])
    shown = [float(text.replace("−", "-")) for text in page.locator("#results .gram-score").all_text_contents()]
    assert shown == pytest.approx(scores.tolist(), abs=6e-4)

    newest_first = [f"{place}{tokenizer.titles[row]}" for place, row in enumerate(reversed(rows), start=1)]
    for place in (0, 3):
        page.locator("#results .gram-row").nth(place).click()
        chosen = page.locator(f"#results .gram-row[data-row='{place}'][aria-pressed=true]")
        chosen.wait_for()  # the list is drawn anew, and a click in the middle of that hits nothing
        line = f"no. {place + 1} · id {tokenizer.item_ids[found[place]]} ·"
        page.locator("#reasons .gram-note", has_text=line).wait_for()
        assert page.locator(".gram-bars .gram-label").all_text_contents() == [*newest_first, "the history as a whole"]
        shares = (100 * why.attention_shares[0, place]).tolist()
        assert percents(page, ".gram-bars .gram-value") == pytest.approx([*shares[1:], shares[0]], abs=0.51)
        lexical_id = tokenizer.convert_ids_to_tokens(tokenizer.lexical_ids[found[place]])
        assert page.locator(".gram-steps code").all_text_contents() == lexical_id
        chances = (100 * why.choice_probs[0, place, : len(lexical_id) + 1]).tolist()
        assert percents(page, ".gram-steps .gram-value") == pytest.approx(chances, abs=0.51)
        left = [int(text.split()[0]) for text in page.locator(".gram-steps .gram-left").all_text_contents()]
        assert left == [len(tokenizer.item_ids), *why.num_items_left[0, place, : len(lexical_id) + 1].tolist()]

    keep_screenshot(page, "space.png", tmp_path)


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_it_opens_with_an_example_and_what_is_recommended_for_it(visit, space, tmp_path, width, height):
    _, model, tokenizer = space
    page = visit(width, height, is_cleared=False)
    rows = [int(button.get_attribute("data-row")) for button in page.locator("#history [data-act=remove]").all()][::-1]
    similar = tokenizer.catalogue["similar_items"].to_pylist()
    times_named = [sum(item in items for items in similar) for item in tokenizer.item_ids]
    titled = [row for row, title in enumerate(tokenizer.titles) if title]
    assert rows[-1] == max(titled, key=times_named.__getitem__)
    nearest = [tokenizer.item_rows[item] for item in similar[rows[-1]] if tokenizer.titles[tokenizer.item_rows[item]]]
    assert rows[::-1][1:][: len(nearest)] == nearest[:2]
    assert len(rows) == 3
    assert "This is an example" in page.inner_text("#history .gram-note")
    found, _, _ = recommended(model, tokenizer, rows)
    expect_titles(page, "results", [tokenizer.titles[row] or tokenizer.item_ids[row] for row in found])
    assert page.locator(".gram-bars li").count() == len(rows) + 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    keep_screenshot(page, f"space-opened-{width}.png", tmp_path)
    page.locator("#results .gram-row").nth(1).click()
    page.locator("#reasons .gram-note", has_text="no. 2").wait_for()
    page.click("#clear")
    page.get_by_text("Build a history, then press").wait_for()
    assert page.locator(".gram-bars").count() == 0


def test_search(visit, space):
    _, _, tokenizer = space
    page = visit()
    every = [title or item for title, item in zip(tokenizer.titles, tokenizer.item_ids, strict=True)]
    expect_titles(page, "hits", every)
    search(page, "NUMBER long 20", ["The Long Film Number 20"])
    search(page, "nowhere", [])
    assert page.inner_text("#hits") == "Nothing found. Try fewer or other words."
    page.fill("#words input, #words textarea", f" {tokenizer.item_ids[3]} ")
    page.wait_for_function("document.querySelector('#hits .gram-row')?.dataset.row === '3'")  # the very id comes first


def test_history_is_edited(visit, space):
    _, _, tokenizer = space
    page = visit()
    rows = [5, 6, 7, 8, 9]
    add(page, tokenizer, rows)
    assert "the model reads the newest 4" in page.inner_text("#history .gram-note")
    assert page.locator("#history .gram-unread").all_inner_texts()[0].startswith("5")
    titles = [tokenizer.titles[row] for row in (9, 8, 7, 6, 5)]
    page.locator("#history [data-act=newer]").nth(4).click()
    expect_titles(page, "history", [*titles[:3], titles[4], titles[3]])
    assert page.evaluate("document.activeElement.dataset.row") == "5"  # focus goes with the item
    page.locator("#history [data-act=older]").nth(0).click()
    expect_titles(page, "history", [titles[1], titles[0], titles[2], titles[4], titles[3]])
    page.locator("#history [data-act=remove]").nth(1).click()
    expect_titles(page, "history", [titles[1], titles[2], titles[4], titles[3]])
    pressed = page.locator("#hits .gram-row[aria-pressed=true]")
    page.fill("#words input, #words textarea", "")
    page.wait_for_function("document.querySelectorAll('#hits [aria-pressed=true]').length === 4")
    pressed.first.click()  # out again
    page.wait_for_function("document.querySelectorAll('#history .gram-row').length === 3")
    page.click("#clear")
    page.get_by_text("Nothing yet.").wait_for()
    assert pressed.count() == 0


def test_what_is_wrong_is_said(visit, space):
    _, _, tokenizer = space
    page = visit()
    page.click("#recommend")
    page.get_by_role("alert").get_by_text("The history is empty. Add at least one item").wait_for()
    add(page, tokenizer, [4])
    page.click("#recommend")
    page.locator("#results .gram-row").nth(9).wait_for()
    assert page.locator(".gram-bars .gram-label").first.text_content() == f"1{NASTY}"
    page.locator("#history [data-act=remove]").click()
    page.get_by_text("The history has changed: recommend again.").wait_for()


def test_visitors_have_their_own_histories(visit, space):
    _, model, tokenizer = space
    pages, histories = [visit(), visit()], [[2, 10], [15]]
    for page, rows in zip(pages, histories, strict=True):
        add(page, tokenizer, rows)
    for page in pages:
        page.click("#recommend")
    for page, rows in zip(pages, histories, strict=True):
        found, _, _ = recommended(model, tokenizer, rows)
        expect_titles(page, "results", [tokenizer.titles[row] or tokenizer.item_ids[row] for row in found])
        expect_titles(page, "history", [tokenizer.titles[row] for row in reversed(rows)])


def test_phone(visit, space, tmp_path):
    _, _, tokenizer = space
    page = visit(width=390, height=844)
    add(page, tokenizer, [8, 4])
    page.click("#recommend")
    page.locator("#results .gram-row").nth(1).click()
    page.locator(".gram-steps").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.wait_for_function("document.getElementById('why').getBoundingClientRect().top < innerHeight / 2")  # is shown
    keep_screenshot(page, "space-phone.png", tmp_path)
