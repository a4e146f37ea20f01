"""The pass that leaves out padding and most of the last layer gives the whole pass's logits and gradients."""

import numpy as np
import pytest
import torch

from polyfold.model.backbone import prefer_plain_attention
from polyfold.model.first_token import FAMILIES, cut, first_token_outputs, reads_first_token, training_outputs
from polyfold.model.internals import POOLED, with_internals
from polyfold.model.quantized import hooked
from polyfold.model.structure import cut as pruned
from toys_families import LAYERS, VOCAB, WIDTH, family_model
from toys_quantized import EMBEDDED, model_of

UNEVEN = {
    ("layers", None): np.array([1, 2]),
    ("heads", 2): np.array([0, 3]),
    ("width", None): np.arange(3, WIDTH),
    ("embedding_rank", None): np.arange(7),
}
LENGTHS = (1, 3, 3, 4, 9, 9, 30, 31)


def batch_of(lengths, seed=0):
    """Random ids of these lengths, padded on the right with 1."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(4, VOCAB, (len(lengths), width), generator=generator)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
    return torch.where(mask == 1, ids, 1), mask


def without_dropout(classifier):
    """In training mode, but the same at each pass."""
    classifier.train()
    for module in classifier.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return classifier


def taught(classifier, run):
    """Logits and all gradients of some loss of them."""
    classifier.zero_grad()
    outputs = run()
    logits = torch.cat(list(outputs.logits.values()), dim=1)
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    gradients = {name: value.grad for name, value in classifier.named_parameters() if value.grad is not None}
    return logits.detach(), outputs.pooled.detach(), gradients


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1], (7,), (5, 5, 5)], ids=str)
@pytest.mark.parametrize("form", ["stock", "pruned"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_logits_and_gradients_are_those_of_the_whole_pass(family, form, lengths):
    model = family_model(family) if form == "stock" else pruned(family_model(family), UNEVEN)
    classifier = without_dropout(model.classifier).double()
    ids, mask = batch_of(lengths)
    logits, pooled, gradients = taught(classifier, lambda: first_token_outputs(classifier, ids, mask))
    expected = taught(classifier, lambda: with_internals(classifier, ids, mask, frozenset()))
    assert torch.allclose(logits, expected[0])
    assert torch.allclose(pooled, expected[1])
    used = {name: value for name, value in gradients.items() if value.abs().max() > 0}
    assert len(used) > 10 * (LAYERS - 1)
    for name, value in expected[2].items():
        assert torch.allclose(gradients.get(name, torch.zeros_like(value)), value), name


def test_a_batch_sorted_by_length_is_cut_and_another_is_not():
    ids, mask = batch_of((2,) * 40 + (30,) * 8)
    assert [(one.documents, one.width, one.mask) for one in cut(mask)] == [(40, 2, None), (8, 30, None)]
    (whole,) = cut(mask.flip(0))
    assert (whole.documents, whole.width) == tuple(ids.shape)
    assert torch.equal(whole.mask[:, 0, 0], mask.flip(0).bool())


def test_while_it_trains_a_model_of_these_families_takes_the_short_way_and_else_the_whole(monkeypatch):
    taken = []
    monkeypatch.setattr(
        "polyfold.model.first_token.first_token_outputs",
        lambda *arguments: taken.append(True) or first_token_outputs(*arguments),
    )
    ids, mask = batch_of(LENGTHS)
    classifier = family_model("bert").classifier
    for training, wanted, short in (
        (True, frozenset(), True),
        (True, frozenset({POOLED}), True),
        (True, frozenset({"hidden_states"}), False),
        (False, frozenset(), False),
    ):
        taken.clear()
        outputs = training_outputs(classifier.train(training), ids, mask, wanted)
        assert bool(taken) == short
        assert (outputs.internals is not None) == bool(wanted - {POOLED})


@pytest.mark.parametrize("family", [*sorted(FAMILIES), "distilbert", "modernbert", EMBEDDED])
def test_only_the_families_of_bert_are_read_so(family):
    assert reads_first_token(model_of(family).classifier, frozenset()) == (family in FAMILIES)


def test_neither_a_model_that_carries_quantizers_nor_one_with_plain_attention_is_read_so():
    plain = family_model("bert")
    assert not reads_first_token(hooked(plain.classifier), frozenset())
    prefer_plain_attention(plain.classifier.encoder)
    assert not reads_first_token(plain.classifier, frozenset())
    assert not reads_first_token(torch.nn.Linear(2, 2), frozenset())
