"""The sub-commands of `gram`, a module each.

A module's docstring is its summary in `gram --help`, and `EXAMPLES` are shown below its flags, which `add_arguments`
gives to its parser; `run` does what was asked for.
"""

from importlib import import_module

_NAMES = (  # in the order of `gram --help`
    *("prepare", "translate", "encode", "evaluate", "tune", "recommend", "serve"),
    *("card", "push", "space", "quickstart", "reproduce", "table"),
)
COMMANDS = {name: import_module(f".{name}", __package__) for name in _NAMES}
