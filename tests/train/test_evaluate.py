"""Scoring a whole split: in the documents' own order, by thresholds of dev, and without changing the model."""

import numpy as np
import pytest
import torch

from polyfold import metrics
from polyfold.data.batches import encode
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import calibrate, calibrated, dev_scores, macro_f1, predict_logits
from toys_torch import TASKS, toy_documents, toy_model


@pytest.fixture
def scored(tmp_path):
    """A model, its documents of very different lengths, and their tokens."""
    model = toy_model(tmp_path)
    documents = toy_documents(40, 8)
    return model, encode(documents, open_tokenizer(tmp_path, model.backbone.tokenizer), model.max_length)


def test_logits_of_a_split_are_those_of_each_document_alone_and_the_mode_is_left_as_it_was(scored):
    model, encoded = scored
    model.classifier.train()
    found = predict_logits(model.classifier, TASKS, encoded, "toy")
    assert model.classifier.training
    model.classifier.eval()
    for row in range(len(encoded)):
        batch = encoded.batch(np.array([row]))
        with torch.no_grad():
            alone = model.classifier(batch.input_ids, batch.attention_mask).logits
        for name, values in found.items():
            assert values.dtype == np.float32
            assert values[row] == pytest.approx(alone[name][0].numpy(), abs=1e-5)


def test_unlabelled_documents_count_neither_for_scores_nor_for_calibration(scored):
    model, encoded = scored
    documents = encoded.documents
    logits = predict_logits(model.classifier, TASKS, encoded, "toy")
    noisy = {}
    for task in TASKS:
        noise = np.random.default_rng(0).normal(0, 50, logits[task.name].shape).astype(np.float32)
        noisy[task.name] = np.where(documents.labelled(task)[:, None], logits[task.name], noise)
        assert not documents.labelled(task).all()
    tasks = calibrate(TASKS, documents, logits)
    assert calibrate(TASKS, documents, noisy) == tasks
    assert macro_f1(tasks, documents, noisy) == macro_f1(tasks, documents, logits)


def test_calibration_never_hurts_on_dev_and_changes_no_single_label_decision(scored):
    model, encoded = scored
    documents = encoded.documents
    logits = predict_logits(model.classifier, TASKS, encoded, "toy")
    tasks = calibrate(TASKS, documents, logits)
    before, after = macro_f1(TASKS, documents, logits), macro_f1(tasks, documents, logits)
    assert after["domain"] == before["domain"]
    assert after["topics"] > before["topics"]
    assert tasks[2].thresholds is not None
    assert all(task.temperature != 1.0 for task in tasks)
    rows = documents.labelled(tasks[0])
    assert after["domain"] == metrics.macro_f1(
        tasks[0], documents.labels["domain"][rows], logits["domain"][rows].argmax(axis=1)
    )


def test_dev_scores_are_those_with_thresholds_tuned_there(scored):
    model, encoded = scored
    logits = predict_logits(model.classifier, TASKS, encoded, "toy")
    tuned = calibrate(TASKS, encoded.documents, logits)
    scores = dev_scores(TASKS, encoded, "toy")(model.classifier)
    assert scores == macro_f1(tuned, encoded.documents, logits)


def test_a_task_without_labelled_documents_has_no_score_and_keeps_what_it_had(scored):
    model, encoded = scored
    documents = encoded.documents
    documents.labels["topics"][:] = -1
    logits = predict_logits(model.classifier, TASKS, encoded, "toy")
    assert set(macro_f1(TASKS, documents, logits)) == {"domain", "sentiment"}
    assert calibrate(TASKS, documents, logits)[2] == TASKS[2]


def test_a_model_with_random_weights_is_never_calibrated(scored):
    from dataclasses import replace

    model, encoded = scored
    random = replace(model, backbone=replace(model.backbone, weights="random"))
    assert calibrated(random, encoded, "toy") is random
    assert calibrated(model, encoded, "toy").tasks != model.tasks
