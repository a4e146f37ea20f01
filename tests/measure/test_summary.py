import numpy as np
from toy_run import TASKS, make_documents

from polyfold.data.dataset import Dataset
from polyfold.measure.summary import summarize


def test_the_summary_counts_every_document_and_every_label_once():
    train, empty = make_documents(240, seed=1), make_documents(0, seed=2)
    data = summarize(Dataset(TASKS, train, make_documents(24, 3), make_documents(36, 4), empty, "f" * 64))
    assert data.documents == {"train": 240, "dev": 24, "test": 36}
    assert {name: sum(counts.values()) for name, counts in data.documents_by_language.items()} == data.documents
    for task, found in zip(TASKS, data.tasks, strict=True):
        assert found.labelled["train"] == train.labelled(task).sum() < 240
        values = train.labels[task.name][train.labelled(task)]
        expected = values.sum() if task.multi_label else len(values)
        assert sum(found.train_label_counts.values()) == expected
    assert found.train_label_counts["price"] == np.sum(train.labels["topics"][:, 0] == 1)
