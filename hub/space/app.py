"""The Space: find items, build a history, see what a GRAM model recommends, and why.

It runs wherever its folder is: `python app.py MODEL`, a folder or a name on the Hub. Without MODEL it takes the
environment variable MODEL_ID, or else the first of the models that README.md names.
"""

from __future__ import annotations

import os
import sys
from html import escape
from pathlib import Path

import gradio as gr
from engine import Engine
from huggingface_hub import metadata_load
from views import history_view, hits_view, message_view, results_view, why_view

HERE = Path(__file__).resolve().parent
NUM_HITS, TOP_K = 20, 10
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")
# A click on whatever has `data-act` is told to Python; after an update the same button has the focus again.
CLICKS = """
let last = null;
const keyOf = button => button.dataset.act + button.dataset.row;
element.addEventListener('click', event => {
    const button = event.target.closest('button[data-act]');
    if (!button) return;
    last = keyOf(button);
    trigger('click', {act: button.dataset.act, row: Number(button.dataset.row)});
});
watch('value', () => {
    if (last === null) return;
    const buttons = [...element.querySelectorAll('button[data-act]:not([disabled])')];
    buttons.find(button => keyOf(button) === last)?.focus({preventScroll: true});
    last = null;
});
"""
SCROLL_TO = "() => { if (innerWidth < 900) document.getElementById('%s').scrollIntoView({behavior: 'smooth'}); }"


def build(engine: Engine) -> gr.Blocks:
    """The page. Whatever belongs to a visitor is held in the state of their session."""
    with gr.Blocks(title=f"GRAM · {engine.name}", analytics_enabled=False, fill_width=True) as page:
        history = gr.State([])  # catalogue rows, oldest first
        found = gr.State({"items": [], "chosen": 0, "history": []})  # recommendations, and what they were made for
        gr.HTML(_header(engine), apply_default_css=False)
        with gr.Row(elem_id="columns"):
            with gr.Column(min_width=300, elem_classes="gram-column"):
                gr.HTML("<h2>History</h2>", apply_default_css=False)
                what = {"label": "Search the catalogue", "placeholder": f"Search {len(engine.item_ids):,} items ..."}
                words = gr.Textbox(**what, show_label=False, container=False, elem_id="words", max_length=200)
                hits = _clickable(hits_view(engine, *engine.search("", NUM_HITS), []), "hits")
                past = _clickable(history_view(engine, []), "history")
                with gr.Row(elem_id="buttons"):
                    clear = gr.Button("Clear", elem_id="clear", scale=1, min_width=80)
                    recommend = gr.Button("Recommend", variant="primary", elem_id="recommend", scale=3, min_width=140)
            with gr.Column(min_width=300, elem_classes="gram-column", elem_id="best"):
                gr.HTML("<h2>Recommendations</h2>", apply_default_css=False)
                results = _clickable(results_view(engine, [], 0, False), "results")
            with gr.Column(min_width=300, elem_classes="gram-column", elem_id="why"):
                gr.HTML("<h2>Why</h2>", apply_default_css=False)
                why = gr.HTML(why_view(engine, [], 0, []), apply_default_css=False, elem_id="reasons")

        def search(words: str, history: list[int]):
            return hits_view(engine, *engine.search(words, NUM_HITS), history)

        def changed(words: str, history: list[int], found: dict):
            is_stale = bool(found["items"]) and found["history"] != history
            shown = results_view(engine, found["items"], found["chosen"], is_stale)
            return history, search(words, history), history_view(engine, history), shown

        def edit(words: str, history: list[int], found: dict, event: gr.EventData):
            history = edited(history, event._data.get("act"), event._data.get("row"), len(engine.item_ids))
            return changed(words, history, found)

        def ask(history: list[int], found: dict):
            if not history:
                found = {"items": [], "chosen": 0, "history": []}
                message = message_view("The history is empty. Add at least one item, then press Recommend.")
                return found, message, why_view(engine, [], 0, [])
            try:
                found = {"items": engine.recommend(history, TOP_K), "chosen": 0, "history": history}
            except ValueError as error:
                return found, message_view(str(error)), why_view(engine, [], 0, [])
            return found, *shown(found, history)

        def choose(found: dict, history: list[int], event: gr.EventData):
            place = event._data.get("row")
            if isinstance(place, int) and 0 <= place < len(found["items"]):
                found = {**found, "chosen": place}
            return found, *shown(found, history)

        def shown(found: dict, history: list[int]):
            items, chosen = found["items"], found["chosen"]
            is_stale = found["history"] != history
            return results_view(engine, items, chosen, is_stale), why_view(engine, items, chosen, found["history"])

        quick = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        words.change(search, [words, history], hits, trigger_mode="always_last", **quick)
        outputs = [history, hits, past, results]
        for component in (hits, past):
            component.click(edit, [words, history, found], outputs, **quick)
        clear.click(lambda words, found: changed(words, [], found), [words, found], outputs, **quick)
        slow = {**quick, "show_progress": "minimal", "concurrency_limit": 2}
        outputs = [found, results, why]
        recommend.click(ask, [history, found], outputs, **slow).then(js=SCROLL_TO % "best", api_visibility="private")
        results.click(choose, [found, history], outputs, **quick).then(js=SCROLL_TO % "why", api_visibility="private")
    return page.queue(max_size=100)


def edited(history: list[int], action: str, row: int, num_items: int) -> list[int]:
    """A history, oldest first, after a click; the same where the click makes no sense."""
    if not isinstance(row, int) or not 0 <= row < num_items:
        return history
    if action == "add" and row not in history:
        return [*history, row]
    if row not in history:
        return history
    place, rest = history.index(row), [other for other in history if other != row]
    if action == "remove":
        return rest
    if action in ("newer", "older"):
        place = max(place + (1 if action == "newer" else -1), 0)
        return [*rest[:place], row, *rest[place:]]
    return history


def _clickable(html: str, name: str) -> gr.HTML:
    return gr.HTML(html, js_on_load=CLICKS, apply_default_css=False, elem_id=name)


def _header(engine: Engine) -> str:
    name = escape(engine.name)
    if not Path(engine.name).is_dir():
        name = f'<a href="https://huggingface.co/{name}">{name}</a>'
    else:
        name = escape(Path(engine.name).resolve().name)
    return (
        f'<header class="gram-header"><h1>What next?</h1><p>Tell <b>{name}</b> what you liked. It reads your history '
        "as text and spells out, token by token, what may come next.</p></header>"
    )


def theme() -> gr.themes.Base:
    """Of fonts that every machine has: nothing is fetched from elsewhere."""
    return gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=MONOSPACE).set(
        body_text_color_subdued="*neutral_500",  # legible on white
        body_text_color_subdued_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        color_accent="*primary_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
    )


def model_name() -> str:
    """The model to show: the argument, MODEL_ID, or what README.md names."""
    named = [*sys.argv[1:2], os.environ.get("MODEL_ID"), *(metadata_load(HERE / "README.md") or {}).get("models", [])]
    name = next(filter(None, named), None)
    if name is None:
        sys.exit("app.py: no model; give one as argument, in MODEL_ID, or under `models:` in README.md")
    return name


if __name__ == "__main__":
    name = model_name()
    try:
        engine = Engine.load(name)
    except (OSError, ValueError) as error:
        sys.exit(f"app.py: {name}: {error}")
    build(engine).launch(
        theme=theme(), css_paths=HERE / "style.css", footer_links=["gradio"], show_error=True, ssr_mode=False
    )
