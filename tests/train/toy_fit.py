"""One short training of a toy, for the tests of the loop and for the processes that they start and kill."""

import torch

from polyfold.data.batches import BatchSpec, encode, sampling_weights
from polyfold.losses.labels import LabelLoss
from polyfold.model.classifier import new_classifier
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import dev_scores
from polyfold.train.fit import FitContext, FitSpec, fit
from polyfold.train.objectives import TaskObjective
from toys_pipeline import transformer_model
from toys_torch import MAX_LENGTH, TASKS, toy_dataset, toy_model

BATCHES = BatchSpec(documents_per_step=8, token_budget=40)


def fit_spec(**changes):
    """Two epochs of five steps, each of several batches, without any dropout unless asked for."""
    settings = {"epochs": 2, "learning_rate": 0.01, "head_dropout": 0.0, "warmup": 0.2, "batch": BATCHES}
    return FitSpec(**{**settings, **changes})


def toy_transformer(folder):
    """A classifier of the toy's tasks over a BERT of two layers, its tokenizer in `folder`; no dropout."""
    model = new_classifier(transformer_model(folder).backbone, TASKS, MAX_LENGTH, 0)
    for module in model.classifier.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def train_toy(folder, spec, *, model=None, evaluate=None, losses=None, teacher=None, documents=None, seed=3):
    """Train on the toy documents (or others) in `folder`; the model and what `fit` returned."""
    data = toy_dataset()
    source = folder / "source"
    model = model or toy_model(source)
    tokenizer = open_tokenizer(source, model.backbone.tokenizer)
    documents = documents or data.train
    train = encode(documents, tokenizer, model.max_length)
    dev = encode(data.dev, tokenizer, model.max_length)
    objective = TaskObjective(TASKS, losses or (LabelLoss(),), documents, teacher)
    weights = sampling_weights(documents, TASKS, spec.batch)
    context = FitContext(folder, seed, "toy", evaluate or dev_scores(TASKS, dev, "toy"))
    return model, fit(model.classifier, train, objective, spec, weights, context)


def state(model):
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in model.classifier.state_dict().items()}


def same(first, second):
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def close(first, second, atol=1e-5):
    """Whether two states are equal but for rounding."""
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], atol=atol) for name in first
    )
