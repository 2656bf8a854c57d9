"""The sub-commands of `gram`, a module each.

A module's docstring is its help: a summary, and examples, which are shown below its flags. `add_arguments` gives these
to its parser, and `run` does what was asked for.
"""

from importlib import import_module

_NAMES = (  # in the order of `gram --help`
    *("prepare", "translate", "encode", "evaluate", "tune", "recommend", "similar", "serve"),
    *("add_items", "remove_items", "export_vectors", "export"),
    *("card", "push", "space", "quickstart", "reproduce", "table"),
)
COMMANDS = {name.replace("_", "-"): import_module(f".{name}", __package__) for name in _NAMES}
