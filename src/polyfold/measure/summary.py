"""The data of a report in counts: nothing in it can be traced to a document."""

from collections import Counter

from polyfold.data.dataset import SPLITS, Dataset, Documents
from polyfold.measure.report import DataSummary, TaskSummary
from polyfold.tasks import Task


def summarize(dataset: Dataset) -> DataSummary:
    """Documents by split and language, and labels by task."""
    names = [*SPLITS, "unlabelled"]
    splits = {name: dataset.split(name) for name in names if len(dataset.split(name))}
    return DataSummary(
        documents={name: len(documents) for name, documents in splits.items()},
        documents_by_language={
            name: dict(sorted(Counter(documents.languages).items())) for name, documents in splits.items()
        },
        tasks=tuple(_task_summary(task, splits) for task in dataset.tasks),
    )


def _task_summary(task: Task, splits: dict[str, Documents]) -> TaskSummary:
    labelled = {
        name: int(documents.labelled(task).sum())
        for name, documents in splits.items()
        if task.name in documents.labels
    }
    counts = _label_counts(task, splits["train"]) if "train" in splits else {}
    return TaskSummary(
        name=task.name, kind=task.kind, labels=task.labels, labelled=labelled, train_label_counts=counts
    )


def _label_counts(task: Task, documents: Documents) -> dict[str, int]:
    values = documents.labels[task.name]
    if task.multi_label:
        return {label: int((values[:, i] == 1).sum()) for i, label in enumerate(task.labels)}
    return {label: int((values == i).sum()) for i, label in enumerate(task.labels)}
