"""What a visitor does: every function takes the state of their session and gives what the page shows then."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from engine import Engine, Found
from jinja2 import Environment, FileSystemLoader

NUM_HITS, TOP_K = 20, 10

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
views = templates.get_template("views.html").module


class Visits:
    """What happens on a click, for all visitors of a model; nothing of theirs is kept here.

    A history is a list of catalogue rows, oldest first.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    def search(self, words: str, history: list[int]) -> str:
        """What a search finds."""
        return views.hits(self.engine, *self.engine.search(words, NUM_HITS), history)

    def edit(self, words: str, history: list[int], found: Found, event: gr.EventData):
        """Add to the history, remove from it, or move within it; returns history, hits, history's view, results."""
        history = edited(history, event._data.get("act"), event._data.get("row"), len(self.engine.item_ids))
        return self._after(words, history, found)

    def open(self):
        """The page as a visitor finds it: an example with its recommendations; returns what `clear` returns."""
        history = self.engine.example
        try:
            found = self._found(history)
        except ValueError:  # of this model nothing can be recommended for it
            found = Found()
        return self._begin("", history, found)

    def clear(self, words: str):
        """Begin anew; returns what `edit` returns, then what was found and the view of reasons."""
        return self._begin(words, [], Found())

    def recommend(self, history: list[int]):
        """Recommend; returns what was found and the views of results and reasons."""
        if not history:
            return self._failed("The history is empty. Add at least one item, then press Recommend.")
        try:
            found = self._found(history)
        except ValueError as error:
            return self._failed(str(error))
        return self._shown(found, history)

    def choose(self, found: Found, history: list[int], event: gr.EventData):
        """Look at one of the recommendations; returns what `recommend` returns."""
        place = event._data.get("row")
        if isinstance(place, int) and 0 <= place < len(found.items):
            found = Found(found.items, found.history, place)
        return self._shown(found, history)

    def _found(self, history: list[int]) -> Found:
        return Found(tuple(self.engine.recommend(history, TOP_K)), tuple(history))

    def _begin(self, words: str, history: list[int], found: Found):
        return *self._after(words, history, found), found, views.why(self.engine, found)

    def _after(self, words: str, history: list[int], found: Found):
        hits, past = self.search(words, history), views.history(self.engine, history)
        return history, hits, past, self._results(found, history)

    def _shown(self, found: Found, history: list[int]):
        return found, self._results(found, history), views.why(self.engine, found)

    def _failed(self, message: str):
        return Found(), views.message(message), views.why(self.engine, Found())

    def _results(self, found: Found, history: list[int]) -> str:
        return views.results(self.engine, found, is_stale=found.history != tuple(history))


def edited(history: list[int], action: str, row: int, num_items: int) -> list[int]:
    """A history after a click; the same where the click makes no sense."""
    if not isinstance(row, int) or not 0 <= row < num_items:
        return history
    if row not in history:
        return [*history, row] if action == "add" else history
    place, rest = history.index(row), [other for other in history if other != row]
    if action == "remove":
        return rest
    if action in ("newer", "older"):
        place = max(place + (1 if action == "newer" else -1), 0)
        return [*rest[:place], row, *rest[place:]]
    return history
