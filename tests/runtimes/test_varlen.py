"""The laws of packed encoders: packed = padded, one by one = together, and only first tokens in the last layer."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from polyfold.model.classifier import Classifier
from polyfold.model.factorized import FactorizedEmbedding
from polyfold.model.flops import model_cost
from polyfold.model.pruned import register
from polyfold.runtimes.torch import TorchSession
from polyfold.runtimes.varlen import (
    PACKED_FAMILIES,
    Bounds,
    PackedClassifier,
    attend_at_once,
    attend_one_by_one,
    can_attend_at_once,
    can_pack,
    joined,
    pack,
    padding_of,
    unflat,
)
from toys_families import FAMILIES, VOCAB, family_model
from toys_gpu import gpu_model
from toys_quantized import model_of

PAD = 1
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")


def random_batch(lengths, seed=0, lowest=4):
    """Right-padded ids and mask, int64 [batch, seq], of documents of these lengths."""
    generator = np.random.default_rng(seed)
    mask = (np.arange(max(lengths)) < np.asarray(lengths)[:, None]).astype(np.int64)
    return np.where(mask == 1, generator.integers(lowest, VOCAB, mask.shape), PAD), mask


def packed_logits(classifier, ids, mask):
    module = PackedClassifier(classifier)
    batch = pack(ids, mask, padding_of(classifier))
    with torch.inference_mode():
        found = module(*unflat(batch.flat(), len(batch.ids)), batch.longest)
    return module.split(found.numpy())


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", PACKED_FAMILIES)
@settings(max_examples=8, deadline=None)
@given(lengths=st.lists(st.integers(1, 16), min_size=1, max_size=7), seed=st.integers(0, 99))
def test_packed_logits_are_the_padded_ones(family, lengths, seed):
    classifier = family_model(family).classifier
    ids, mask = random_batch(lengths, seed)
    close(packed_logits(classifier, ids, mask), TorchSession(classifier).run(ids, mask))


@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_a_padding_token_inside_a_text_is_numbered_as_the_model_numbers_it(family):
    classifier = family_model(family).classifier
    ids, mask = random_batch([9, 6, 2])
    ids[0, 3] = ids[0, 4] = ids[1, 0] = PAD
    close(packed_logits(classifier, ids, mask), TorchSession(classifier).run(ids, mask))


def test_a_renumbered_padding_token_is_not_taken_from_the_configuration():
    # Trimming changes it there at once, and in the module that numbers positions when that is loaded again.
    classifier = family_model("xlm-roberta").classifier
    classifier.encoder.encoder.config.pad_token_id = 0
    ids, mask = random_batch([9, 6, 2])
    close(packed_logits(classifier, ids, mask), TorchSession(classifier).run(ids, mask))


def test_an_encoder_with_layers_of_different_sizes_and_a_narrow_table_is_packed_as_well():
    from transformers import AutoConfig, AutoModel

    register()
    sizes = {
        "vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 1,
        "pad_token_id": PAD, "intermediate_size": 12, "max_position_embeddings": 34, "layer_heads": [3, 1],
        "head_size": 4,
        "layer_feed_forward": [12, 5], "embedding_rank": 6,
    }  # fmt: skip
    torch.manual_seed(0)
    encoder = AutoModel.from_config(AutoConfig.for_model("polyfold-xlm-roberta", **sizes))
    model = family_model("xlm-roberta")
    model.classifier.encoder.encoder = encoder.eval()
    assert isinstance(encoder.embeddings.word_embeddings, FactorizedEmbedding)
    ids, mask = random_batch([9, 6, 2])
    close(packed_logits(model.classifier, ids, mask), TorchSession(model.classifier).run(ids, mask))


def test_a_packed_classifier_shares_nothing_with_the_one_it_was_made_of():
    classifier = family_model("bert").classifier
    ids, mask = random_batch([5, 3])
    expected = TorchSession(classifier).run(ids, mask)
    module = PackedClassifier(classifier)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    close(TorchSession(classifier).run(ids, mask), expected)


def test_tokens_behind_the_last_document_change_nothing():
    classifier = family_model("xlm-roberta").classifier
    module = PackedClassifier(classifier)
    batch = pack(*random_batch([7, 4]), padding_of(classifier))
    ids, positions, starts = unflat(batch.flat(), len(batch.ids))
    tail = torch.full((5,), 7, dtype=torch.int32)
    with torch.inference_mode():
        expected = module(ids, positions, starts, batch.longest)
        found = module(torch.cat([ids, tail]), torch.cat([positions, tail]), starts, batch.longest)
    torch.testing.assert_close(found, expected)


def test_packing_and_unpacking_keep_every_token_and_where_documents_start():
    ids, mask = random_batch([3, 1, 5])
    batch = pack(ids, mask, None)
    assert (batch.documents, batch.longest, batch.starts.tolist()) == (3, 5, [0, 3, 4, 9])
    for number in range(3):
        own = slice(*batch.starts[number : number + 2])
        np.testing.assert_array_equal(batch.ids[own], ids[number][mask[number] == 1])
        assert batch.positions[own].tolist() == list(range(own.stop - own.start))
    flat = unflat(batch.flat(), len(batch.ids))
    for found, expected in zip(flat, (batch.ids, batch.positions, batch.starts), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)


def attend_spelled_out(query, key, value, bounds):
    """Attention in products that torch's counter sees: it leaves the processor's fused kernel out."""
    mixed = torch.zeros_like(query)
    for start, end, first, last in zip(
        bounds.queries[:-1], bounds.queries[1:], bounds.keys[:-1], bounds.keys[1:], strict=True
    ):
        scores = query[start:end].transpose(0, 1) @ key[first:last].permute(1, 2, 0) * query.shape[-1] ** -0.5
        mixed[start:end] = (scores.softmax(-1) @ value[first:last].transpose(0, 1)).transpose(0, 1)
    return mixed


@pytest.mark.parametrize("lengths", [[16, 16], [3, 1, 9]])
def test_what_is_computed_is_what_is_counted_and_first_tokens_only_in_the_last_layer(lengths):
    model = family_model("bert")
    module = PackedClassifier(model.classifier)
    batch = pack(*random_batch(lengths), None)
    module.attend = attend_spelled_out
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module(*unflat(batch.flat(), len(batch.ids)), batch.longest)
    assert counter.get_total_flops() == module.flops(lengths)
    width, heads, neurons = 16, 16, 10
    # Of the last layer: queries, output, feed-forward and attention's two products for all tokens but one.
    saved = sum(4 * (size - 1) * (width * heads + width * neurons + size * heads) for size in lengths)
    assert module.flops(lengths) == sum(model_cost(model, 1, size).flops for size in lengths) - saved


@pytest.mark.parametrize("family", [*FAMILIES, "use-multilingual"])
def test_only_families_of_berts_layers_are_packed(family):
    assert can_pack(model_of(family).classifier) == (family in PACKED_FAMILIES)


def test_fake_quantizers_and_stock_trunks_are_not_packed(torch_toys):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from polyfold.model.backbone import Transformer
    from polyfold.model.stock import strip
    from toys import TOY_TASKS

    assert not can_pack(torch_toys["transformer"]["int8"].classifier)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8}
    config = AutoConfig.for_model("bert", vocab_size=VOCAB, num_labels=3, **shape)
    trunk, _ = strip(AutoModelForSequenceClassification.from_config(config), 3)
    assert not can_pack(Classifier(Transformer(trunk), 16, TOY_TASKS))


def test_joined_layers_give_their_outputs_side_by_side():
    torch.manual_seed(0)
    parts = [torch.nn.Linear(6, 4), torch.nn.Linear(6, 3, bias=False)]
    inputs = torch.randn(5, 6)
    expected = torch.cat([part(inputs) for part in parts], dim=1)
    torch.testing.assert_close(joined(parts)(inputs), expected)


def test_the_processor_never_gets_the_gpus_kernel():
    assert not can_attend_at_once(torch.device("cpu"), torch.bfloat16, 32)
    assert not can_attend_at_once(torch.device("cuda"), torch.float32, 32)
    assert not can_attend_at_once(torch.device("cuda"), torch.bfloat16, 12)


def test_the_kernel_takes_what_it_is_given_by_its_own_account():
    # Without a GPU its registered shape function is what there is of it: it knows arguments, shapes and types.
    module = PackedClassifier(gpu_model().classifier).to(device="meta", dtype=torch.bfloat16)
    module.heads.float()
    module.attend = attend_at_once
    labels = sum(module.labels.values())
    with torch.inference_mode():
        for documents, tokens in ((1, 5), (3, 40), (40, 400)):
            flat = torch.empty(2 * tokens + documents + 1, dtype=torch.int32, device="meta")
            found = module(*unflat(flat, tokens), 32)
            assert (tuple(found.shape), found.dtype) == ((documents, labels), torch.float32)


@NO_GPU
def test_the_gpus_kernel_attends_as_the_plain_one_does():
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, 7, 8, 40], dtype=torch.int32)
    firsts = torch.arange(4, dtype=torch.int32)
    query, key, value = torch.randn(3, 40, 4, 32, generator=generator).bfloat16().cuda()
    for bounds, rows in ((Bounds(starts, starts, 32, 32), query), (Bounds(firsts, starts, 1, 32), query[:3])):
        there = Bounds(bounds.queries.cuda(), bounds.keys.cuda(), bounds.longest_query, bounds.longest_key)
        expected = attend_one_by_one(rows.float(), key.float(), value.float(), bounds)
        torch.testing.assert_close(attend_at_once(rows, key, value, there).float(), expected, rtol=0.02, atol=0.02)


@NO_GPU
def test_half_precision_on_a_gpu_stays_near_fp32():
    classifier = gpu_model().classifier
    ids, mask = random_batch([9, 32, 1])
    expected = TorchSession(classifier).run(ids, mask)
    module = PackedClassifier(classifier).cast(torch.device("cuda"), torch.bfloat16)
    assert module.attend is attend_at_once
    batch = pack(ids, mask, padding_of(classifier))
    with torch.inference_mode():
        found = module(*unflat(batch.flat().cuda(), len(batch.ids)), batch.longest)
    for name, values in module.split(found.cpu().numpy()).items():
        np.testing.assert_allclose(values, expected[name], atol=0.1)
