"""The Hub's rules for the YAML at the top of a model card, checked without the Hub.

From its documentation of model cards and licences, and from what its `validate-yaml` answers to cards that break them.
The Hub may know licences and tasks that are younger than these lists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from huggingface_hub import CardData, ModelCard
from huggingface_hub.utils import yaml_dump

from ..common.settings import yaml_mapping

LICENCES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    openrail++ afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl
    gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl osl-3.0 postgresql ofl-1.1 ncsa
    unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 gemma unknown other
    """.split()
)
TASKS = frozenset(
    """
    any-to-any audio-classification audio-text-to-text audio-to-audio automatic-speech-recognition depth-estimation
    document-question-answering feature-extraction fill-mask graph-ml image-classification image-feature-extraction
    image-segmentation image-text-to-text image-to-3d image-to-image image-to-text image-to-video keypoint-detection
    mask-generation multiple-choice object-detection other question-answering reinforcement-learning robotics
    sentence-similarity summarization table-question-answering table-to-text tabular-classification tabular-regression
    tabular-to-text text-classification text-generation text-ranking text-retrieval text-to-3d text-to-audio
    text-to-image text-to-speech text-to-video text2text-generation time-series-forecasting token-classification
    translation unconditional-image-generation video-classification video-text-to-text visual-document-retrieval
    visual-question-answering voice-activity-detection zero-shot-classification zero-shot-image-classification
    zero-shot-object-detection
    """.split()
)
BASE_MODEL_RELATIONS = ("adapter", "finetune", "merge", "quantized")

_REPO = re.compile(r"(?:[\w-]+/)?[\w.-]+", re.ASCII)  # of models and data sets: NAME or NAMESPACE/NAME
_LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
_URL = re.compile(r"https?://\S+")
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)(?:\r?\n|\A)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def check_metadata(card: ModelCard | CardData | dict[str, Any]) -> None:
    """Check a card's metadata against the Hub's rules.

    Raises:
        ValueError: the metadata break some; the message names every field at fault and what it may hold.
    """
    data = card.data if isinstance(card, ModelCard) else card
    problems = metadata_problems(data.to_dict() if isinstance(data, CardData) else data)
    if problems:
        raise ValueError(f"model card metadata: {'; '.join(problems)}")


def card_problems(card: str) -> list[str]:
    r"""What the Hub would find at fault with the text of a `README.md`; empty where all is well.

    Example:
        >>> from gram.hub.metadata_rules import card_problems
        >>> card_problems("---\ntags: recommendation\n---\n")
        ["'tags' is 'recommendation'; it must be a list of texts"]
    """
    try:
        return metadata_problems(metadata_of(card))
    except ValueError as error:
        return [str(error)]


def metadata_of(card: str) -> dict[str, Any]:
    """The metadata between the two `---` lines at a card's head; empty where there are none.

    Raises:
        ValueError: they are no YAML, or no mapping.
    """
    found = _FRONT_MATTER.match(card)
    try:
        return yaml_mapping(found[1]) if found else {}
    except ValueError as error:
        raise ValueError(f"the metadata: {error}") from None


def metadata_problems(metadata: dict[str, Any]) -> list[str]:
    """What the Hub would find at fault with the YAML of a model card, a line for each; empty where all is well."""
    found: list[str] = []
    for name, (check, what) in _FIELDS.items():
        if name in metadata and not check(metadata[name]):
            found.append(f"{name!r} is {_shown(metadata[name])}; it must be {what}")
    if metadata.get("license") == "other" and not _is_text(metadata.get("license_name")):
        found.append("'license' is 'other'; 'license_name' must say which")
    if "model-index" in metadata:
        found += _model_index_problems(metadata["model-index"])
    return found


def _shown(value: Any) -> str:
    text = " ".join(yaml_dump(value).split()) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_repo(value: Any) -> bool:
    return isinstance(value, str) and _REPO.fullmatch(value) is not None


def _is_language(value: Any) -> bool:
    return isinstance(value, str) and _LANGUAGE.fullmatch(value) is not None


def _is_licence(value: Any) -> bool:
    return isinstance(value, str) and value in LICENCES


def _is_licence_link(value: Any) -> bool:
    return _is_text(value) and (_URL.fullmatch(value) is not None or value in ("LICENSE", "LICENSE.md"))


def _is_emission(value: Any) -> bool:
    return _is_number(value) or (isinstance(value, dict) and _is_number(value.get("emissions")))


def _list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and all(map(check, values))


def _one_or_list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: check(values) or (_list_of(check)(values) and len(values) > 0)


_LICENCE_HELP = "an identifier of https://huggingface.co/docs/hub/repositories-licenses, such as apache-2.0, or other"
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "language": (_one_or_list_of(_is_language), "an ISO 639 code in lower case, such as en, or a list of them"),
    "license": (_one_or_list_of(_is_licence), _LICENCE_HELP),
    "license_name": (_is_text, "a text"),
    "license_link": (_is_licence_link, "a URL, or LICENSE for a file of the repository"),
    "library_name": (_is_text, "a text"),
    "pipeline_tag": (
        lambda value: isinstance(value, str) and value in TASKS,
        "a task of https://huggingface.co/tasks; others go into 'tags'",
    ),
    "tags": (_list_of(_is_text), "a list of texts"),
    "datasets": (_one_or_list_of(_is_repo), "the name of a data set on the Hub, or a list of them"),
    "metrics": (_list_of(_is_text), "a list of texts"),
    "base_model": (_one_or_list_of(_is_repo), "the name of a model on the Hub, or a list of them"),
    "base_model_relation": (
        lambda value: value in BASE_MODEL_RELATIONS,
        f"one of {', '.join(BASE_MODEL_RELATIONS)}",
    ),
    "co2_eq_emissions": (_is_emission, "grams as a number, or a mapping with 'emissions'"),
    "thumbnail": (_is_text, "a text"),
}


def _model_index_problems(index: Any) -> list[str]:
    found: list[str] = []
    for model, place in _entries(index, "model-index", found):
        if not _is_text(model.get("name")):
            found.append(f"'{place}.name' is missing")
        for result, place_of_result in _entries(model.get("results"), f"{place}.results", found):
            found += _result_problems(result, place_of_result)
    return found


def _result_problems(result: dict, place: str) -> list[str]:
    found: list[str] = []
    task, dataset = (result.get(name) if isinstance(result.get(name), dict) else {} for name in ("task", "dataset"))
    if not _is_text(task.get("type")):
        found.append(f"'{place}.task.type' is missing")
    if not _is_text(dataset.get("name")):
        found.append(f"'{place}.dataset.name' is missing")
    if not _is_repo(dataset.get("type")):
        allowed = "it must be of letters, digits, '.', '_' and '-', with a namespace before '/' or none"
        found.append(f"'{place}.dataset.type' is {dataset.get('type')!r}; {allowed}")
    for metric, place_of_metric in _entries(result.get("metrics"), f"{place}.metrics", found):
        if not _is_text(metric.get("type")):
            found.append(f"'{place_of_metric}.type' is missing")
        value = metric.get("value")
        if not (_is_number(value) or _is_text(value)):
            found.append(f"'{place_of_metric}.value' is {_shown(value)}; it must be a finite number or a text")
        if metric.get("verified"):
            found.append(f"'{place_of_metric}.verified' is for the Hub alone to set")
    return found


def _entries(values: Any, place: str, found: list[str]) -> list[tuple[dict, str]]:
    if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
        found.append(f"{place!r} must be a list of mappings, at least one")
        return []
    return [(value, f"{place}[{number}]") for number, value in enumerate(values)]
