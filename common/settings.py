"""Dataclass settings: held to their bounds, and read from flags and YAML files; the docstring is the help."""

from __future__ import annotations

import argparse
import inspect
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, field, fields
from numbers import Real
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

RECIPES = Path(__file__).parents[1] / "recipes"

_BOUNDS = {
    "above": (operator.gt, "above"),
    "least": (operator.ge, "at least"),
    "most": (operator.le, "at most"),
    "below": (operator.lt, "below"),
    "one_of": (lambda value, choices: value in choices, "one of"),
}
_ALTERNATIVES = {"epochs": "budget", "budget": "epochs"}  # one is given in place of the other
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def within(default: Any = MISSING, **bounds: Any) -> Any:
    """A field of [`Settings`] and its bounds: some of `above`, `least`, `most`, `below`; or `one_of` some words."""
    return field(default=default, metadata=bounds)


class Settings:
    """Base of dataclasses of settings: a value that is not of its field's kind, or out of its bounds, is refused.

    Raises:
        ValueError: a value that cannot be, with the name of its field.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Shape(Settings):
        ...     width: int = within(64, least=1, most=4096)
        >>> Shape(0)
        Traceback (most recent call last):
        ValueError: width is 0; it must be a whole number, at least 1 and at most 4096
    """

    def __post_init__(self):
        for entry, kind, optional in _entries(type(self)):
            value, bounds = getattr(self, entry.name), entry.metadata
            if value is None and optional:
                continue
            of_kind = type(value) is kind or kind not in _KINDS or (kind is float and isinstance(value, Real))
            if of_kind and all(_BOUNDS[name][0](value, bound) for name, bound in bounds.items()):
                continue
            said = [f"{_BOUNDS[name][1]} {', '.join(of) if name == 'one_of' else of}" for name, of in bounds.items()]
            must = ", ".join(filter(None, [_KINDS.get(kind), " and ".join(said), "or none" if optional else ""]))
            raise ValueError(f"{entry.name} is {value!r}; it must be {must}")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of every setting that has one."""
        return {entry.name: entry.default for entry in fields(cls) if entry.default is not MISSING}


def add_flags(parser: argparse.ArgumentParser, *settings_classes: type, config: bool = False) -> None:
    """One flag per field, `--field-name`, that the parser does not have yet, and with `config` also `--config FILE`."""
    if config:
        what = "YAML file of settings, or the name of a recipe, such as beauty; flags override it"
        parser.add_argument("--config", metavar="FILE", help=what)
    for settings_class in settings_classes:
        group = parser.add_argument_group(settings_class.__name__)
        documented = _documented(settings_class)
        for entry, kind, optional in _entries(settings_class):
            if _flag(entry) in parser._option_string_actions:
                continue
            text = documented.get(entry.name, "").replace("%", "%%")
            text += "" if entry.default is MISSING else f" (default: {str(entry.default).replace('None', 'none')})"
            group.add_argument(
                _flag(entry),
                dest=entry.name,
                type=_reader(kind, optional),
                metavar="true|false" if kind is bool else kind.__name__.upper(),
                **({"nargs": "?", "const": True} if kind is bool else {}),
                default=argparse.SUPPRESS,
                help=text,
            )


def settings_from(values: Mapping[str, Any], *settings_classes: type) -> list[Any]:
    r"""Settings from values by name, over those of the file `config`, if it names one, over the defaults.

    Raises:
        FileNotFoundError, ValueError: from the file, naming it; or a field without default was not given.
    """
    if values.get("config") is not None:
        values = {**settings_of_file(values["config"], *settings_classes, given=values), **values}
    made = []
    for settings_class in settings_classes:
        given = {entry.name: values[entry.name] for entry in fields(settings_class) if entry.name in values}
        for entry in fields(settings_class):
            if entry.default is MISSING and entry.name not in given:
                raise ValueError(f"{_flag(entry)} is required")
        made.append(settings_class(**given))
    return made


def settings_of_file(name: str | Path, *settings_classes: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a YAML file, or a recipe of this name, says of settings, but for what is given in another way beside it.

    Raises:
        FileNotFoundError: as [`config_file`] does.
        ValueError: no mapping, an unknown key, or a value of another kind; the message names the file and the key.
    """
    path = config_file(name)
    entries = [entry for of in settings_classes for entry in _entries(of)]
    readers = {entry.name: _reader(kind, optional) for entry, kind, optional in entries}
    needed = {entry.name for entry, _, optional in entries if not optional}
    values = {}
    for name, text in _yaml_mapping(path).items():
        if name not in readers:
            raise ValueError(f"{path}: unknown key {name!r}; the keys are {', '.join(sorted(readers))}")
        if isinstance(text, dict | list):
            raise ValueError(f"{path}: {name} must be a single value")
        has_none = text in ("", "~", "null")
        if has_none and name in needed:
            raise ValueError(f"{path}: {name} has no value; give one, or leave the line out")
        try:
            if given.get(_ALTERNATIVES.get(name)) is None:
                values[name] = readers[name]("none" if has_none else text)
        except ValueError:
            raise ValueError(f"{path}: {name}: invalid {readers[name].__name__} value: {text!r}") from None
    return values


def config_file(name: str | Path) -> Path:
    """A settings file: a path, or the name of one of the package's recipes, such as `beauty`.

    Raises:
        FileNotFoundError: it is neither; the message lists the recipes.
        IsADirectoryError: it is a folder.
    """
    path, recipes = Path(name), {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give a YAML file of settings")
    if path.is_file():
        return path
    if str(name) in recipes:
        return recipes[str(name)]
    raise FileNotFoundError(f"{name}: no such file, and no recipe of this name; the recipes are {', '.join(recipes)}")


def _yaml_mapping(path: Path) -> dict[str, Any]:
    """What a file says in `name: value` lines, without the anchors of YAML: a few lines of them can make gigabytes."""
    text = path.read_bytes()
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError(f"{path}: must not use the anchors of YAML; write the values out")
        content = yaml.load(text, Loader=yaml.BaseLoader) or {}  # which leaves `no` and `010` as they are written
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold `name: value` lines")
    return content


def _entries(settings_class: type) -> Iterator[tuple[Field, type, bool]]:
    """Every field, its kind, and whether it may be none."""
    types = get_type_hints(settings_class)
    for entry in fields(settings_class):
        kinds = get_args(types[entry.name]) or (types[entry.name],)
        yield entry, next(kind for kind in kinds if kind is not type(None)), type(None) in kinds


def _flag(entry: Field) -> str:
    return "--" + entry.name.replace("_", "-")


def _reader(kind: type, optional: bool) -> Callable[[str], Any]:
    """A value from its text; where it may be none, the word none is None: so a flag takes back what a file gives."""

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        return ("false", "true").index(text.lower()) == 1 if kind is bool else kind(text)

    read.__name__ = "true|false" if kind is bool else kind.__name__  # for errors
    return read


def _documented(settings_class: type) -> dict[str, str]:
    """Field name to its text in the docstring's `Attributes:` section."""
    section = inspect.getdoc(settings_class).split("\nAttributes:\n")[-1].split("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
