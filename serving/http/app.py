"""The endpoints of `gram serve`."""

# No `from __future__ import annotations`: FastAPI must see the request's model, which has the limits of one server.
import platform
from contextlib import asynccontextmanager
from typing import Annotated

import torch
import transformers
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client.exposition import choose_encoder

from ... import __version__
from .batching import Batcher
from .catalogue import CatalogueSearch
from .guard import Accounts, guarded_route
from .schemas import Error, Health, Item, ItemDetails, Items, ItemTitle, Recommendations, recommend_request

DESCRIPTION = """
A generative recommender: it spells out each user's next item, token by token. Requests that arrive together share one
search, and get what they would get alone. Every error is `{"detail": "what is wrong, and where"}`.
"""


def create_app(batcher: Batcher, name: str) -> FastAPI:
    """The application, which starts the batcher and stops it.

    Args:
        batcher: what searches; its settings are the application's limits.
        name: of the model, as it is shown.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        batcher.start()
        yield
        await batcher.stop()

    app = FastAPI(
        title="GRAM", description=DESCRIPTION, version=__version__, lifespan=lifespan, responses=_errors(422, 500)
    )
    app.add_middleware(Accounts, metrics=batcher.metrics)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(Exception, _failed)
    _add_recommend(app, batcher)
    _add_catalogue(app, batcher)
    _add_state(app, batcher, name)
    return app


def _add_recommend(app: FastAPI, batcher: Batcher) -> None:
    RecommendRequest = recommend_request(batcher.settings, batcher.recommender.tokenizer.item_ids)  # noqa: N806

    async def recommend(body: RecommendRequest, request: Request) -> Recommendations:
        """The next items of each user."""
        request.scope["access"] = {"users": len(body.histories)}
        found = await batcher.recommend(body.histories, body.top_k, body.exclude_seen, body.num_beams)
        return Recommendations(recommendations=found)

    app.router.add_api_route(
        "/recommend",
        recommend,
        methods=["POST"],
        tags=["recommend"],
        responses=_errors(400, 408, 413, 415, 503, 504),
        route_class_override=guarded_route(batcher.settings),
    )


def _add_catalogue(app: FastAPI, batcher: Batcher) -> None:
    tokenizer, num_items = batcher.recommender.tokenizer, batcher.recommender.model.item_trie.num_items
    catalogue, search = tokenizer.catalogue, CatalogueSearch(tokenizer, num_items)

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

    @app.get("/items/{item_id:path}", tags=["catalogue"], responses=_errors(404))
    def get_item(item_id: str) -> ItemDetails:
        """An item's text, lexical ID and similar items."""
        row = tokenizer.item_rows.get(item_id)
        if row is None:
            raise HTTPException(404, f"item {item_id[:200]!r} is not in the catalogue")
        similar = [
            ItemTitle(item_id=other, title=tokenizer.titles[tokenizer.item_rows[other]])
            for other in catalogue["similar_items"][row].as_py()
        ]
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

    text = {"description": "Samples.", "content": {"text/plain": {"example": "gram_users_total 12"}}}

    @app.get("/metrics", tags=["state"], response_class=Response, responses={200: text})
    async def show_metrics(request: Request) -> Response:
        """Counts of requests, latencies, batch sizes and the queue, in the text format of Prometheus."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(batcher.metrics.registry), headers={"Content-Type": kind})


async def _not_valid(request: Request, error: RequestValidationError) -> Response:
    """`histories[0][1]: Input should be a valid string`."""
    first = error.errors()[0]
    source, *place = first["loc"]
    if first["type"] == "json_invalid":
        return _error(400, f"the body is not JSON: {first['ctx']['error']} at character {place[-1]}")
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    if not place and source == "body" and first["type"] != "missing" and kind != "application/json":
        return _error(415, "send the body as JSON, with the header 'Content-Type: application/json'")
    words = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:200]}" for step in place).lstrip(".")
    return _error(422, f"{words or f'the {source}'}: {first['msg']}")


async def _failed(_: Request, error: Exception) -> Response:
    return _error(500, "the server failed; its log says why")


def _error(status: int, detail: str) -> Response:
    # What a client sent may hold characters that cannot be encoded.
    return JSONResponse({"detail": detail.encode("utf-8", "backslashreplace").decode()}, status)


def _errors(*statuses: int) -> dict[int, dict]:
    return {status: {"model": Error} for status in statuses}
