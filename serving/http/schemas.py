"""What goes over the wire, as pydantic models: the OpenAPI page is made of them."""

# No `from __future__ import annotations`: the limits in the annotations are the settings' of one server.
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from .settings import ServeSettings


class RecommendedItem(BaseModel):
    """An item for a user."""

    item_id: str
    title: str
    score: float = Field(description="Mean log-probability of the tokens of the item's lexical ID; higher is better.")


class Recommendations(BaseModel):
    """Items of each user, in the order of the histories."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"recommendations": [[{"item_id": "181", "title": "Return of the Jedi (1983)", "score": -1.62}]]}
            ]
        }
    )
    recommendations: list[list[RecommendedItem]] = Field(
        description="Best first; fewer than `top_k` where the catalogue has no more."
    )


class ItemTitle(BaseModel):
    """An item by id and title."""

    item_id: str
    title: str


class Item(ItemTitle):
    """An item of the catalogue, and the tokens that the model spells it with."""

    lexical_id: list[str] = Field(description="Tokens of its lexical ID.", examples=[["▁star", "▁space", "▁war"]])


class Items(BaseModel):
    """A page of the items that were found."""

    total: int = Field(description="Items found, on all pages.")
    items: list[Item]


class ItemDetails(Item):
    """All that the catalogue says of an item."""

    text: str = Field(description="What the model reads of the item beside its IDs.")
    similar_items: list[ItemTitle] = Field(description="Items that the same users take, most similar first.")


class Health(BaseModel):
    """The server's state."""

    ready: bool = Field(description="Whether requests are answered.")
    model: str
    num_items: int = Field(description="Items that may be recommended.")
    max_history: int = Field(description="Items of a history that the model reads, the newest.")
    device: str
    waiting_users: int = Field(description="Users whose search has not begun.")
    versions: dict[str, str]


class Error(BaseModel):
    """Every error has this form."""

    detail: str = Field(
        description="What is wrong, and where.",
        examples=["histories[0][1]: item 'XXX' is not in the catalogue of 1349 items"],
    )


def recommend_request(settings: ServeSettings, item_ids: list[str]) -> type[BaseModel]:
    """The model of a request, with the limits of these settings and an example of these items."""
    history = Annotated[list[str], Field(min_length=1, max_length=settings.max_history_length)]

    class RecommendRequest(BaseModel):
        """Users, and what to find for them."""

        model_config = ConfigDict(
            extra="forbid",
            strict=True,
            json_schema_extra={"examples": [{"histories": [item_ids[:2], item_ids[-1:]], "top_k": 5}]},
        )
        histories: Annotated[
            list[history],
            Field(
                min_length=1,
                max_length=settings.max_histories,
                description="Item ids of each user, oldest first. The model reads the newest of them.",
            ),
        ]
        top_k: int = Field(
            min(10, settings.max_top_k), ge=1, le=settings.max_top_k, description="The most items per user."
        )
        exclude_seen: bool = Field(True, description="Leave out every item of the user's history.")
        num_beams: int = Field(
            min(50, settings.max_num_beams),
            ge=1,
            le=settings.max_num_beams,
            description="Width of the search; at least `top_k` are taken.",
        )

    return RecommendRequest
