"""What the translation leaves on disk: the same bytes for the same input, whoever works on it, and only that redone."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from gram.common.provenance import read_provenance
from gram.data import Interactions, RecommendationData, read_folder
from gram.translation import TranslationSettings
from gram.translation.tokenizer_folder import make_tokenizer_folder

CHOSEN = {"num_clusters": 4, "depth": 3, "num_similar": 3, "vocab_size": 400}
ARTEFACTS = (
    "vocabulary.parquet",
    "vectors.safetensors",
    "tree.safetensors",
    "lexical_ids.parquet",
    "sasrec.safetensors",
    "similar_items.parquet",
    "catalogue.parquet",
)

# In a process of its own: nothing that a process draws for itself, such as the order of sets, may show.
TRANSLATE = """
import json, sys
from gram.data import read_folder
from gram.translation.tokenizer_folder import make_tokenizer_folder
from gram.translation import TranslationSettings
data, output, settings = json.loads(sys.argv[1])
make_tokenizer_folder(read_folder(data), output, TranslationSettings(**settings), progress=False)
"""


def make(data, folder, **changes):
    make_tokenizer_folder(data, folder, TranslationSettings(**{**CHOSEN, **changes}), progress=False)
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture(scope="module")
def translated(data, tmp_path_factory):
    return make(data, tmp_path_factory.mktemp("translations") / "one")


@pytest.fixture
def folder(translated, tmp_path):
    """A copy, with times and all."""
    return shutil.copytree(translated, tmp_path / "one")


def test_every_artefact_says_where_it_comes_from(translated):
    for name in ARTEFACTS:
        facts = read_provenance(translated / name)
        assert facts["versions"]["numpy"] == np.__version__, name
        assert facts["inputs"], name
        assert len(facts["key"]) == 64, name
    assert read_provenance(translated / "tree.safetensors")["settings"] == {"depth": 3, "num_clusters": 4, "seed": 0}
    assert read_provenance(translated / "sasrec.safetensors")["settings"]["seed"] == 0


def test_a_fresh_process_writes_the_same_bytes(data_folder, translated, tmp_path):
    arguments = [str(data_folder), str(tmp_path / "two"), CHOSEN]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", TRANSLATE, json.dumps(arguments)], env=environment, check=True)
    assert content(tmp_path / "two") == content(translated)
    assert set(ARTEFACTS) < set(content(translated))


def test_validation_and_test_items_reach_no_artefact(data, translated, tmp_path):
    draw = np.random.default_rng(1)
    sequences = [np.concatenate([sequence[:-2], draw.integers(0, 30, 2)]) for sequence in data.interactions]
    changed = Interactions.from_sequences(data.interactions.user_ids, sequences)
    assert not np.array_equal(changed.items, data.interactions.items)
    other = make(RecommendationData(data.items, changed), tmp_path / "other")
    assert content(other) == content(translated)


def test_a_rerun_with_nothing_changed_does_nothing(data, folder):
    before = times(folder)
    make(data, folder)
    make(data, folder, num_workers=2)  # which changes no result
    assert times(folder) == before


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        ({"num_similar": 2}, {"similar_items.parquet", "catalogue.parquet"}),
        ({"sasrec_texts": True}, {"sasrec.safetensors", "similar_items.parquet", "catalogue.parquet"}),
        ({"sasrec_in_clusters": 0.5}, {"tree.safetensors", "lexical_ids.parquet", "catalogue.parquet"}),
        ({"similar_items": "item-knn"}, {"similar_items.parquet", "catalogue.parquet"}),
        ({"depth": 2}, {"tree.safetensors", "lexical_ids.parquet", "catalogue.parquet"}),
        ({"max_fan_out": 8}, {"lexical_ids.parquet", "catalogue.parquet"}),
        ({"hierarchy": False}, {"lexical_ids.parquet", "catalogue.parquet"}),
        ({"num_similar": 0}, {"catalogue.parquet"}),
    ],
)
def test_a_changed_setting_redoes_what_depends_on_it(data, folder, tmp_path, changes, redone):
    before = times(folder)
    make(data, folder, **changes)
    after = times(folder)
    assert {name for name in ARTEFACTS if before[name] != after[name]} == redone
    fresh = content(make(data, tmp_path / "two", **changes))
    assert {name: content(folder)[name] for name in fresh} == fresh


def test_other_interactions_leave_the_lexical_ids_alone(data, folder):
    before = times(folder)
    some = [user for user in range(len(data.interactions)) if user % 2]
    names = [data.interactions.user_ids[user] for user in some]
    fewer = Interactions.from_sequences(names, [data.interactions[user] for user in some])
    make(RecommendationData(data.items, fewer), folder)
    after = times(folder)
    redone = {"sasrec.safetensors", "similar_items.parquet", "catalogue.parquet"}
    assert {name for name in ARTEFACTS if before[name] != after[name]} == redone


def test_an_interrupted_write_leaves_nothing_behind(data, translated, folder):
    (folder / "tree.safetensors").rename(folder / ".tree.safetensors.part")  # as a process that is killed leaves it
    make(data, folder)
    assert content(folder) == content(translated)


def test_other_item_ids_redo_what_holds_them(data, folder, tmp_path):
    renamed = [f"new {item}" for item in data.items.item_ids]
    other = RecommendationData(replace(data.items, item_ids=renamed), data.interactions)
    assert content(make(other, folder)) == content(make(other, tmp_path / "two"))


def test_a_broken_artefact_is_made_again(data, translated, folder):
    for name in ("vectors.safetensors", "lexical_ids.parquet"):
        (folder / name).write_bytes(b"broken")
    make(data, folder)
    assert content(folder) == content(translated)


def test_a_folder_of_something_else_is_refused(data_folder, data):
    with pytest.raises(ValueError, match="would be written over, but is read"):
        make_tokenizer_folder(read_folder(data_folder), data_folder)
