"""What a model card says that no other file of the model folder can tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.utils import validate_repo_id, yaml_dump

from ..common.files import new_file
from ..common.settings import settings_from
from .licences import check_licence

CARD_FILE = "card.yaml"


@dataclass(frozen=True)
class CardSettings:
    """What is said by hand in a model card; all of it may be left out.

    Attributes:
        repo_id: name of the model on the Hub, NAMESPACE/NAME; that of its folder by default.
        data_name: what the data set is called; that on the Hub, or of the data folder, by default.
        licence: of the weights, an identifier of the Hub such as apache-2.0, or other.
        licence_name: name of an other licence.
        licence_link: URL of an other licence, or LICENSE for a file of the folder.
        language: of the items' texts, ISO 639 codes by commas, such as en.
        datasets: on the Hub that the model was trained on, by commas; those that `gram prepare` read there by default.
        notes: Markdown for a section of its own.

    Raises:
        ValueError: `repo_id` or one of `datasets` cannot be a name on the Hub; the Hub does not know the licence, or it
            is other and has no name.
    """

    repo_id: str | None = None
    data_name: str | None = None
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    language: str | None = None
    datasets: str | None = None
    notes: str | None = None

    def __post_init__(self):
        for argument in ("repo_id", "datasets"):
            for name in words(getattr(self, argument)):
                _check_name(f"--{argument.replace('_', '-')}", name)
        if self.licence is not None:
            check_licence(self.licence)
        if self.licence == "other" and not self.licence_name:
            raise ValueError("the licence is 'other'; --licence-name must say which")

    @classmethod
    def of(cls, folder: str | Path, **given: Any) -> CardSettings:
        """Those `given`, over those in the `card.yaml` of a model folder, if there is one.

        Raises:
            ValueError: the file is no YAML mapping, or has an unknown key; the message names file and key.
        """
        path = Path(folder) / CARD_FILE
        return settings_from({"config": path if path.is_file() else None, **given}, cls)[0]

    def save(self, folder: str | Path) -> None:
        """Write `card.yaml`, for the next card; a file that says the same is left as it is."""
        path = Path(folder) / CARD_FILE
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if given == (yaml.safe_load(path.read_bytes()) or {} if path.is_file() else {}):
            return
        with new_file(path) as part:
            part.write_text(yaml_dump(given, sort_keys=False), encoding="utf-8")


def _check_name(argument: str, name: str) -> None:
    try:
        validate_repo_id(name)
    except ValueError as error:
        raise ValueError(f"{argument} {name!r}: {error}") from error


def words(text: str | None) -> list[str]:
    """What stands between the commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]
