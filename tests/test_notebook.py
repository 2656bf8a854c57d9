"""The notebook runs from its first cell to its last, and shows what a run of it has given."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from gram.reproduction import quickstart

from .conftest import QUICKSTART_RECIPE
from .reader import ROOT
from .waiting import PATIENCE

NOTEBOOK = ROOT / "examples" / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def shown(notebook, kind: str) -> list[str]:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_it_runs_on_other_data(notebook, films_wheel, tmp_path):
    """With the parameters of a tiny model, as papermill would give them."""
    (tmp_path / "run").mkdir()
    quickstart.prepare_movielens(films_wheel, tmp_path / "run" / "data")
    (tmp_path / "recipe.yaml").write_text(QUICKSTART_RECIPE, encoding="utf-8")
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    own = nbformat.from_dict(notebook)
    place = notebook.cells.index(parameters)
    own.cells[place].source = 'folder, settings, max_users = "run", {"config": "recipe.yaml", "user_prompt": False}, 10'
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(own, timeout=PATIENCE, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert len(shown(own, "image/png")) == 1
    *_, metrics, recommended = shown(own, "text/html")
    assert all(f"<th>{name}</th>" in metrics for name in ("GRAM", "SASRec", "item-kNN", "popularity"))
    assert recommended.count("The Long Film Number") == 5


def test_its_outputs_are_those_of_one_whole_run(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert len(shown(notebook, "image/png")) == 1
    assert len(shown(notebook, "text/html")) == 4
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "Star Wars" in text
    assert '"output_type": "error"' not in text
    assert not re.search(r'["\s](/home|/root|/tmp|/work|/opt)/', text)
