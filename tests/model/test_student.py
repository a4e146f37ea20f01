"""Small students keep their teacher's tokenizer, and of its embeddings as much as their width can hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from polyfold.model.backbone import token_embedding
from polyfold.model.classifier import load_model, new_classifier, save_model
from polyfold.model.student import ConvolutionalInit, StudentInit, TransformerInit, build_small, project_table
from polyfold.text import open_tokenizer, pad
from toys_torch import MAX_LENGTH, TASKS, toy_documents, toy_use_backbone


def random_table(vocab, width, rank, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(vocab, rank, generator=generator) @ torch.randn(rank, width, generator=generator)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(1, 12), st.integers(1, 16), st.integers(0, 9))
def test_inner_products_are_kept_wherever_the_width_suffices_for_the_rank(width, rank, narrow, seed):
    rank = min(rank, width)
    table = random_table(30, width, rank, seed)
    counts = np.random.default_rng(seed).integers(0, 100, 30)
    projected = project_table(table, counts, narrow)
    assert projected.shape == (30, narrow)
    kept = torch.allclose(projected @ projected.T, table @ table.T, atol=1e-3 * float(table.square().sum(1).max()))
    if narrow >= rank:
        assert kept
    else:
        # Never longer than it was, and shorter where a direction was lost.
        assert (projected.norm(dim=1) <= table.norm(dim=1) * 1.001).all()


def test_a_table_that_is_narrow_enough_is_only_padded():
    table = random_table(10, 4, 4)
    assert torch.equal(project_table(table, np.ones(10, dtype=np.int64), 4), table)
    wider = project_table(table, np.ones(10, dtype=np.int64), 6)
    assert torch.equal(wider[:, :4], table)
    assert torch.count_nonzero(wider[:, 4:]) == 0


def test_frequent_pieces_decide_which_directions_stay():
    """One piece lies alone in its direction: it survives a projection to one dimension if texts are made of it."""
    table = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.9]])
    rare = project_table(table, np.array([0, 500, 500]), 1)
    common = project_table(table, np.array([500, 0, 0]), 1)
    assert abs(float(rare[0, 0])) < 0.1 < abs(float(rare[1, 0]))
    assert abs(float(common[0, 0])) == pytest.approx(3.0, rel=0.01)


def test_no_other_projection_of_the_counted_pieces_loses_less():
    table = random_table(40, 8, 8)
    counts = np.random.default_rng(1).integers(0, 50, 40)
    weights = torch.from_numpy(counts + 1.0).sqrt().float()[:, None]
    kept = (weights * project_table(table, counts, 3)).square().sum()
    for seed in range(20):
        basis, _ = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)))
        assert (weights * (table @ basis)).square().sum() <= kept


INITS = (
    TransformerInit(layers=1, width=8, heads=2),
    TransformerInit(layers=2, width=24, heads=3, feed_forward=20),
    ConvolutionalInit(embedding_width=8, branch_width=8, sentence_width=12, dense_width=8),
    ConvolutionalInit(embedding_width=24, branch_width=8, sentence_width=12, dense_width=8),
)


@pytest.mark.parametrize("init", INITS)
def test_a_small_student_is_built_trained_saved_and_loaded(init, tmp_path):
    teacher = toy_use_backbone(tmp_path)
    before = token_embedding(teacher.module).weight.detach().clone()
    texts = [*toy_documents(8, 1).texts, "waiter " * 40]
    ids = open_tokenizer(tmp_path, teacher.tokenizer).encode(texts, MAX_LENGTH).ids
    counts = np.bincount(np.concatenate(ids), minlength=len(before))
    backbone = build_small(init, teacher, counts, MAX_LENGTH, 0)
    assert backbone.tokenizer == teacher.tokenizer
    assert torch.equal(token_embedding(teacher.module).weight, before)
    model = new_classifier(backbone, TASKS, MAX_LENGTH, 0)
    batch = tuple(torch.from_numpy(array) for array in pad(ids, teacher.tokenizer.pad_id))
    outputs = model.classifier(*batch)
    assert max(len(one) for one in ids) == MAX_LENGTH
    sum(values.square().sum() for values in outputs.logits.values()).backward()
    grown = token_embedding(backbone.module).weight.grad
    assert grown is not None
    assert torch.count_nonzero(grown[teacher.tokenizer.pad_id]) == 0 or teacher.tokenizer.pad_id in np.concatenate(
        ids
    )
    save_model(model, tmp_path / "saved", tmp_path)
    again = load_model(tmp_path / "saved")
    with torch.no_grad():
        expected = model.classifier.eval()(*batch).logits
        found = again.classifier(*batch).logits
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("init", INITS)
def test_embeddings_are_the_teachers_up_to_one_scale_and_a_rotation(init, tmp_path):
    teacher = toy_use_backbone(tmp_path)
    table = token_embedding(teacher.module).weight.detach()
    counts = np.arange(len(table))
    found = token_embedding(build_small(init, teacher, counts, MAX_LENGTH, 0).module).weight.detach()
    width = init.width if isinstance(init, TransformerInit) else init.embedding_width
    assert found.shape == (len(table), width)
    assert float(found.std()) == pytest.approx(1.0, abs=1e-4)
    products, expected = (
        found @ found.T,
        project_table(table, counts, width) @ project_table(table, counts, width).T,
    )
    scale = float((products * expected).sum() / expected.square().sum())
    assert torch.allclose(products, scale * expected, atol=1e-3 * float(products.abs().max()))
    if width >= table.shape[1]:
        original = table @ table.T
        assert torch.allclose(products, scale * original, atol=1e-3 * float(products.abs().max()))


def test_a_student_depends_on_its_seed_alone(tmp_path):
    teacher = toy_use_backbone(tmp_path)
    counts = np.ones(token_embedding(teacher.module).num_embeddings, dtype=np.int64)
    states = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        states.append(build_small(INITS[0], teacher, counts, MAX_LENGTH, seed).module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_a_student_is_one_of_four_kinds_and_heads_divide_its_width():
    adapter = TypeAdapter(StudentInit)
    for kind, more in (("backbone", {"name": "x"}), ("teacher", {}), ("transformer", {}), ("convolutional", {})):
        assert adapter.validate_python({"kind": kind, **more}).kind == kind
    with pytest.raises(ValueError, match=r"width 30 is not a multiple of 4 heads"):
        adapter.validate_python({"kind": "transformer", "width": 30, "heads": 4})
    with pytest.raises(ValueError, match="'backbone', 'teacher', 'transformer', 'convolutional'"):
        adapter.validate_python({"kind": "lstm"})
