"""The endpoints of `gram serve`."""

# No `from __future__ import annotations`: FastAPI must see the request's model, which has the limits of one server.
import json
import platform
from contextlib import asynccontextmanager
from typing import Annotated

import torch
import transformers
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from ... import __version__
from ..recommendation import Recommender
from .batching import Batcher, QueueFullError, SearchError
from .catalogue import CatalogueSearch
from .guard import RECOMMEND
from .metrics import CONTENT_TYPE
from .schemas import Error, Health, Item, ItemDetails, Items, ItemTitle, Recommendations, recommend_request

DESCRIPTION = """
A generative recommender: it spells out each user's next item, token by token. Requests that arrive together share one
search, and get what they would get alone. Every error is `{"detail": "what is wrong, and where"}`.
"""
MEANINGS = {
    400: "The body is not JSON.",
    404: "No such item.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared to be JSON.",
    422: "A value is wrong, or an item is not in the catalogue.",
    500: "The server failed; its log says why.",
    503: "Too much to do; `Retry-After` says when to try again.",
    504: "There was no answer in time.",
}
_LONGEST = 200  # characters of a client's own words in an error


class JSONError(Response):
    """An error. In ASCII: what a client sent may hold characters that cannot be encoded."""

    media_type = "application/json"

    def render(self, content: str) -> bytes:
        """The detail, as JSON."""
        return json.dumps({"detail": content}).encode()


def create_app(batcher: Batcher, name: str) -> FastAPI:
    """The application, which starts the batcher and stops it.

    Args:
        batcher: what searches; its settings are the application's limits.
        name: of the model, as it is shown.
    """
    metrics = batcher.metrics
    metrics.add_gauge("gram_waiting_users", "Users whose search has not begun.", lambda: batcher.num_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(
        title="GRAM",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        responses=_responses(422, 500, 504),
    )
    _answer_errors_in_one_form(app)
    _add_recommend(app, batcher)
    _add_catalogue(app, batcher.recommender)
    _add_state(app, batcher, name)
    return app


def _add_recommend(app: FastAPI, batcher: Batcher) -> None:
    tokenizer = batcher.recommender.tokenizer
    RecommendRequest = recommend_request(batcher.settings, tokenizer.item_ids)  # noqa: N806

    @app.post(RECOMMEND, tags=["recommend"], responses=_responses(400, 408, 413, 415, 503))
    async def recommend(body: RecommendRequest, request: Request) -> Recommendations:
        """The next items of each user."""
        request.state.access = {"users": len(body.histories)}
        for user, history in enumerate(body.histories):
            for place, item in enumerate(history):
                if item not in tokenizer.item_rows:
                    size = len(tokenizer.item_ids)
                    detail = f"item {_short(repr(item))} is not in the catalogue of {size} items"
                    raise HTTPException(422, f"histories[{user}][{place}]: {detail}")
        try:
            found = await batcher.recommend(body.histories, body.top_k, body.exclude_seen, body.num_beams)
        except QueueFullError as error:
            raise HTTPException(503, str(error), {"Retry-After": str(error.retry_after)}) from None
        except SearchError as error:
            raise HTTPException(500, str(error)) from None
        return {"recommendations": [[vars(item) for item in items] for items in found]}


def _add_catalogue(app: FastAPI, recommender: Recommender) -> None:
    tokenizer, catalogue = recommender.tokenizer, recommender.tokenizer.catalogue
    search = CatalogueSearch(tokenizer, recommender.model.item_trie.num_items)

    def title(item_id: str) -> ItemTitle:
        return ItemTitle(item_id=item_id, title=tokenizer.titles[tokenizer.item_rows[item_id]])

    def item(row: int) -> dict:
        lexical_id = catalogue["lexical_id"][row].as_py()
        return {"item_id": tokenizer.item_ids[row], "title": tokenizer.titles[row], "lexical_id": lexical_id}

    # These two are no coroutines: the search takes milliseconds, and is made in a thread.
    @app.get("/items", tags=["catalogue"])
    def find_items(
        query: Annotated[
            str,
            Query(max_length=200, description="Words, or their beginnings; none: all items.", examples=["star"]),
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100, description="Items on a page.")] = 20,
        offset: Annotated[int, Query(ge=0, le=1 << 40, description="Items to pass over.")] = 0,
    ) -> Items:
        """Items of the catalogue that hold all words: the one with this id, then by title, then by text."""
        rows = search.find(query)
        return Items(total=len(rows), items=[Item(**item(row)) for row in rows[offset : offset + limit]])

    @app.get("/items/{item_id:path}", tags=["catalogue"], responses=_responses(404))
    def get_item(item_id: str) -> ItemDetails:
        """An item's text, lexical ID and similar items."""
        row = tokenizer.item_rows.get(item_id)
        if row is None:
            raise HTTPException(404, f"item {_short(repr(item_id))} is not in the catalogue")
        similar = [title(other) for other in catalogue["similar_items"][row].as_py()]
        return ItemDetails(**item(row), text=catalogue["text"][row].as_py(), similar_items=similar)


def _add_state(app: FastAPI, batcher: Batcher, name: str) -> None:
    model, tokenizer = batcher.recommender.model, batcher.recommender.tokenizer
    versions = {
        "gram": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

    @app.get("/health", tags=["state"], responses={503: {"model": Health, "description": "Not ready."}})
    async def health(response: Response) -> Health:
        """Whether the server is ready, and what it serves."""
        response.status_code = 200 if batcher.is_ready else 503
        return Health(
            ready=batcher.is_ready,
            model=name,
            num_items=model.item_trie.num_items,
            max_history=tokenizer.max_history,
            device=str(model.device),
            waiting_users=batcher.num_waiting,
            versions=versions,
        )

    # A coroutine, so that it runs in the event loop's thread, as all that counts.
    text = {"description": "Samples.", "content": {"text/plain": {"example": "gram_users_total 12"}}}

    @app.get("/metrics", tags=["state"], response_class=Response, responses={200: text})
    async def show_metrics() -> Response:
        """Counts of requests, latencies, batch sizes and the queue, in the text format of Prometheus."""
        return Response(batcher.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _answer_errors_in_one_form(app: FastAPI) -> None:
    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> Response:
        return JSONError(str(error.detail), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def not_valid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONError(f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}", 400)
        kind = request.headers.get("content-type", "").split(";")[0].strip()
        if first["loc"] == ("body",) and first["type"] != "missing" and kind != "application/json":
            return JSONError("send the body as JSON, with the header 'Content-Type: application/json'", 415)
        return JSONError(_in_words(first), 422)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONError("the server failed; its log says why", 500)


def _in_words(error: dict) -> str:
    """`histories[0][1]: Input should be a valid string`."""
    source, *place = error["loc"]
    words = "".join(f"[{step}]" if isinstance(step, int) else f".{_short(step)}" for step in place).lstrip(".")
    said, facts = error["msg"], error.get("ctx", {})
    if error["type"] == "too_short":
        said = "is empty; give at least one"
    elif error["type"] == "too_long":
        said = f"has {facts['actual_length']} entries; at most {facts['max_length']} are allowed"
    elif error["type"] == "extra_forbidden":
        said = "there is no such field"
    return f"{words or f'the {source}'}: {said}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _responses(*statuses: int) -> dict[int, dict]:
    return {status: {"model": Error, "description": MEANINGS[status]} for status in statuses}
