"""The Hub's rules for a card's metadata, checked on this machine before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n|\A)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # how every identifier of the Hub's list is written
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")


def metadata_of(card: str) -> dict[str, Any]:
    """The metadata between the two `---` lines at a card's head; empty where there are none.

    Raises:
        ValueError: they are no YAML, or no mapping.
    """
    found = FRONT_MATTER.match(card)
    try:
        metadata = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError as error:
        raise ValueError(f"the metadata is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(metadata or {}, dict):
        raise ValueError("the metadata must be `name: value` lines")
    return metadata or {}


def card_problems(card: str) -> list[str]:
    r"""What the Hub would refuse in a model card; empty where it is good.

    Args:
        card: the text of a `README.md`.

    Example:
        >>> card_problems("---\nlicense: Apache 2.0\ntags: recommendation\n---\n")
        ['"license" is no identifier of https://hf.co/docs/hub/repositories-licenses', '"tags" must be an array']
    """
    try:
        metadata = metadata_of(card)
    except ValueError as error:
        return [str(error)]
    problems = []
    for name, check in _RULES.items():
        if metadata.get(name) is not None:
            problems += check(f'"{name}"', metadata[name])
    return problems


def _text(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{name} must be a string"
    elif not value.strip():
        yield f"{name} is not allowed to be empty"


def _matching(allowed: Callable[[str], Any], complaint: str) -> Callable:
    def check(name: str, value: Any) -> Iterator[str]:
        problems = list(_text(name, value))
        yield from problems
        if not problems and not allowed(value):
            yield f"{name} {complaint}"

    return check


def _array(of: Callable) -> Callable:
    def check(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{name} must be an array"
            return
        for place, element in enumerate(value):
            yield from of(f'"{name.strip(chr(34))}[{place}]"', element)

    return check


def _one_or_more(of: Callable) -> Callable:
    def check(name: str, value: Any) -> Iterator[str]:
        yield from (_array(of) if isinstance(value, list) else of)(name, value)

    return check


def _fields(required: dict[str, Callable], optional: dict[str, Callable]) -> Callable:
    def check(name: str, value: Any) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{name} must be of type object"
            return
        for field, rule in {**required, **optional}.items():
            place = f'"{name.strip(chr(34))}.{field}"'
            if value.get(field) is not None:
                yield from rule(place, value[field])
            elif field in required:
                yield f"{place} is required"

    return check


def _anything(name: str, value: Any) -> Iterator[str]:
    yield from ()


def _emissions(name: str, value: Any) -> Iterator[str]:
    grams = value.get("emissions") if isinstance(value, dict) else value
    if isinstance(grams, bool) or not isinstance(grams, int | float):
        yield f"{name} must be a number of grams, or hold one as `emissions`"


def _is_repo_id(value: str) -> bool:
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


_REPO = _matching(_is_repo_id, "is no id of a repository on the Hub")
_LANGUAGE = _matching(LANGUAGE.fullmatch, "must be an ISO 639 code in lower case, `code` or `multilingual`")
_LICENSE = _matching(LICENSE.fullmatch, "is no identifier of https://hf.co/docs/hub/repositories-licenses")
_RESULT = _fields(
    {
        "task": _fields({"type": _text}, {"name": _text}),
        "dataset": _fields({"type": _text, "name": _text}, dict.fromkeys(("config", "split", "revision"), _text)),
        "metrics": _array(_fields({"type": _text, "value": _anything}, {"name": _text})),
    },
    {"source": _fields({"url": _text}, {"name": _text})},
)
_RULES = {
    "language": _one_or_more(_LANGUAGE),
    "license": _one_or_more(_LICENSE),
    "license_name": _text,
    "license_link": _text,
    "library_name": _text,
    "pipeline_tag": _text,
    "tags": _array(_text),
    "datasets": _one_or_more(_REPO),
    "metrics": _array(_text),
    "base_model": _one_or_more(_REPO),
    "thumbnail": _text,
    "co2_eq_emissions": _emissions,
    "model-index": _array(_fields({"name": _text, "results": _array(_RESULT)}, {})),
}
