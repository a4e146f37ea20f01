"""Losses on a teacher's inside: the papers' formulas end to end, what they leave alone, and that they fall."""

import numpy as np
import pytest
import torch
from toy_fit import same
from toy_imitation import COUNT, gradients, imitation, model_of, pair, step_loss, texts, with_tasks

from polyfold.batch import Internals, Outputs, Taught
from polyfold.data.batches import BatchSpec
from polyfold.errors import InputError
from polyfold.losses.hidden import EmbeddingLoss, HiddenStatesLoss
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.relations import AttentionLoss, RelationLoss
from polyfold.losses.sentence import SentenceLoss
from polyfold.losses.spec import every_document, needs_teacher, wanted_of
from polyfold.train.fit import FitContext, FitSpec, fit
from polyfold.train.imitation import Imitation
from polyfold.train.objectives import TaskObjective
from toys_encoders import EMBEDDED, FAMILIES
from toys_torch import TASKS

# A narrower and shallower student with as many heads, one with fewer, and its teacher.
STUDENT = {"layers": 2, "width": 16, "heads": 4}
FEWER_HEADS = {"layers": 2, "width": 16, "heads": 2}
TEACHER = {"layers": 4, "width": 32, "heads": 4, "seed": 7}

LAYERWISE = {
    "minilm": AttentionLoss(),
    "tinybert": AttentionLoss(layers="uniform", compare="scores", value_relations=0.0),
    "relations": RelationLoss(relation_heads=8, teacher_layer=2, queries=0.5, values=2.0),
    "hidden": HiddenStatesLoss(),
    "cosine": HiddenStatesLoss(layers={0: 2}, distance="cosine"),
    "embeddings": EmbeddingLoss(),
}
LOSSES = {**LAYERWISE, "sentence": SentenceLoss(), "direction": SentenceLoss(similarity=0.0)}


def batch_of(encoded, rows=None):
    return encoded.batch(np.arange(len(encoded)) if rows is None else np.asarray(rows))


# --- the formulas, from what transformers itself returns ---------------------------------------------------------


def softmax(scores):
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(axis=-1)


class Side:
    """One encoder's inside for one document in float64, from transformers' own outputs and its layers' weights."""

    def __init__(self, model, ids):
        encoder = model.classifier.encoder.encoder
        encoder.set_attn_implementation("eager")
        with torch.no_grad():
            found = encoder(torch.from_numpy(ids)[None], output_hidden_states=True, output_attentions=True)
        self.states = [state[0].numpy() for state in found.hidden_states]
        self.attentions = [layer[0].numpy() for layer in found.attentions]
        self.layers = encoder.encoder.layer
        self.pooled = self.states[-1][0]

    def part(self, name, layer):
        """Queries, keys or values: the layer's input times their matrix."""
        linear = getattr(self.layers[layer].attention.self, name)
        return self.states[layer] @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()

    def relation(self, name, layer, heads, other=None):
        """softmax's argument, [heads, seq, seq], of the part with itself or another."""
        first, second = self.part(name, layer), self.part(other or name, layer)
        width = first.shape[1] // heads
        cut = [slice(number * width, (number + 1) * width) for number in range(heads)]
        return np.stack([first[:, one] @ second[:, one].T / np.sqrt(width) for one in cut])


def minilm(own, other, _):
    attention = kl(other.attentions[3], own.attentions[1]).mean(axis=0).sum()
    sides = own.relation("value", 1, 4), other.relation("value", 3, 4)
    return attention + kl(softmax(sides[1]), softmax(sides[0])).mean(axis=0).sum()


def tinybert(own, other, _):
    total = 0.0
    for mine, theirs in ((0, 1), (1, 3)):
        scores = own.relation("query", mine, 4, "key"), other.relation("query", theirs, 4, "key")
        total += scores[0].shape[1] * ((scores[0] - scores[1]) ** 2).mean()
    return total


def relations(own, other, _):
    total = 0.0
    for name, weight in (("query", 0.5), ("key", 1.0), ("value", 2.0)):
        sides = own.relation(name, 1, 8), other.relation(name, 2, 8)
        total += weight * kl(softmax(sides[1]), softmax(sides[0])).mean(axis=0).sum()
    return total


def hidden(own, other, project):
    pairs = ((1, 2), (2, 4))
    return sum(((project(own.states[a]) - other.states[b]) ** 2).mean(axis=1).sum() for a, b in pairs)


def cosines(first, second):
    return (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)


def cosine(own, other, project):
    return (1 - cosines(project(own.states[1]), other.states[3])).sum()


def embeddings(own, other, project):
    return ((project(own.states[0]) - other.states[0]) ** 2).mean(axis=1).sum()


def sentence(own, other, project):
    return 1 - cosines(project(own.pooled), other.pooled)


FORMULAS = {
    "minilm": minilm, "tinybert": tinybert, "relations": relations, "hidden": hidden, "cosine": cosine,
    "embeddings": embeddings, "direction": sentence,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_a_step_is_the_papers_formula_over_every_document_of_a_padded_batch(name):
    student, teacher, encoded = model_of(**STUDENT), model_of(**TEACHER), texts(6)
    for model in (student, teacher):
        model.classifier.double()
    objective = imitation((LOSSES[name],), student, teacher, encoded)
    objective.modules.double()
    (found,) = step_loss(objective, student, [batch_of(encoded)]).values()
    weights = [module.weight.detach().numpy() for module in objective.modules.values()]
    assert len(weights) == (name in ("hidden", "cosine", "embeddings", "direction"))
    total = sum(
        FORMULAS[name](Side(student, ids), Side(teacher, ids), lambda states: states @ weights[0].T)
        for ids in encoded.encoding.ids
    )
    count = len(encoded) if name == "direction" else encoded.encoding.lengths.sum()
    assert float(found.detach()) == pytest.approx(total / count, rel=1e-7)


def test_the_sentence_loss_adds_the_error_of_the_batchs_similarities():
    student, teacher, encoded = model_of(**STUDENT), model_of(**TEACHER), texts(6)
    loss = SentenceLoss(weight=0.5, similarity=3.0)
    found = step_loss(imitation((loss,), student, teacher, encoded), student, [batch_of(encoded)])
    own, other = ([Side(model, ids).pooled for ids in encoded.encoding.ids] for model in (student, teacher))
    errors = [
        (cosines(own[i], own[j]) - cosines(other[i], other[j])) ** 2 for i in range(6) for j in range(6) if i != j
    ]
    assert float(found["sentence_similarity"].detach()) == pytest.approx(0.5 * 3.0 * np.mean(errors), rel=1e-4)


# --- laws --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_when_it_is_trained_alone(name, tmp_path):
    student, teacher, encoded = model_of(**STUDENT), model_of(**TEACHER), texts()
    objective = imitation((LOSSES[name],), student, teacher, encoded)

    def value():
        with torch.no_grad():
            return float(sum(step_loss(objective, student, [batch_of(encoded)]).values()))

    before = value()
    spec = FitSpec(
        epochs=6, learning_rate=5e-3, head_dropout=0.0, warmup=0.0, batch=BatchSpec(documents_per_step=8)
    )
    result = fit(student.classifier, encoded, objective, spec, None, FitContext(tmp_path, 0, "toy", lambda _: {}))
    assert value() < 0.8 * before
    assert result.steps == 18


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_weight_zero_changes_no_gradient_by_a_single_bit(name):
    found = []
    encoded = texts()
    teacher = with_tasks(**TEACHER)
    zero = LOSSES[name].model_copy(update={"weight": 0.0})
    for losses in ((LabelLoss(), LogitLoss()), (LabelLoss(), LogitLoss(), zero)):
        student = with_tasks(**STUDENT)
        sides, guide = pair(losses, student, teacher, encoded)
        objective = TaskObjective(TASKS, losses, encoded.documents, guide, sides)
        assert not list(objective.modules.parameters())
        found.append(gradients(objective, student, [batch_of(encoded)]))
    assert same(*found)
    assert all(torch.count_nonzero(grad) for grad in found[0].values() if grad is not None and grad.numel() > 40)


@pytest.mark.parametrize(
    ("part", "loss"),
    [
        ("value_relations", AttentionLoss()),
        ("queries", RelationLoss(relation_heads=8)),
        ("keys", RelationLoss(relation_heads=8)),
        ("similarity", SentenceLoss()),
    ],
)
def test_a_part_of_weight_zero_is_the_limit_of_small_weights_and_is_not_even_formed(part, loss):
    found = []
    for weight in (0.0, 1e-9, 1.0):
        student, teacher = model_of(**STUDENT), model_of(**TEACHER)
        objective = imitation((loss.model_copy(update={part: weight}),), student, teacher)
        found.append(gradients(objective, student, [batch_of(texts())]))
    nothing, little, much = ({name: grad for name, grad in one.items() if grad is not None} for one in found)
    assert all(
        torch.allclose(nothing.get(name, torch.zeros_like(grad)), grad, atol=1e-6) for name, grad in little.items()
    )
    assert not all(torch.allclose(little[name], grad, atol=1e-6) for name, grad in much.items())


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "sentence"])
def test_the_gradient_is_the_same_however_the_step_is_cut_into_batches_and_ordered(name):
    encoded = texts()
    found = []
    order = np.random.default_rng(0).permutation(COUNT)
    for pieces in ([order], [np.sort(order)], np.split(order, [1, 9])):
        student, teacher = model_of(**STUDENT), model_of(**TEACHER)
        objective = imitation((LOSSES[name],), student, teacher, encoded)
        found.append(gradients(objective, student, [batch_of(encoded, rows) for rows in pieces]))
    for other in found[1:]:
        for key, grad in found[0].items():
            assert (grad is None) == (other[key] is None)
            assert grad is None or torch.allclose(grad, other[key], atol=1e-6), key


@pytest.mark.parametrize("name", LOSSES)
def test_the_weight_scales_the_loss(name):
    student, teacher, encoded = model_of(**STUDENT), model_of(**TEACHER), texts()
    values = []
    for weight in (1.0, 2.5):
        loss = LOSSES[name].model_copy(update={"weight": weight})
        found = step_loss(imitation((loss,), student, teacher, encoded), student, [batch_of(encoded)])
        values.append([float(value.detach()) for value in found.values()])
    assert values[1] == pytest.approx([2.5 * value for value in values[0]], rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_documents_without_labels_teach_all_the_same(name):
    encoded = texts(labelled=False)
    student, teacher = with_tasks(**STUDENT), model_of(**TEACHER)
    losses = (LabelLoss(), LOSSES[name])
    sides, guide = pair(losses, student, teacher, encoded)
    objective = TaskObjective(TASKS, losses, encoded.documents, guide, sides)
    found = gradients(objective, student, [batch_of(encoded)])
    assert any(grad is not None and torch.count_nonzero(grad) for name, grad in found.items() if "encoder" in name)
    assert all(torch.count_nonzero(grad) == 0 for name, grad in found.items() if name.startswith("heads."))


@pytest.mark.parametrize("teacher_family", FAMILIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_relations_and_states_pass_between_any_two_families_widths_and_head_counts(family, teacher_family):
    student, teacher = model_of(family, **FEWER_HEADS), model_of(teacher_family, **TEACHER)
    losses = (RelationLoss(relation_heads=4), HiddenStatesLoss(), EmbeddingLoss(), SentenceLoss())
    objective = imitation(losses, student, teacher)
    found = step_loss(objective, student, [batch_of(texts())])
    assert set(found) == {"relations", "hidden_states1", "embeddings2", "sentence3", "sentence3_similarity"}
    assert all(torch.isfinite(value) and value > 0 for value in found.values())
    assert {tuple(module.weight.shape) for module in objective.modules.values()} == {(32, 16)}


def test_the_embedded_encoder_teaches_its_own_kind_layer_by_layer_and_others_its_sentences():
    teacher = model_of(EMBEDDED, seed=3)
    losses = (HiddenStatesLoss(), EmbeddingLoss(), SentenceLoss())
    student = model_of(EMBEDDED)
    values = step_loss(imitation(losses, student, teacher), student, [batch_of(texts())])
    assert all(value > 0 for value in values.values())
    student = model_of("bert", **STUDENT)
    objective = imitation((SentenceLoss(),), student, teacher)
    assert step_loss(objective, student, [batch_of(texts())])["sentence"] > 0
    assert [tuple(module.weight.shape) for module in objective.modules.values()] == [(32, 16)]


def test_a_student_that_is_its_teacher_has_no_loss_and_needs_no_projection():
    losses = (AttentionLoss(), RelationLoss(relation_heads=8), HiddenStatesLoss(), EmbeddingLoss(), SentenceLoss())
    objective = imitation(losses, model_of(**TEACHER), model_of(**TEACHER))
    found = step_loss(objective, model_of(**TEACHER), [batch_of(texts())])
    assert len(found) == 6
    assert all(float(value.detach()) == pytest.approx(0.0, abs=1e-5) for value in found.values())
    assert not list(objective.modules.parameters())


def test_projections_are_drawn_from_the_seed_and_change_no_other_random_number():
    student, teacher = model_of(**STUDENT), model_of(**TEACHER)
    losses = (HiddenStatesLoss(), SentenceLoss())
    sides, _ = pair(losses, student, teacher)
    state = torch.get_rng_state()
    first, second = Imitation(losses, sides).modules, Imitation(losses, sides).modules
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first.state_dict(), second.state_dict())
    assert len(first) == 2
    for module in first.values():
        # Orthogonal columns: no angle between two student vectors is changed.
        assert torch.allclose(module.weight.T @ module.weight, torch.eye(16), atol=1e-5)


def test_losses_are_formed_in_full_precision_whatever_the_models_run_in():
    student, teacher = model_of(**STUDENT), model_of(**TEACHER)
    objective = imitation((AttentionLoss(), HiddenStatesLoss(), SentenceLoss()), student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = objective(student.classifier, batch_of(texts()))
    plain = objective(student.classifier, batch_of(texts()))
    for name, value in sums.items():
        assert value.dtype == torch.float32
        assert torch.isclose(value, plain[name], rtol=0.1)
    # Half-precision tensors are brought up before they meet, also where no autocast is in force.
    half = torch.randn(2, batch_of(texts(2)).input_ids.shape[1], 32).bfloat16()
    inside = Internals(hidden_states=(half,))
    own, other = Outputs({}, half[:, 0], inside), Taught({}, {}, half[:, 0], inside)
    losses = (EmbeddingLoss(),)
    sides, _ = pair(losses, teacher, teacher)
    assert (
        Imitation(losses, sides).sums(own, other, batch_of(texts(2), [0, 1]))["embeddings"].dtype == torch.float32
    )


def test_what_losses_read_and_learn_from_follows_from_their_specs():
    every = tuple(LOSSES.values())
    assert wanted_of(every) == {"queries", "keys", "values", "hidden_states", "pooled"}
    assert wanted_of((LabelLoss(), LogitLoss())) == frozenset()
    assert wanted_of([loss.model_copy(update={"weight": 0.0}) for loss in every]) == frozenset()
    assert wanted_of((EmbeddingLoss(), SentenceLoss())) == {"hidden_states", "pooled"}
    assert [needs_teacher((loss,)) for loss in (LabelLoss(), LogitLoss(), EmbeddingLoss())] == [False, True, True]
    assert not needs_teacher((SentenceLoss(weight=0.0),))
    expected = {LabelLoss(): False, LogitLoss(): False, LogitLoss(on="all"): True, SentenceLoss(): True}
    assert {loss: every_document((loss,)) for loss in expected} == expected


def test_what_a_user_may_get_wrong_is_named():
    student, teacher = with_tasks(**STUDENT), model_of(**TEACHER)
    documents = texts().documents
    with pytest.raises(InputError, match="a 'sentence' loss needs a teacher"):
        TaskObjective(TASKS, (LabelLoss(), SentenceLoss()), documents)
    with pytest.raises(InputError, match=r"no one model to look into(.|\n)*one teacher"):
        TaskObjective(TASKS, (LabelLoss(), SentenceLoss()), documents, lambda batch: Taught({}, {}))
    with pytest.raises(InputError, match="every loss has weight zero"):
        TaskObjective(TASKS, (SentenceLoss(weight=0.0),), documents)
    with pytest.raises(InputError, match="every loss has weight zero"):
        imitation((SentenceLoss(weight=0.0),), student, teacher)
    for loss in (LabelLoss(), LogitLoss()):
        with pytest.raises(InputError, match=rf"a '{loss.kind}' loss has nothing to learn from(.|\n)*sentence"):
            imitation((SentenceLoss(), loss), student, teacher)
