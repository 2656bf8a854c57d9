"""Every example in a docstring of the package runs and shows what it says."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import gram

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(gram.__path__, "gram.")
    if not module.name.startswith("gram.benchmarks")  # beside the package, not in it
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def docstrings(name):
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [found for found in finder.find(import_module(name), name) if found.examples]


@pytest.fixture
def given(data, data_folder, model, tokenizer, model_folder):
    """What an example may take as given: a data set, a trained model, and the folders that they were read from."""
    names = {"data": data, "model": model, "tokenizer": tokenizer}
    return names | {"data_folder": str(data_folder), "model_folder": str(model_folder)}


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name, given, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for example in docstrings(name):
        example.globs.update(given)
        failed = doctest.DocTestRunner(optionflags=FLAGS).run(example).failed
        assert not failed, f"{example.name}\n{capsys.readouterr().out}"


def test_what_the_package_exports_has_an_example():
    shown = {example.name.rpartition(".")[2] for name in MODULES for example in docstrings(name)}
    assert set(gram.__all__) <= shown
