"""What goes over the wire, as pydantic models: the OpenAPI page is made of them."""

# No `from __future__ import annotations`: the limits in the annotations are the settings' of one server.
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from ..recommendation import Recommendation
from .served import Served
from .settings import ServeSettings

MOST_CONDITIONS, MOST_FIELDS, MOST_CHARACTERS = 100, 50, 1000
Source = Literal["text", "users", "both"]  # of what is similar
ID, FIELDS = "<id>", "<fields>"  # what an item of a history is given by
EXAMPLE = {
    "recommendations": [[{"item_id": "181", "title": "Return of the Jedi (1983)", "score": -1.62}]],
    "skipped": [["4711"]],
    "fallback": [False],
}


class Recommendations(BaseModel):
    """Items of each user, in the order of the histories."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})
    recommendations: list[list[Recommendation]] = Field(
        description="Best first; fewer than `top_k` where the catalogue has no more."
    )
    skipped: list[list[str]] = Field(description="Of each user, the items that the catalogue does not have.")
    fallback: list[bool] = Field(
        description="Whether these are the most popular items, as none of the user's is known."
    )


class Item(BaseModel):
    """An item of the catalogue, and the tokens that the model spells it with."""

    item_id: str
    title: str
    lexical_id: list[str] = Field(description="Tokens of its lexical ID.", examples=[["▁star", "▁space", "▁war"]])


class Items(BaseModel):
    """A page of the items that were found."""

    total: int = Field(description="Items found, on all pages.")
    items: list[Item]


class ItemDetails(Item):
    """All that the catalogue says of an item."""

    available: bool = Field(description="Whether it may be recommended now.")
    text: str = Field(description="What the model reads of the item beside its IDs.")
    similar_items: list[Item] = Field(description="Items that the same users take, most similar first.")


class SimilarTo(BaseModel):
    """Items that are like an item, most alike first."""

    items: list[Recommendation]


class Availability(BaseModel):
    """Whether an item may be recommended."""

    model_config = ConfigDict(extra="forbid", strict=True)
    available: bool


class Health(BaseModel):
    """The server's state."""

    ready: bool = Field(description="Whether requests are answered.")
    model: str
    since: float = Field(description="When this model was loaded, in seconds since 1970.")
    num_items: int = Field(description="Items that may be recommended, also those that are unavailable now.")
    unavailable: int = Field(description="Items that are not available now.")
    max_history: int = Field(description="Items of a history that the model reads, the newest.")
    device: str
    waiting_users: int = Field(description="Users whose search has not begun.")
    versions: dict[str, str]


class Error(BaseModel):
    """Every error has this form."""

    detail: str = Field(
        description="What is wrong, and where.",
        examples=["exclude[0]: item 'XXX' is not in the catalogue of 1349 items"],
    )


def recommend_request(settings: ServeSettings, served: Served) -> type[BaseModel]:
    """The model of a request, with the limits of these settings, for the items of the catalogue that is served."""
    examples, most_items, most_beams = served.recommender.tokenizer.item_ids, settings.max_top_k, settings.max_num_beams

    def known_item(item: str) -> str:
        rows = served.recommender.tokenizer.item_rows
        if item not in rows:
            facts = {"item": repr(item[:200]), "size": len(rows)}
            raise PydanticCustomError("unknown_item", "item {item} is not in the catalogue of {size} items", facts)
        return item

    def with_text(fields: dict) -> dict:
        try:
            served.recommender.tokenizer.known_rows([fields])
        except ValueError as error:
            raise PydanticCustomError("no_text", "{error}", {"error": str(error)}) from None
        return fields

    condition = Annotated[str, Field(max_length=MOST_CHARACTERS, examples=["genres=Comedy"])]
    # A list is looked at up to its first fault: that one alone is told.
    item = Annotated[str, AfterValidator(known_item)]

    name = Annotated[str, Field(max_length=MOST_CHARACTERS)]  # which a string that is no Unicode has not
    text = name | list[name] | int | float | bool | None
    fields = Annotated[dict[name, text], Field(max_length=MOST_FIELDS), AfterValidator(with_text)]
    id_or_fields = Annotated[
        Annotated[name, Tag(ID)] | Annotated[fields, Tag(FIELDS)],
        Discriminator(lambda given: FIELDS if isinstance(given, dict) else ID),
    ]
    history = Annotated[list[id_or_fields], Field(max_length=settings.max_history_length, fail_fast=True)]

    class RecommendRequest(BaseModel):
        """Users, and what to find for them."""

        model_config = ConfigDict(
            extra="forbid",
            strict=True,
            json_schema_extra={"examples": [{"histories": [examples[:2], examples[-1:]], "top_k": 5}]},
        )
        histories: list[history] = Field(
            min_length=1,
            max_length=settings.max_histories,
            fail_fast=True,
            description="Item ids of each user, oldest first. The model reads the newest of those that it knows. An "
            "item that is in no catalogue may be given by its fields, such as a title, in place of an id.",
        )
        top_k: int = Field(min(10, most_items), ge=1, le=most_items, description="The most items per user.")
        exclude_seen: bool = Field(True, description="Leave out every item of the user's history.")
        exclude: list[item] = Field([], fail_fast=True, description="Items that none of these users gets.")
        only: list[item] | None = Field(
            None, fail_fast=True, description="The items that they may get; by default all."
        )
        where: list[condition] = Field(
            [], max_length=MOST_CONDITIONS, fail_fast=True, description="Conditions that all they get meets."
        )
        num_beams: int = Field(min(50, most_beams), ge=1, le=most_beams, description="Width; at least `top_k` counts.")
        cold_share: float = Field(
            0.0, ge=0, le=1, description="This share of the places is for cold items, such as new ones."
        )
        cold_below: int = Field(1, ge=1, le=10**9, description="These have fewer in the training part.")
        timeout: float = Field(
            settings.request_timeout, gt=0, le=settings.request_timeout, description="Seconds to wait for the answer."
        )

    return RecommendRequest
