"""What hooks catch is what the encoder computed, in every family; they change nothing and cost nothing unasked."""

import numpy as np
import pytest
import torch
from torch import nn

from polyfold.batch import Internals
from polyfold.errors import InputError
from polyfold.model.classifier import Classifier, new_classifier
from polyfold.model.internals import ATTENTION, HIDDEN_STATES, internals_available, shape_of, with_internals
from polyfold.model.structure import cut
from polyfold.tasks import Task
from toys_encoders import EMBEDDED, FAMILIES, VOCABULARY, toy_backbone
from toys_pipeline import quantized_toy, toy_ids, transformer_model

TASKS = (Task(name="domain", labels=("a", "b", "c")),)
ALL = frozenset({HIDDEN_STATES, *ATTENTION})


def classifier_of(backbone):
    return Classifier(backbone.module, backbone.width, TASKS).eval()


def ids_and_mask():
    ids = torch.randint(4, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(7) < torch.tensor([7, 4, 2])[:, None]).long()
    return ids.masked_fill(mask == 0, 1), mask


def hooks(module):
    return sum(len(part._forward_hooks) for part in module.modules())


@pytest.mark.parametrize("family", [*FAMILIES, EMBEDDED])
def test_catching_changes_no_output_and_leaves_no_hook_behind(family):
    backbone = toy_backbone(family)
    classifier = classifier_of(backbone)
    # Transformers' own record of outputs keeps hooks that do nothing unless asked; ours must add none to them.
    before = hooks(classifier)
    ids, mask = ids_and_mask()
    plain = classifier(ids, mask)
    caught = with_internals(classifier, ids, mask, internals_available(backbone))
    assert torch.equal(plain.logits["domain"], caught.logits["domain"])
    assert torch.equal(plain.pooled, caught.pooled)
    assert plain.internals is None
    assert caught.internals is not None
    assert hooks(classifier) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_that_transformers_returns(family):
    classifier = classifier_of(toy_backbone(family, layers=3))
    ids, mask = ids_and_mask()
    theirs = classifier.encoder.encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    ours = with_internals(classifier, ids, mask, frozenset({HIDDEN_STATES})).internals
    assert len(ours.hidden_states) == len(theirs) == 4
    for own, other in zip(ours.hidden_states, theirs, strict=True):
        assert torch.equal(own, other)
    assert ours == Internals(hidden_states=ours.hidden_states)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "distilbert"])
def test_caught_queries_and_keys_give_the_attention_that_the_plain_kernel_returns(family, kernel):
    classifier = classifier_of(toy_backbone(family))
    encoder = classifier.encoder.encoder
    ids, mask = ids_and_mask()
    encoder.set_attn_implementation("eager")
    theirs = encoder(ids, attention_mask=mask, output_attentions=True).attentions
    encoder.set_attn_implementation(kernel)
    found = with_internals(classifier, ids, mask, frozenset({"queries", "keys"})).internals
    assert found.heads == (4, 4)
    assert found.values == ()
    for layer, expected in enumerate(theirs):
        q, k = (part[layer].view(3, 7, 4, 8).transpose(1, 2) for part in (found.queries, found.keys))
        scores = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(mask[:, None, None, :] == 0, float("-inf"))
        assert torch.allclose(scores.softmax(dim=-1), expected, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_what_the_attention_averages(family):
    # With all queries zero, attention is uniform, and its output projection reads the mean of the values.
    backbone = toy_backbone(family, layers=1)
    encoder = backbone.module.encoder
    paths = {"distilbert": ("attention.q_lin", "attention.out_lin"), "modernbert": ("attn.Wqkv", "attn.Wo")}
    projection, output = paths.get(family, ("attention.self.query", "attention.output.dense"))
    layer = next(part for name, part in encoder.named_modules() if name.endswith(("layer.0", "layers.0")))
    with torch.no_grad():
        queries = layer.get_submodule(projection)
        queries.weight[:32] = 0
        if queries.bias is not None:
            queries.bias[:32] = 0
    seen = []
    layer.get_submodule(output).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids, _ = ids_and_mask()
    found = with_internals(classifier_of(backbone), ids, torch.ones_like(ids), frozenset(ATTENTION)).internals
    assert torch.count_nonzero(found.queries[0]) == 0
    assert torch.count_nonzero(found.keys[0]) > 0
    assert torch.allclose(seen[0], found.values[0].mean(dim=1, keepdim=True).expand_as(seen[0]), atol=1e-6)


def test_the_embedded_encoders_states_are_its_embeddings_and_the_features_its_sentence_is_made_of():
    backbone = toy_backbone(EMBEDDED)
    ids, mask = ids_and_mask()
    found = with_internals(classifier_of(backbone), ids, mask, frozenset({HIDDEN_STATES}))
    embedded, features = found.internals.hidden_states
    assert torch.equal(embedded, backbone.module.embedding(ids))
    weights = mask / mask.sum(dim=1, keepdim=True)
    mean = (features * weights.unsqueeze(2)).sum(dim=1)
    sentence = backbone.module._dense(backbone.module.sentence(mean) * mask.sum(dim=1, keepdim=True).sqrt())
    assert torch.allclose(sentence, found.pooled, atol=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, EMBEDDED])
def test_padding_changes_nothing_that_is_caught_at_real_positions(family):
    backbone = toy_backbone(family)
    classifier, wanted = classifier_of(backbone), internals_available(backbone)
    ids, mask = ids_and_mask()
    whole = with_internals(classifier, ids, mask, wanted).internals
    alone = with_internals(classifier, ids[1:2, :4], mask[1:2, :4], wanted).internals
    for name in wanted:
        for padded, tight in zip(getattr(whole, name), getattr(alone, name), strict=True):
            assert torch.allclose(padded[1:2, :4], tight, atol=1e-5), name


def test_gradients_flow_through_what_is_caught():
    classifier = classifier_of(toy_backbone("bert")).train()
    found = with_internals(classifier, *ids_and_mask(), ALL).internals
    sum(part.sum() for name in ALL for part in getattr(found, name)).backward()
    layer = classifier.encoder.encoder.encoder.layer[1].attention.self
    assert all(torch.count_nonzero(part.weight.grad) for part in (layer.query, layer.key, layer.value))


class Alone(nn.Module):
    """A model that is no classifier and has no layers to hook."""

    def forward(self, input_ids, attention_mask):
        return input_ids.sum()


@pytest.mark.parametrize("wanted", [frozenset(), frozenset({"pooled"})])
def test_where_nothing_is_wanted_the_model_is_simply_called(wanted):
    ids, mask = ids_and_mask()
    assert with_internals(Alone(), ids, mask, wanted) == ids.sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_told_by_one_token_and_the_model_is_left_as_it_was(family):
    backbone = toy_backbone(family, layers=3, width=48, heads=6)
    backbone.module.train()
    state = torch.get_rng_state()
    shape = shape_of(backbone)
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.module.training
    assert (shape.hidden, shape.attention, shape.heads) == ((48,) * 4, (48,) * 3, (6,) * 3)
    assert (shape.pooled, shape.layers, shape.rotary) == (48, 3, family == "modernbert")


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_pruned_to_different_heads_show_their_own_number_of_them(family):
    model = new_classifier(toy_backbone(family), TASKS, 16, 0)
    pruned = cut(model, {("heads", 0): np.array([0, 2, 3])})
    shape = shape_of(pruned.backbone)
    assert (shape.hidden, shape.attention, shape.heads) == ((32,) * 3, (24, 32), (3, 4))
    ids, mask = ids_and_mask()
    whole, less = (with_internals(one.classifier.eval(), ids, mask, ALL).internals for one in (model, pruned))
    # The first layer's input is the same, and so is what its remaining heads make of it.
    kept = torch.cat([torch.arange(0, 8), torch.arange(16, 32)])
    for name in ATTENTION:
        assert torch.allclose(getattr(whole, name)[0][..., kept], getattr(less, name)[0], atol=1e-6)


def test_a_fake_quantized_model_shows_its_inside_near_that_of_the_model_it_was_made_from(tmp_path):
    model = transformer_model(tmp_path)
    quantized = quantized_toy(model).classifier
    ids, mask = (torch.from_numpy(part) for part in toy_ids(60, (3, 8)))
    plain, rough = (with_internals(one, ids, mask, ALL).internals for one in (model.classifier, quantized))
    for name in (HIDDEN_STATES, *ATTENTION):
        for exact, near in zip(getattr(plain, name), getattr(rough, name), strict=True):
            assert torch.allclose(exact[mask.bool()], near[mask.bool()], atol=0.1)
            assert near.requires_grad
    assert not torch.equal(plain.values[1], rough.values[1])


def test_the_embedded_encoder_has_hidden_states_of_two_widths_and_no_attention():
    backbone = toy_backbone(EMBEDDED)
    shape = shape_of(backbone)
    assert internals_available(backbone) == {HIDDEN_STATES}
    assert (shape.hidden, shape.attention, shape.heads, shape.pooled) == ((16, 40), (), (), 32)
    with pytest.raises(InputError, match="no attention, so no keys, queries"):
        with_internals(classifier_of(backbone), *ids_and_mask(), frozenset({"queries", "keys"}))
