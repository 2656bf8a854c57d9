"""The Space: find items, build a history, see what a GRAM model recommends, and why.

It runs wherever its folder is: `python app.py MODEL`, a folder or a name on the Hub. Without MODEL it takes the
environment variable MODEL_ID, or else the first of the models that README.md names.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gradio as gr
from engine import Engine
from huggingface_hub import metadata_load
from visits import Visits, views

HERE = Path(__file__).resolve().parent
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONOSPACE = ("ui-monospace", "SFMono-Regular", "Consolas", "monospace")
CLICKS = (HERE / "clicks.js").read_text(encoding="utf-8")
SCROLL_TO = "() => { if (innerWidth < 900) document.getElementById('%s').scrollIntoView({behavior: 'smooth'}); }"


def build(engine: Engine) -> gr.Blocks:
    """The page. Whatever belongs to a visitor is held in the state of their session."""
    visits, is_folder = Visits(engine), Path(engine.name).is_dir()
    shown = Path(engine.name).resolve().name if is_folder else engine.name
    example, hits, past, results, found, why = visits.open()
    with gr.Blocks(title=f"GRAM · {engine.name}", analytics_enabled=False, fill_width=True) as page:
        history, found = gr.State(example), gr.State(found)
        gr.HTML(views.header(shown, is_on_hub=not is_folder), apply_default_css=False)
        with gr.Row(elem_id="columns"):
            with _column("History"):
                what = {"label": "Search the catalogue", "placeholder": f"Search {len(engine.item_ids):,} items ..."}
                words = gr.Textbox(**what, show_label=False, container=False, elem_id="words", max_length=200)
                hits = _clickable(hits, "hits")
                past = _clickable(past, "history")
                with gr.Row():
                    clear = gr.Button("Clear", elem_id="clear", scale=1, min_width=80)
                    recommend = gr.Button("Recommend", variant="primary", elem_id="recommend", scale=3, min_width=140)
            with _column("Recommendations", "best"):
                results = _clickable(results, "results")
            with _column("Why", "why"):
                why = gr.HTML(why, apply_default_css=False, elem_id="reasons")

        private = {"api_visibility": "private"}
        quick = {"show_progress": "hidden", "concurrency_limit": None, **private}
        words.change(visits.search, [words, history], hits, trigger_mode="always_last", **quick)
        outputs = [history, hits, past, results]
        for component in (hits, past):
            component.click(visits.edit, [words, history, found], outputs, **quick)
        clear.click(visits.clear, words, [*outputs, found, why], **quick)
        outputs = [found, results, why]
        asked = recommend.click(
            visits.recommend, history, outputs, show_progress="minimal", concurrency_limit=2, **private
        )
        asked.then(js=SCROLL_TO % "best", **private)
        results.click(visits.choose, [found, history], outputs, **quick).then(js=SCROLL_TO % "why", **private)
    return page.queue(max_size=100)


def _column(title: str, name: str | None = None) -> gr.Column:
    with gr.Column(min_width=300, elem_classes="gram-column", elem_id=name) as column:
        gr.HTML(f"<h2>{title}</h2>", apply_default_css=False)
    return column


def _clickable(html: str, name: str) -> gr.HTML:
    return gr.HTML(html, js_on_load=CLICKS, apply_default_css=False, elem_id=name)


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
    except (OSError, ValueError, KeyError) as error:  # the last: a model that has no such pipeline
        sys.exit(f"app.py: {name}: {error}")
    build(engine).launch(
        theme=theme(), css_paths=HERE / "style.css", footer_links=["gradio"], show_error=True, ssr_mode=False
    )
