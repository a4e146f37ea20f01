"""A torch model over whole splits: logits, dev scores, and what is fitted on dev."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from polyfold import metrics
from polyfold.console import progress_bar
from polyfold.data.batches import EncodedDocuments
from polyfold.data.dataset import Documents
from polyfold.model.classifier import Model
from polyfold.tasks import Task
from polyfold.text import pad_rows, plan_batches

TOKEN_BUDGET = 4096


def predict_logits(
    classifier: nn.Module, tasks: Sequence[Task], encoded: EncodedDocuments, label: str
) -> dict[str, np.ndarray]:
    """Logits by task over a whole split, float32 [n, labels], in the documents' own order.

    On a GPU where there is one; afterwards the classifier lies where it lay.
    """
    logits = {task.name: np.zeros((len(encoded), len(task.labels)), dtype=np.float32) for task in tasks}
    home = next(classifier.parameters()).device
    device = torch.device("cuda") if torch.cuda.is_available() else home
    classifier.to(device)
    was_training = classifier.training
    classifier.eval()
    batches = plan_batches(encoded.encoding.lengths, TOKEN_BUDGET)
    with torch.no_grad(), progress_bar(label, len(encoded)) as bar:
        for indices in batches:
            input_ids, mask = pad_rows(encoded.encoding, indices, encoded.pad_id)
            outputs = classifier(torch.from_numpy(input_ids).to(device), torch.from_numpy(mask).to(device))
            for name, values in logits.items():
                values[indices] = outputs.logits[name].float().cpu().numpy()
            bar.advance(len(indices))
    classifier.train(was_training)
    classifier.to(home)
    return logits


def macro_f1(tasks: Sequence[Task], documents: Documents, logits: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Macro-F1 (0..1) of each task that has labelled documents here, by the task's own thresholds."""
    scores = {}
    for task in tasks:
        rows = documents.labelled(task)
        if rows.any():
            decided = task.decide(task.probabilities(logits[task.name][rows]))
            scores[task.name] = metrics.macro_f1(task, documents.labels[task.name][rows], decided)
    return scores


def calibrate(tasks: Sequence[Task], dev: Documents, logits: Mapping[str, np.ndarray]) -> tuple[Task, ...]:
    """The same tasks with temperature and, for multi-label ones, thresholds fitted on dev; never on test.

    The temperature comes first, since thresholds apply to calibrated probabilities. A task without labelled dev
    documents keeps what it had.
    """
    return tuple(_calibrated(task, dev, logits[task.name]) for task in tasks)


def calibrated(model: Model, dev: EncodedDocuments, label: str) -> Model:
    """The model with temperatures and thresholds fitted on dev; one with random weights stays as it is."""
    if model.backbone.weights == "random":
        return model
    logits = predict_logits(model.classifier, model.tasks, dev, f"{label}, calibrating")
    return model.with_tasks(calibrate(model.tasks, dev.documents, logits))


def dev_scores(
    tasks: Sequence[Task], dev: EncodedDocuments, label: str
) -> Callable[[nn.Module], Mapping[str, float]]:
    """A function that scores a classifier on dev, with thresholds tuned there as they will be in the end.

    With thresholds left at 0.5, early stopping would choose by how well rare labels happen to be calibrated.
    """

    def score(module: nn.Module) -> Mapping[str, float]:
        logits = predict_logits(module, tasks, dev, f"{label}, dev")
        return macro_f1(calibrate(tasks, dev.documents, logits), dev.documents, logits)

    return score


def _calibrated(task: Task, documents: Documents, logits: np.ndarray) -> Task:
    rows = documents.labelled(task)
    if not rows.any():
        return task
    truth = documents.labels[task.name][rows]
    warm = task.model_copy(update={"temperature": metrics.fit_temperature(task, logits[rows], truth)})
    if not task.multi_label:
        return warm
    thresholds = metrics.tune_thresholds(task, warm.probabilities(logits[rows]), truth)
    return warm.model_copy(update={"thresholds": thresholds})
