"""Where files may import from: CONTRIBUTING.md lists the rooms, each above those that may use it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("model", "common", "data", "collaborative", "translation", "training", "serving", "evaluation", "hub"),
    *("train_accelerate", "reproduction", "commands", "cli"),
)
ELSEWHERE = {"tests", "benchmarks", "examples", "docs", "build", "dist", "runs"}
MOST_FILES_AT_THE_ROOT = 17


def modules():
    """Every module of the package by its name, with its file."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in ELSEWHERE or parts[0].startswith(".") or path.is_symlink():
            continue
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(("gram", *parts))] = path
    return found


MODULES = modules()


def imports(name):
    """The modules of the package that one imports, wherever in its file."""
    path, found = MODULES[name], set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            inner = {f"{module}.{alias.name}" for alias in node.names}
            found |= {one for one in inner if one in MODULES} or {module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for module in found if module in MODULES and module != name}


def room(name):
    first = name.split(".")[1]
    return "model" if first.endswith("_gram") else first


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_room_imports_from_those_above_it_alone(name):
    if name == "gram":
        return
    for module in imports(name) - {"gram"}:
        place = ROOMS.index(room(module))
        assert place <= ROOMS.index(room(name)), f"{MODULES[name].relative_to(ROOT)} imports {module}, of a later room"


def test_a_file_that_travels_imports_its_siblings_alone():
    for name in MODULES:
        if name.endswith("_gram"):
            assert {room(module) for module in imports(name)} <= {"model"}, name


def test_no_two_files_import_each_other():
    def visit(name, way):
        assert name not in way, " > ".join((*way[way.index(name) :], name))
        if name not in done:
            for module in imports(name) - {"gram"}:
                visit(module, (*way, name))
            done.add(name)

    done = set()
    for name in MODULES:
        visit(name, ())


def test_the_root_holds_little():
    files = sorted(path.name for path in ROOT.glob("*.py"))
    assert len(files) <= MOST_FILES_AT_THE_ROOT, files
