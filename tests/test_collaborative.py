"""SASRec: it learns what follows what, is the same every time, and is kept with what it was trained on."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gram.collaborative.fitting import _batches, _Candidates, _SoftmaxLoss, fit_or_load, fit_sasrec, sasrec_provenance
from gram.collaborative.neighbours import nearest_items
from gram.collaborative.sasrec import SASRec, SASRecSettings
from gram.common.provenance import read_provenance
from gram.data import Interactions

SMALL = SASRecSettings(dim=16, num_layers=1, num_heads=2, max_length=8, dropout=0.1, epochs=2, batch_items=64)


def cycles(users=40, length=10, items=12):
    """Whoever has an item goes on with the one after it."""
    sequences = [(np.arange(length) + start) % items for start in range(users)]
    return Interactions.from_sequences([str(user) for user in range(users)], sequences)


def same(one, two):
    return all(weight.equal(two.state_dict()[name]) for name, weight in one.state_dict().items())


@pytest.mark.parametrize("negatives", [12, 4])  # all items, or some
def test_it_learns_what_follows_what(negatives):
    learner = replace(SMALL, epochs=60, negatives=negatives)
    model = fit_sasrec(cycles(), 12, learner, progress=False)
    scores = model.score([np.array([3, 4, 5]), np.array([11])])
    assert scores.shape == (2, 12)
    assert scores.argmax(dim=1).tolist() == [6, 0]


def test_a_training_that_diverges_is_an_error():
    diverging = SASRecSettings(dim=8, num_layers=1, num_heads=1, learning_rate=1e30)
    with pytest.raises(ValueError, match=r"SASRec: .* finite|SASRec: the loss is (nan|inf) after [\d,]+ items"):
        fit_sasrec(cycles(), 12, diverging, progress=False)


def test_the_seed_decides_and_the_global_state_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one = fit_sasrec(cycles(), 12, SMALL, seed=1, progress=False)
    assert torch.rand(3).equal(expected)
    assert same(one, fit_sasrec(cycles(), 12, SMALL, seed=1, progress=False))
    assert not same(one, fit_sasrec(cycles(), 12, SMALL, seed=2, progress=False))


def test_every_weight_is_trained():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = SASRec(12, SMALL).state_dict()
    after = fit_sasrec(cycles(), 12, SMALL, seed=0, progress=False).state_dict()
    assert [name for name, weight in before.items() if weight.equal(after[name])] == []


def test_scores_do_not_depend_on_who_else_is_scored_nor_on_dropout():
    model = fit_sasrec(cycles(), 12, SMALL, progress=False).train()
    histories = [np.array([3]), np.arange(12), np.array([5, 1, 2])]
    together = model.score(histories)
    assert model.training
    for history, scores in zip(histories, together, strict=True):
        torch.testing.assert_close(model.score([history])[0], scores)
    together += 1  # a caller may mask what was seen
    with pytest.raises(ValueError, match="a history is empty"):
        model.score([np.array([1]), np.array([], dtype=np.int32)])


def test_packed_windows_hold_every_target_once_and_see_only_their_own_past():
    interactions = Interactions.from_sequences(list("abc"), [[0, 1, 2], [3], list(range(4, 24))])
    pairs = []
    for batch in _batches(interactions, SMALL, np.random.default_rng(0)):
        real = batch.targets >= 0
        pairs += zip(batch.items[real].tolist(), batch.targets[real].tolist(), strict=True)
        mask = batch.mask()[:, 0]
        for row, i in real.nonzero().tolist():
            seen = mask[row, i].nonzero()[:, 0]
            assert seen.tolist() == list(range(i - int(batch.positions[row, i]), i + 1))
    assert sorted(pairs) == sorted([(0, 1), (1, 2), *zip(range(4, 23), range(5, 24), strict=True)])


def test_the_loss_is_cross_entropy_with_its_gradients():
    torch.manual_seed(0)
    hidden = torch.randn(300, 8, requires_grad=True)
    items = torch.randn(50, 8, requires_grad=True)
    targets = torch.randint(0, 50, (300,))
    histories = torch.randint(-1, 50, (300, 9))  # some twice, some with the target
    has = (histories[:, :, None] == torch.arange(50)).any(dim=1)
    expected = F.cross_entropy(hidden @ items.T - 3 * has, targets)
    expected_gradients = torch.autograd.grad(2 * expected, (hidden, items))
    loss = _SoftmaxLoss.apply(hidden, items, targets, histories, torch.tensor(-3.0), torch.zeros(50))
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(torch.autograd.grad(2 * loss, (hidden, items)), expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted)


def test_it_knows_how_often_an_item_comes_again():
    never, always = cycles(length=6), Interactions.from_sequences(list("abc"), [[0] * 5, [1] * 5, [2] * 5])
    for interactions, is_new in ((never, True), (always, False)):
        model = fit_sasrec(interactions, 12, replace(SMALL, epochs=30, learning_rate=1e-2), progress=False)
        assert model.repeat.sign() == (-1 if is_new else 1)
        for history in interactions:
            assert (model.score([history[:3]]).argmax() not in history[:3]) == is_new


def test_a_sample_of_the_catalogue_stands_for_the_whole():
    interactions = Interactions.from_sequences(list("ab"), [[5, 0, 1, 0, 1, 0, 2], [7, 0, 3]])
    candidates = _Candidates(interactions, 20, 6, np.random.default_rng(0))
    drawn, scores, sums = np.random.default_rng(1), torch.randn(20, generator=torch.manual_seed(0)), []
    for _ in range(3000):
        targets = torch.from_numpy(drawn.choice([0, 1, 0, 1, 0, 2, 0, 3], 4))
        rows, place_of, rarity = candidates(targets)
        assert rows[place_of[targets]].equal(targets)
        assert [place in rows for place in range(20)] == (place_of[:-1] >= 0).tolist()
        sums.append((scores[rows] + rarity).exp().sum())
    assert torch.stack(sums).mean().item() == pytest.approx(scores.exp().sum().item(), rel=0.02)
    places, nothing = place_of[targets], torch.full((4, 1), -1)
    loss = _SoftmaxLoss.apply(torch.ones(4, 1), scores[rows, None], places, nothing, torch.zeros(()), rarity)
    corrected = (scores[rows] + rarity).repeat(4, 1).scatter(1, places[:, None], scores[targets][:, None])
    torch.testing.assert_close(loss, F.cross_entropy(corrected, places))


def test_texts_give_a_place_to_items_that_nobody_has():
    kinds = np.arange(16) % 4  # everybody keeps to one; items 12 to 15 are in no sequence
    draw = np.random.default_rng(0)
    sequences = [4 * draw.integers(0, 3, 8) + user % 4 for user in range(60)]
    of_kind = Interactions.from_sequences([str(user) for user in range(60)], sequences)
    learner = replace(SMALL, epochs=40, texts=True)
    with pytest.raises(ValueError, match="knows the items' texts; give it their vectors"):
        fit_sasrec(of_kind, 16, learner, progress=False)
    model, again = (
        fit_sasrec(of_kind, 16, learner, progress=False, vectors=np.eye(4, dtype=np.float32)[kinds]) for _ in range(2)
    )
    assert same(model, again)
    assert list(model.state_dict()) == list(SASRec(16, learner).state_dict())
    embeddings = F.normalize(model.items.weight.detach(), dim=1)
    assert ((embeddings[12:] @ embeddings[:12].T).argmax(dim=1) % 4).tolist() == [0, 1, 2, 3]


def test_a_saved_model_scores_alike(tmp_path):
    model = fit_sasrec(cycles(), 12, SMALL, progress=False)
    model.save(tmp_path / "sasrec.safetensors", sasrec_provenance(cycles(), 12, SMALL, 0))
    loaded = SASRec.load(tmp_path / "sasrec.safetensors")
    assert loaded.settings == SMALL
    assert loaded.score([np.array([1, 2])]).equal(model.score([np.array([1, 2])]))
    assert [path.name for path in tmp_path.iterdir()] == ["sasrec.safetensors"]
    assert read_provenance(tmp_path / "sasrec.safetensors")["settings"]["num_items"] == 12


def test_a_file_that_is_no_sasrec_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        SASRec.load(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="bad: not a SASRec"):
        SASRec.load(tmp_path / "bad")


def test_a_file_serves_only_what_it_was_trained_on(tmp_path, monkeypatch):
    path = tmp_path / "sasrec.safetensors"
    first = fit_or_load(path, cycles(), 12, SMALL, progress=False)
    written = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("gram.collaborative.fitting.fit_sasrec", lambda *_: pytest.fail("trained again"))
        assert same(fit_or_load(path, cycles(), 12, SMALL, progress=False), first)
    fit_or_load(path, cycles(users=30), 12, SMALL, progress=False)
    assert path.read_bytes() != written
    path.write_bytes(b"nonsense")
    assert same(fit_or_load(path, cycles(), 12, SMALL, progress=False), first)


def test_the_key_is_of_all_that_matters():
    changed = SASRecSettings(dim=32)
    prints = {
        sasrec_provenance(cycles(), 12, SMALL, 0).key,
        sasrec_provenance(cycles(), 13, SMALL, 0).key,
        sasrec_provenance(cycles(), 12, changed, 0).key,
        sasrec_provenance(cycles(), 12, SMALL, 1).key,
        sasrec_provenance(cycles(users=39), 12, SMALL, 0).key,
        sasrec_provenance(cycles(), 12, replace(SMALL, negatives=7), 0).key,
        sasrec_provenance(cycles(), 12, replace(SMALL, texts=True), 0, np.zeros((12, 2), np.float32)).key,
        sasrec_provenance(cycles(), 12, replace(SMALL, texts=True), 0, np.ones((12, 2), np.float32)).key,
    }
    assert len(prints) == 8
    assert sasrec_provenance(cycles(), 12, SMALL, 0, np.ones((12, 2), np.float32)).key in prints  # it knows no texts


def test_nothing_to_learn_from_is_said(caplog):
    lonely = Interactions.from_sequences(["ann"], [[0]])
    with caplog.at_level(logging.WARNING):
        model = fit_sasrec(lonely, 3, SMALL, progress=False)
    assert "learns nothing" in caplog.text
    assert torch.isfinite(model.score([np.array([0])])).all()


@pytest.mark.parametrize(
    ("field", "value"), [("dim", 0), ("num_heads", 3), ("dropout", 1.0), ("learning_rate", 0.0), ("epochs", 1.5)]
)
def test_a_setting_that_cannot_be_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        SASRecSettings(**{field: value})


@settings(max_examples=30)
@given(rows=st.integers(1, 30), k=st.integers(0, 12), kinds=st.integers(1, 30), seed=st.integers(0, 99))
def test_nearest_items_are_those_of_a_full_sort(rows, k, kinds, seed):
    rng = np.random.default_rng(seed)
    vectors = np.eye(32, dtype=np.float32)[rng.integers(0, kinds, rows)]  # cosines are 0 or 1 exactly: many ties
    found = nearest_items(vectors, k)
    assert found.dtype == np.int32
    for row in range(rows):
        others = sorted((item for item in range(rows) if item != row), key=lambda i: (-vectors[row] @ vectors[i], i))
        assert found[row].tolist() == (others + [-1] * k)[:k]


def test_nearest_items_go_by_direction_not_length_and_by_blocks(monkeypatch):
    vectors = torch.tensor([[1.0, 0.0], [9.0, 1.0], [0.0, 5.0], [0.1, 0.5]])
    whole = nearest_items(vectors, 2)
    assert whole.tolist() == [[1, 3], [0, 3], [3, 1], [2, 1]]
    monkeypatch.setattr("gram.collaborative.neighbours.MAX_SCORES", 4)
    assert nearest_items(vectors, 2).tolist() == whole.tolist()
