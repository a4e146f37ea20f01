"""Eq. 1 and Eq. 2 over whole steps: against numpy, however labels are missing and however a step is cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polyfold.batch import Batch, Outputs, Taught
from polyfold.data.dataset import Documents
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.train.objectives import TaskObjective
from toys_torch import TASKS

COUNT = 7


class Table(nn.Module):
    """A model that knows each document's logits by heart: the loss is a function of them alone."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.ParameterDict(
            {task.name: torch.randn(COUNT, len(task.labels), generator=generator) * 2 for task in TASKS}
        )

    def forward(self, input_ids, attention_mask):
        rows = input_ids[:, 0]
        return Outputs({name: values[rows] for name, values in self.logits.items()}, torch.zeros(len(rows), 1))

    def numpy(self, name):
        return self.logits[name].detach().double().numpy()


class TableTeacher:
    """The same table as a teacher, optionally silent about some tasks."""

    def __init__(self, table, tasks=TASKS):
        self.table, self.tasks = table, tasks

    def __call__(self, batch):
        logits = {task.name: self.table.logits[task.name].detach()[batch.index] for task in self.tasks}
        return Taught(logits, {name: torch.ones(len(batch), dtype=torch.bool) for name in logits})


def make_documents(seed, masks):
    random = np.random.default_rng(seed)
    labels = {
        "domain": random.integers(0, 3, COUNT),
        "sentiment": random.integers(0, 2, COUNT),
        "topics": random.integers(0, 2, (COUNT, 4)).astype(np.int8),
    }
    for name, mask in masks.items():
        labels[name][~np.asarray(mask)] = -1
    empty = [""] * COUNT
    return Documents(empty, empty, empty, empty, labels)


def make_batch(documents, rows):
    rows = np.asarray(rows, dtype=np.int64)
    labels, masks = {}, {}
    for task in TASKS:
        values = documents.labels[task.name][rows]
        masks[task.name] = torch.from_numpy(task.labelled(values))
        labels[task.name] = torch.from_numpy(values.astype(np.float32 if task.multi_label else np.int64))
    ids = torch.from_numpy(rows)[:, None]
    return Batch(ids, torch.ones_like(ids), torch.from_numpy(rows), labels, masks)


def step_loss(objective, model, batches):
    """Each loss of a step as the loop forms it: the batches' sums over the step's counts."""
    counts, sums = {}, {}
    for batch in batches:
        for name, value in objective.counts(batch).items():
            counts[name] = counts.get(name, 0.0) + value
        for name, value in objective(model, batch).items():
            sums[name] = sums.get(name, 0.0) + value
    return {name: value / max(1.0, counts[name]) for name, value in sums.items()}


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def eq1(model, documents):
    """The paper's Eq. 1 in numpy: cross-entropies over labelled pairs, divided by the number of those pairs."""
    total, pairs = 0.0, 0
    for task in TASKS:
        for row in range(COUNT):
            label, x = documents.labels[task.name][row], model.numpy(task.name)[row]
            if np.any(label == -1):
                continue
            pairs += 1
            if task.multi_label:
                total += (label * np.logaddexp(0, -x) + (1 - label) * np.logaddexp(0, x)).sum()
            else:
                total -= log_softmax(x)[label]
    return total / max(1, pairs)


def divergence(task, q, p, temperature):
    if task.multi_label:
        q1, p1 = 1 / (1 + np.exp(-q / temperature)), 1 / (1 + np.exp(-p / temperature))
        return (q1 * np.log(q1 / p1) + (1 - q1) * np.log((1 - q1) / (1 - p1))).sum()
    a, b = log_softmax(q / temperature), log_softmax(p / temperature)
    return (np.exp(a) * (a - b)).sum()


masks_of_any_pattern = st.fixed_dictionaries(
    {task.name: st.lists(st.booleans(), min_size=COUNT, max_size=COUNT) for task in TASKS}
)


@settings(deadline=None, max_examples=50)
@given(masks_of_any_pattern, st.integers(0, 9))
def test_the_label_loss_is_eq_1_for_any_pattern_of_missing_labels(masks, seed):
    model, documents = Table(seed), make_documents(seed, masks)
    found = step_loss(
        TaskObjective(TASKS, (LabelLoss(),), documents), model, [make_batch(documents, range(COUNT))]
    )
    assert float(found["labels"].detach()) == pytest.approx(eq1(model, documents), rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    masks_of_any_pattern,
    st.permutations(range(COUNT)),
    st.sets(st.integers(1, COUNT - 1)),
    st.sampled_from(["labelled", "all"]),
)
def test_the_gradient_is_the_same_however_the_step_is_cut_into_batches(masks, order, cuts, on):
    documents = make_documents(0, masks)
    losses = (
        LabelLoss(class_weights="balanced", logit_adjustment=0.5),
        LogitLoss(weight=0.7, temperature=2, on=on),
    )
    gradients = []
    for pieces in ([list(range(COUNT))], [list(part) for part in np.split(np.array(order), sorted(cuts))]):
        model = Table(1)
        objective = TaskObjective(TASKS, losses, documents, TableTeacher(Table(2)))
        loss = step_loss(objective, model, [make_batch(documents, rows) for rows in pieces])
        sum(loss.values()).backward()
        gradients.append({name: value.grad for name, value in model.logits.items()})
    for name, whole in gradients[0].items():
        assert torch.allclose(whole, gradients[1][name], atol=1e-6)


@pytest.mark.parametrize("labelled", [task.name for task in TASKS])
def test_a_document_labelled_for_one_task_gives_the_other_heads_exactly_no_gradient(labelled):
    documents = make_documents(0, {task.name: [task.name == labelled] * COUNT for task in TASKS})
    model = Table(0)
    losses = (LabelLoss(class_weights="balanced", logit_adjustment=1.0), LogitLoss(on="labelled"))
    objective = TaskObjective(TASKS, losses, documents, TableTeacher(Table(1)))
    loss = step_loss(objective, model, [make_batch(documents, range(COUNT))])
    sum(loss.values()).backward()
    for name, values in model.logits.items():
        assert (torch.count_nonzero(values.grad) > 0) == (name == labelled), name


@pytest.mark.parametrize("on", ["labelled", "all"])
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.3, 4.0)])
def test_the_loss_is_labels_plus_alpha_f_squared_kl(on, alpha, temperature):
    random = np.random.default_rng(5)
    documents = make_documents(5, {task.name: random.random(COUNT) < 0.6 for task in TASKS})
    model, teacher = Table(0), Table(1)
    losses = (LabelLoss(), LogitLoss(weight=alpha, temperature=temperature, on=on))
    objective = TaskObjective(TASKS, losses, documents, TableTeacher(teacher))
    found = step_loss(objective, model, [make_batch(documents, range(COUNT))])
    kl, pairs = 0.0, 0
    for task in TASKS:
        for row in range(COUNT):
            if on == "all" or task.labelled(documents.labels[task.name])[row]:
                kl += divergence(task, teacher.numpy(task.name)[row], model.numpy(task.name)[row], temperature)
                pairs += 1
    expected = eq1(model, documents) + alpha * temperature**2 * kl / pairs
    assert float(sum(found.values()).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(found["labels"].detach()) == pytest.approx(eq1(model, documents), rel=1e-5)


def test_documents_without_any_label_teach_only_where_the_loss_is_on_all():
    documents = make_documents(0, {task.name: [False] * COUNT for task in TASKS})
    batch = make_batch(documents, range(COUNT))
    for on, learns in (("labelled", False), ("all", True)):
        model = Table(0)
        objective = TaskObjective(TASKS, (LogitLoss(on=on),), documents, TableTeacher(Table(1)))
        sum(step_loss(objective, model, [batch]).values()).backward()
        assert all((torch.count_nonzero(v.grad) == v.numel()) == learns for v in model.logits.values())
        assert learns or all(torch.count_nonzero(v.grad) == 0 for v in model.logits.values())


def test_a_teacher_that_does_not_know_a_task_leaves_that_head_alone():
    documents = make_documents(0, {})
    model = Table(0)
    objective = TaskObjective(TASKS, (LogitLoss(on="all"),), documents, TableTeacher(Table(1), TASKS[:1]))
    sum(step_loss(objective, model, [make_batch(documents, range(COUNT))]).values()).backward()
    silent = {name: torch.count_nonzero(values.grad) == 0 for name, values in model.logits.items()}
    assert silent == {"domain": False, "sentiment": True, "topics": True}


def single_gradient(loss, documents, rows):
    model = Table(0)
    sum(
        step_loss(TaskObjective(TASKS, (loss,), documents), model, [make_batch(documents, rows)]).values()
    ).backward()
    return {name: value.grad for name, value in model.logits.items()}


def test_balanced_class_weights_are_the_inverse_of_the_class_shares():
    masks = {"sentiment": [False] * COUNT, "topics": [False] * COUNT}
    documents = make_documents(2, masks)
    shares = np.bincount(documents.labels["domain"], minlength=3) / COUNT
    assert (shares > 0).all()
    for row in range(COUNT):
        label = documents.labels["domain"][row]
        plain = single_gradient(LabelLoss(), documents, [row])["domain"]
        balanced = single_gradient(LabelLoss(class_weights="balanced"), documents, [row])["domain"]
        assert torch.allclose(balanced, plain / (3 * shares[label]), atol=1e-6)


def test_balanced_weights_of_independent_labels_are_the_root_of_the_odds_on_positives_alone():
    documents = make_documents(2, {"domain": [False] * COUNT, "sentiment": [False] * COUNT})
    labels = documents.labels["topics"]
    shares = labels.mean(axis=0)
    assert ((shares > 0) & (shares < 1)).all()
    plain = single_gradient(LabelLoss(), documents, range(COUNT))["topics"].numpy()
    balanced = single_gradient(LabelLoss(class_weights="balanced"), documents, range(COUNT))["topics"].numpy()
    expected = np.where(labels == 1, plain * np.sqrt((1 - shares) / shares), plain)
    assert np.allclose(balanced, expected, atol=1e-6)


def test_given_class_weights_scale_their_label_and_leave_the_others():
    documents = make_documents(2, {"topics": [False] * COUNT})
    loss = LabelLoss(class_weights={"domain": {"delivery": 3.0}})
    plain, weighed = (single_gradient(one, documents, range(COUNT)) for one in (LabelLoss(), loss))
    factor = np.where(documents.labels["domain"] == 1, 3.0, 1.0)[:, None]
    assert np.allclose(weighed["domain"].numpy(), plain["domain"].numpy() * factor, atol=1e-6)
    assert torch.equal(weighed["sentiment"], plain["sentiment"])


def test_logit_adjustment_is_eq_1_at_logits_shifted_by_the_training_prior():
    documents = make_documents(2, {})
    model, shifted = Table(0), Table(0)
    with torch.no_grad():
        for task in TASKS:
            labels = documents.labels[task.name]
            if task.multi_label:
                share = labels.mean(axis=0)
                shift = 1.5 * np.log(share / (1 - share))
            else:
                shift = 1.5 * np.log(np.bincount(labels, minlength=len(task.labels)) / COUNT)
            shifted.logits[task.name] += torch.from_numpy(shift).float()
    objective = TaskObjective(TASKS, (LabelLoss(logit_adjustment=1.5),), documents)
    found = step_loss(objective, model, [make_batch(documents, range(COUNT))])
    assert float(found["labels"].detach()) == pytest.approx(eq1(shifted, documents), rel=1e-5)


def test_two_losses_of_one_kind_are_both_counted():
    documents = make_documents(0, {})
    objective = TaskObjective(
        TASKS, (LogitLoss(weight=1.0), LogitLoss(weight=2.0)), documents, TableTeacher(Table(1))
    )
    found = step_loss(objective, Table(0), [make_batch(documents, range(COUNT))])
    first, second = (float(value.detach()) for value in found.values())
    assert second == pytest.approx(2 * first)


def test_what_a_user_may_get_wrong_is_named():
    documents = make_documents(0, {})
    with pytest.raises(InputError, match="needs a teacher"):
        TaskObjective(TASKS, (LogitLoss(),), documents)
    with pytest.raises(InputError, match=r"'deliver'.*\n.*billing, delivery, staff"):
        TaskObjective(TASKS, (LabelLoss(class_weights={"domain": {"deliver": 2.0}}),), documents)
