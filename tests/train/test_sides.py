"""Losses that two encoders cannot have are refused before training, with the reason; texts cut alike are known."""

import numpy as np
import pytest
from toy_imitation import model_of, texts

from polyfold.data.batches import EncodedDocuments
from polyfold.errors import InputError
from polyfold.losses.hidden import EmbeddingLoss, HiddenStatesLoss
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.losses.relations import AttentionLoss, RelationLoss
from polyfold.losses.sentence import SentenceLoss
from polyfold.text import Encoding
from polyfold.train.sides import aligned, check_losses
from toys_encoders import EMBEDDED, VOCABULARY

STUDENT = {"layers": 2, "width": 16, "heads": 2}
TEACHER = {"layers": 4, "width": 24, "heads": 4}


def problem(loss, *, student=None, teacher=None, same_tokenizer=True):
    """What is said of a loss that stands second in the list."""
    own, other = student or model_of(**STUDENT), teacher or model_of(**TEACHER)
    with pytest.raises(InputError) as caught:
        check_losses((LabelLoss(), loss), own.backbone, other.backbone, same_tokenizer)
    return str(caught.value)


def encoded_like(source, ids):
    return EncodedDocuments(source.documents, Encoding.of(ids, source.encoding.truncated), source.pad_id)


def test_relation_heads_must_divide_both_widths_and_one_that_does_is_named():
    for heads, side, width in ((5, "student", 16), (16, "teacher", 24)):
        said = problem(RelationLoss(relation_heads=heads))
        assert "losses.1" in said
        assert f"{heads} relation heads do not divide the {side}'s width of {width}" in said
        nearest = {5: 4, 16: 8}[heads]
        assert f"for example {nearest}" in said
        check_losses(
            (RelationLoss(relation_heads=nearest),),
            model_of(**STUDENT).backbone,
            model_of(**TEACHER).backbone,
            True,
        )


@pytest.mark.parametrize(
    ("loss", "side", "layer", "last"),
    [
        (RelationLoss(relation_heads=8, student_layer=2), "student", 2, 1),
        (RelationLoss(relation_heads=8, teacher_layer=4), "teacher", 4, 3),
        (HiddenStatesLoss(layers={0: 1, 5: 3}), "student", 5, 1),
        (HiddenStatesLoss(layers={0: 1, 1: 12}), "teacher", 12, 3),
        (HiddenStatesLoss(layers={-1: 0}), "student", -1, 1),
        (AttentionLoss(layers={0: 4}), "teacher", 4, 3),
    ],
)
def test_layers_out_of_range_are_named_with_those_there_are(loss, side, layer, last):
    said = problem(loss)
    assert f"there is no layer {layer} in the {side}" in said
    assert f"its layers are 0 to {last}" in said


@pytest.mark.parametrize("loss", [AttentionLoss(), AttentionLoss(layers="uniform", compare="scores")])
def test_attention_needs_as_many_heads_on_both_sides(loss):
    said = problem(loss)
    assert "2 attention heads" in said
    assert "teacher 4" in said
    assert "use relations" in said


def test_attention_of_rotary_encoders_is_refused_and_their_relations_are_not():
    rotary = model_of("modernbert", **TEACHER)
    same = {**TEACHER, "layers": 2}
    for student, teacher in ((model_of(**same), rotary), (rotary, model_of(**TEACHER))):
        assert "rotary positions" in problem(AttentionLoss(), student=student, teacher=teacher)
        check_losses((RelationLoss(relation_heads=8),), student.backbone, teacher.backbone, True)


@pytest.mark.parametrize("loss", [AttentionLoss(), RelationLoss()])
def test_an_encoder_without_attention_can_neither_teach_nor_learn_it(loss):
    embedded = model_of(EMBEDDED)
    for side, sides in (("student", {"student": embedded}), ("teacher", {"teacher": embedded})):
        said = problem(loss, **sides)
        assert f"the {side} ('use-multilingual') does not have" in said
        assert "sentence works with every encoder" in said


@pytest.mark.parametrize(
    "loss", [AttentionLoss(), RelationLoss(relation_heads=8), HiddenStatesLoss(), EmbeddingLoss()]
)
def test_layerwise_losses_need_texts_cut_alike(loss):
    same = {**TEACHER, "seed": 1}
    assert "cut texts differently" in problem(loss, student=model_of(**same), same_tokenizer=False)
    check_losses((loss,), model_of(**same).backbone, model_of(**TEACHER).backbone, True)


def test_sentences_labels_and_logits_ask_for_nothing_and_a_weight_of_zero_for_no_check():
    student, teacher = model_of(EMBEDDED).backbone, model_of(**TEACHER).backbone
    losses = (LabelLoss(), LogitLoss(), SentenceLoss(), AttentionLoss(weight=0.0), RelationLoss(weight=0.0))
    check_losses(losses, student, teacher, same_tokenizer=False)


def test_texts_are_cut_alike_where_pieces_are_only_numbered_anew():
    numbers = np.random.default_rng(0).permutation(VOCABULARY)
    plain, renumbered = texts(), texts(renumber=numbers)
    assert aligned(plain, plain)
    assert aligned(plain, renumbered)
    assert aligned(renumbered, plain)


def test_texts_are_not_cut_alike_where_a_length_differs_or_two_pieces_became_one():
    plain = texts()
    ids = [*plain.encoding.ids]
    longer = encoded_like(plain, [*ids[:-1], np.append(ids[-1], 2)])
    assert not aligned(plain, longer)
    # Unknown to the student: one id of its for two of the teacher's. A teacher that knows less is no obstacle.
    merged = np.arange(VOCABULARY)
    merged[10:20] = 3
    unknown = texts(renumber=merged)
    assert not aligned(unknown, plain)
    assert aligned(plain, unknown)
