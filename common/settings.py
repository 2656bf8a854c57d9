"""Dataclass settings as command-line flags and YAML files, documented once, in the dataclass's docstring."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

RECIPES = Path(__file__).parents[1] / "recipes"


def add_flags(parser: argparse.ArgumentParser, settings_class: type) -> None:
    """One flag per field, `--field-name`, that the parser does not have yet; its help is the docstring's."""
    group = parser.add_argument_group(settings_class.__name__)
    documented, types = _documented(settings_class), get_type_hints(settings_class)
    for field in fields(settings_class):
        flag = "--" + field.name.replace("_", "-")
        if flag in parser._option_string_actions:
            continue
        required = field.default is MISSING
        kinds = get_args(types[field.name]) or (types[field.name],)
        kind = next(kind for kind in kinds if kind is not type(None))
        text = documented.get(field.name, "").replace("%", "%%")
        text += "" if required else f" (default: {'none' if field.default is None else field.default})"
        group.add_argument(
            flag,
            dest=field.name,
            type=_truth if kind is bool else _or_none(kind) if type(None) in kinds else kind,
            metavar="true|false" if kind is bool else kind.__name__.upper(),
            **({"nargs": "?", "const": True} if kind is bool else {}),
            default=argparse.SUPPRESS,
            help=text,
        )


def config_file(name: str | Path) -> Path:
    """A settings file: a path, or the name of one of the package's recipes, such as `beauty`.

    Raises:
        FileNotFoundError: it is neither; the message lists the recipes.
        IsADirectoryError: it is a folder.
    """
    path, recipe = Path(name), RECIPES / f"{name}.yaml"
    if path.is_file():
        return path
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give a YAML file of settings")
    if recipe.parent == RECIPES and recipe.is_file():
        return recipe
    names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
    raise FileNotFoundError(f"{name}: no such file, and no recipe of this name; the recipes are {names}")


def flags_of_file(path: str | Path, known: set[str]) -> list[str]:
    """A YAML file of settings as flags.

    Raises:
        FileNotFoundError: as [`config_file`] does.
        ValueError: no mapping, an unknown key, or a value that is no scalar; the message names the file and the key.
    """
    path = config_file(path)
    try:
        content = yaml_mapping(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    flags = []
    for name, value in content.items():
        if name not in known:
            raise ValueError(f"{path}: unknown key {name!r}; the keys are {', '.join(sorted(known))}")
        if isinstance(value, dict | list | set | bytes):
            raise ValueError(f"{path}: {name} must be a single value")
        if value is not None:
            flags += [f"--{name.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"]
    return flags


def yaml_mapping(text: str | bytes) -> dict[Any, Any]:
    """What YAML says in `name: value` lines; empty where it says nothing.

    Raises:
        ValueError: it is no YAML, or none of this kind; or it has anchors, of which a few lines can make gigabytes.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("must not use the anchors of YAML; write the values out")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(content or {}, dict):
        raise ValueError("must hold `name: value` lines")
    return content or {}


def settings_from(values: argparse.Namespace | dict[str, Any], settings_class: type) -> Any:
    """An instance from parsed flags; those that were not given keep the dataclass's defaults.

    Raises:
        ValueError: a field without default was not given.
    """
    values = values if isinstance(values, dict) else vars(values)
    for field in fields(settings_class):
        if field.default is MISSING and field.name not in values:
            raise ValueError(f"--{field.name.replace('_', '-')} is required")
    given = {field.name: values[field.name] for field in fields(settings_class) if field.name in values}
    return settings_class(**given)


def parse(parser: argparse.ArgumentParser, *settings_classes: type, argv: Sequence[str] | None = None) -> list[Any]:
    r"""Settings from `--config FILE` and flags; a flag overrides the file.

    Raises:
        ValueError: from the file, naming it; wrong flags end the program with exit code 2, as argparse does.

    Example:
        >>> from gram.training.settings import TrainingSettings
        >>> _ = Path("settings.yaml").write_text("epochs: 3\nbatch_size: 64")
        >>> argv = ["--config", "settings.yaml", "--epochs", "5", "--data", "films", "--output-dir", "run"]
        >>> (settings,) = parse(argparse.ArgumentParser(), TrainingSettings, argv=argv)
        >>> settings.epochs, settings.batch_size
        (5, 64)
    """
    add_config_flags(parser, *settings_classes)
    return settings_from_config(parser.parse_args(argv), *settings_classes)


def add_config_flags(parser: argparse.ArgumentParser, *settings_classes: type) -> None:
    """`--config FILE`, and one flag per field."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file of settings, or the name of a recipe, such as beauty; flags override it",
    )
    for settings_class in settings_classes:
        add_flags(parser, settings_class)


def settings_from_config(given: argparse.Namespace, *settings_classes: type) -> list[Any]:
    """Settings from what a parser with `add_config_flags` found.

    Raises:
        ValueError: from the file, naming it.
    """
    values: dict[str, Any] = {}
    if given.config is not None:
        known = {field.name for settings_class in settings_classes for field in fields(settings_class)}
        flags = flags_of_file(given.config, known)
        file_parser = _FileParser(given.config)
        for settings_class in settings_classes:
            add_flags(file_parser, settings_class)
        values.update(vars(file_parser.parse_args(flags)))
    values.update(vars(given))
    return [settings_from(values, settings_class) for settings_class in settings_classes]


class _FileParser(argparse.ArgumentParser):
    def __init__(self, path: str):
        super().__init__(add_help=False, allow_abbrev=False)
        self.path = path

    def error(self, message: str):
        raise ValueError(f"{self.path}: {message.replace('argument --', '')}")


def _truth(text: str) -> bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _or_none(kind: type) -> Callable[[str], Any]:
    """`kind`, or None for the word none, so that a flag can take back what a file gives."""

    def convert(text: str) -> Any:
        return None if text.lower() == "none" else kind(text)

    convert.__name__ = kind.__name__  # argparse names it in errors
    return convert


def _documented(settings_class: type) -> dict[str, str]:
    """Field name to its text in the docstring's `Attributes:` or `Args:` section."""
    section = re.split(r"\n(?:Attributes|Args):\n", inspect.getdoc(settings_class) or "")[-1].split("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
