"""One step: what makes it quick changes none of its numbers."""

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from toy_fit import same, toy_transformer

from polyfold.data.batches import BatchSpec, encode, plan_epoch
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.model.backbone import token_embedding
from polyfold.text import open_tokenizer
from polyfold.train.objectives import TaskObjective
from polyfold.train.steps import Noise, Stepper, sparse_gradients
from toys_torch import TASKS, toy_dataset, toy_model


def stepper_of(model, objective, precision="no", clip_norm=1.0):
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision, cpu=True)
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=0.01, fused=True)
    return Stepper(accelerator, model.classifier.train(), optimizer, objective, clip_norm, Noise(0.0, None))


def steps_of(folder, maker=toy_model, budget=40):
    """A model and the batches of an epoch's steps."""
    documents = toy_dataset().train
    model = maker(folder)
    own = encode(documents, open_tokenizer(folder, model.backbone.tokenizer), model.max_length)
    plan = plan_epoch(own.encoding.lengths, None, BatchSpec(documents_per_step=8, token_budget=budget), 0, 0)
    return (
        model,
        TaskObjective(model.tasks, (LabelLoss(),), documents),
        [[own.batch(b) for b in step] for step in plan],
    )


def trained(folder, wrap, precision="no", **options):
    """The weights after an epoch of steps, with something around each."""
    model, objective, steps = steps_of(folder, **options)
    stepper = stepper_of(model, objective, precision)
    torch.manual_seed(0)
    for batches in steps:
        with wrap(model):
            stepper.step(batches)
    return {name: value.detach().clone() for name, value in model.classifier.state_dict().items()}


@pytest.mark.parametrize("maker", [toy_model, toy_transformer])
def test_sparse_gradients_of_the_token_table_add_up_to_dense_ones(maker, tmp_path):
    found = []
    for wrap in (lambda _: nullcontext(), lambda model: sparse_gradients(model, torch.device("cpu"))):
        model, objective, steps = steps_of(tmp_path, maker)
        stepper = stepper_of(model, objective)
        torch.manual_seed(0)
        with wrap(model.classifier):
            stepper.step(steps[0])
        found.append([parameter.grad for parameter in stepper.parameters])
        table = token_embedding(model.classifier.encoder).weight.grad
        assert 0 < int((table != 0).any(dim=1).sum()) < len(table)
    assert all(torch.allclose(dense, sparse, atol=1e-6) for dense, sparse in zip(*found, strict=True))


def test_the_table_is_as_it_was_after_sparse_gradients_and_on_a_gpu_always(tmp_path):
    table = token_embedding(toy_model(tmp_path).classifier.encoder)
    for device, inside in (("cpu", True), ("cuda", False)):
        with pytest.raises(KeyError), sparse_gradients(toy_model(tmp_path).classifier, torch.device(device)):
            raise KeyError
        model = toy_model(tmp_path)
        with sparse_gradients(model.classifier, torch.device(device)):
            assert token_embedding(model.classifier.encoder).sparse == inside
        assert not token_embedding(model.classifier.encoder).sparse
    assert not table.sparse


def test_weights_rounded_once_a_step_train_as_those_rounded_at_every_pass(tmp_path):
    def anew(model):
        # Whoever empties autocast's store at each pass has all weights rounded anew.
        handle = model.classifier.register_forward_pre_hook(lambda *_: torch.clear_autocast_cache())
        return _Removing(handle)

    once = trained(tmp_path, lambda _: nullcontext(), precision="bf16")
    assert same(once, trained(tmp_path, anew, precision="bf16"))
    assert not same(once, trained(tmp_path, lambda _: nullcontext()))


class _Removing:
    def __init__(self, handle):
        self.handle = handle

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


@pytest.mark.parametrize("clip_norm", [1e-3, 0.5, 1e3])
def test_gradients_are_clipped_as_torch_clips_them(clip_norm, tmp_path):
    model, objective, (batches, *_) = steps_of(tmp_path)
    stepper = stepper_of(model, objective, clip_norm=clip_norm)
    torch.manual_seed(0)
    stepper.step(batches)
    clipped = [one.grad.clone() for one in stepper.parameters]
    again, objective, (batches, *_) = steps_of(tmp_path)
    other = stepper_of(again, objective, clip_norm=1e9)
    torch.manual_seed(0)
    other.step(batches)
    norm = torch.nn.utils.clip_grad_norm_(other.parameters, clip_norm)
    assert stepper.norms[0] == norm
    assert all(torch.equal(mine, one.grad) for mine, one in zip(clipped, other.parameters, strict=True))


def test_a_gradient_that_is_not_finite_is_told_with_its_step_however_seldom_one_looks(tmp_path):
    model, objective, steps = steps_of(tmp_path)
    stepper = stepper_of(model, objective)
    totals = {}
    for number, batches in enumerate(steps[:4]):
        if number == 2:
            with torch.no_grad():
                next(iter(model.classifier.parameters())).fill_(float("nan"))
        totals = stepper.step(batches)
        if number == 0:
            assert stepper.read(totals, 11)["labels"] > 0
    with pytest.raises(InputError, match="diverged at step 13"):
        stepper.read(totals, 14)


def test_losses_are_those_of_the_whole_step_however_it_is_cut(tmp_path):
    read = []
    for budget in (10_000, 40, 1):
        model, objective, steps = steps_of(tmp_path, budget=budget)
        stepper = stepper_of(model, objective)
        model.classifier.dropout.p = 0.0
        read.append(stepper.read(stepper.step(steps[0]), 1)["labels"])
        # One loss for each labelled (document, task) pair, so at the start about the loss of a guess.
        assert 0.1 < read[-1] < 5 * len(TASKS)
    assert read == pytest.approx([read[0]] * 3, rel=1e-5)
