"""The endpoints of `gram serve`."""

# No `from __future__ import annotations`: FastAPI must see the request's model, which has the limits of one server.
import asyncio
import platform
from typing import Annotated

from ... import __version__
from ...common.extras import needs
from ...common.provenance import versions
from ..recommendation import Recommender
from ..similar import BOTH
from .batching import Batcher
from .guard import Accounts, Keyed, guarded_route
from .schemas import (
    FIELDS,
    ID,
    Availability,
    Error,
    Health,
    ItemDetails,
    Items,
    Recommendations,
    SimilarTo,
    Source,
    recommend_request,
)

with needs("serve", "serving"):
    import anyio
    from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from prometheus_client.exposition import choose_encoder

DESCRIPTION = """
A generative recommender: it spells out each user's next item, token by token. Requests that arrive together share one
search, and get what they would get alone. Every error is `{"detail": "what is wrong, and where"}`.
"""


def create_app(batcher: Batcher, name: str, api_key: str | None = None) -> FastAPI:
    """The application, which starts the batcher and stops it, with its settings as limits.

    `name` is the model's. With an `api_key` all but `/live` and `/health` ask for it.
    """
    about = {"title": "GRAM", "description": DESCRIPTION, "version": __version__}
    app = FastAPI(**about, lifespan=batcher.working, responses=_errors(422, 500))
    if api_key is not None:
        app.add_middleware(Keyed, api_key=api_key)
    app.add_middleware(Accounts, metrics=batcher.metrics)  # around all others
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(Exception, _failed)
    _add_recommend(app, batcher)
    _add_catalogue(app, batcher)
    _add_state(app, batcher, name)
    return app


def _add_recommend(app: FastAPI, batcher: Batcher) -> None:
    RecommendRequest = recommend_request(batcher.settings, batcher.served)  # noqa: N806

    router = APIRouter(route_class=guarded_route(batcher.settings))

    @router.post("/recommend", tags=["recommend"], responses=_errors(400, 408, 413, 415, 503, 504))
    async def recommend(body: RecommendRequest, request: Request) -> Recommendations:
        """The next items of each user."""
        request.scope["access"] = {"users": len(body.histories)}
        options, tokenizer = dict(body), batcher.served.recommender.tokenizer
        for place, condition in enumerate(body.where):
            try:  # the first use of one may take long, and is kept
                await asyncio.to_thread(tokenizer.allowed_rows, where=condition)
            except ValueError as error:
                raise HTTPException(422, f"where[{place}]: {error}") from None
        try:
            with anyio.fail_after(options.pop("timeout")):
                found = await batcher.recommend(**options)
        except TimeoutError:
            raise HTTPException(504, f"no answer within {body.timeout:g} s") from None
        more = {"skipped": [items.skipped for items in found], "fallback": [items.is_fallback for items in found]}
        return Recommendations(recommendations=found, **more)

    app.include_router(router)


def _add_catalogue(app: FastAPI, batcher: Batcher) -> None:
    # These are no coroutines: the search takes milliseconds, and is made in a thread.
    @app.get("/items", tags=["catalogue"])
    def find_items(
        query: str = Query("", max_length=200, description="Words, or their beginnings; none: all items."),
        limit: int = Query(20, ge=1, le=100, description="Items on a page."),
        offset: int = Query(0, ge=0, le=1 << 40, description="Items to pass over."),
    ) -> Items:
        """Items of the catalogue that hold all words: the one with this id, then by title, then by text."""
        now = batcher.served.now
        rows = now.search.find(query)
        page = rows[offset : offset + limit].tolist()
        return Items(total=len(rows), items=[_record(now.recommender, row) for row in page])

    @app.get("/items/{item_id:path}/similar", tags=["catalogue"], responses=_errors(404))
    def find_similar(
        item_id: str,
        by: Annotated[Source, Query(description="What the model reads of them, who takes them, or both.")] = BOTH,
        limit: int = Query(10, ge=1, le=100, description="The most items."),
    ) -> SimilarTo:
        """The items that are most like one, of those that are available."""
        now = batcher.served.now
        _row(now.recommender, item_id)
        return SimilarTo(items=now.similar.find(item_id, limit, by))

    @app.get("/items/{item_id:path}", tags=["catalogue"], responses=_errors(404))
    def get_item(item_id: str) -> ItemDetails:
        """An item's text, lexical ID and similar items, and whether it is available."""
        recommender = batcher.served.recommender
        item = _record(recommender, _row(recommender, item_id))
        similar = [_record(recommender, _row(recommender, other)) for other in item["similar_items"]]
        available = recommender.is_available(item_id)
        return ItemDetails(**item | {"similar_items": similar, "available": available})

    @app.put("/items/{item_id:path}/availability", tags=["catalogue"], responses=_errors(404))
    def set_availability(item_id: str, body: Availability) -> Availability:
        """Recommend an item to nobody, or again; this holds from the next request on, until the server ends."""
        _row(batcher.served.recommender, item_id)
        batcher.served.set_available(item_id, body.available)
        return body


def _row(recommender: Recommender, item_id: str) -> int:
    row = recommender.tokenizer.item_rows.get(item_id)
    if row is None:
        raise HTTPException(404, f"item {item_id[:200]!r} is not in the catalogue")
    return row


def _record(recommender: Recommender, row: int) -> dict:
    return recommender.tokenizer.catalogue.slice(row, 1).to_pylist()[0]


def _add_state(app: FastAPI, batcher: Batcher, name: str) -> None:
    about = {"gram": __version__, "python": platform.python_version(), **versions(("torch", "transformers"))}

    @app.get("/health", tags=["state"], responses={503: {"model": Health, "description": "Not ready."}})
    async def health(response: Response) -> Health:
        """Whether the server is ready, and what it serves."""
        response.status_code, now = 200 if batcher.is_ready else 503, batcher.served.now
        recommender = now.recommender
        return Health(
            ready=batcher.is_ready,
            model=name,
            since=now.since,
            num_items=int(recommender.model.item_trie.sizes[0]),
            unavailable=len(recommender.unavailable),
            max_history=recommender.tokenizer.max_history,
            device=str(recommender.model.device),
            waiting_users=batcher.num_waiting,
            versions=about,
        )

    @app.get("/live", tags=["state"])
    async def live() -> dict[str, bool]:
        """Whether the server answers at all; to be asked by who starts it anew where it does not."""
        return {"live": True}

    text = {"description": "Samples.", "content": {"text/plain": {"example": "gram_users_total 12"}}}

    @app.get("/metrics", tags=["state"], response_class=Response, responses={200: text})
    async def show_metrics(request: Request) -> Response:
        """Counts of requests, latencies, batch sizes and the queue, in the text format of Prometheus."""
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(batcher.metrics.registry), headers={"Content-Type": kind})


async def _not_valid(request: Request, error: RequestValidationError) -> Response:
    """`histories[0][1]: Input should be a valid string`."""
    first = error.errors()[0]
    source, *place = (step for step in first["loc"] if step not in (ID, FIELDS))
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
