"""A toy of every transformers family that can be pruned: random weights, uneven enough that every cut shows."""

import torch

from polyfold.model.backbone import Backbone, Transformer
from polyfold.model.classifier import new_classifier
from polyfold.model.layout import LAYOUTS
from toys import TOY_MAX_LENGTH, TOY_TASKS, WORDS, write_toy_tokenizer

FAMILIES = tuple(sorted(LAYOUTS))
LAYERS, HEADS, HEAD_SIZE, NEURONS = 3, 4, 4, 10
WIDTH = HEADS * HEAD_SIZE
VOCAB = len(WORDS) + 4


def toy_encoder(family, layers=LAYERS):
    """A stock encoder without a pooling layer."""
    from transformers import AutoConfig, AutoModel

    sizes = {"vocab_size": VOCAB, "max_position_embeddings": 34, "pad_token_id": 1}
    if family == "distilbert":
        sizes |= {"dim": WIDTH, "n_layers": layers, "n_heads": HEADS, "hidden_dim": NEURONS}
    else:
        sizes |= {
            "hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": HEADS,
            "intermediate_size": NEURONS,
        }  # fmt: skip
    if family == "modernbert":
        sizes |= {"local_attention": 4, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    pooling = {} if family in ("distilbert", "modernbert") else {"add_pooling_layer": False}
    return AutoModel.from_config(AutoConfig.for_model(family, **sizes), **pooling)


def family_model(family, folder=None, seed=0, layers=LAYERS):
    """A classifier over the toy; its tokenizer goes to `folder`, if there is one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = toy_encoder(family, layers)
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    spec = write_toy_tokenizer(folder) if folder is not None else None
    backbone = Backbone(family, Transformer(encoder), WIDTH, encoder.config.to_dict(), spec, 32)
    model = new_classifier(backbone, TOY_TASKS, TOY_MAX_LENGTH, seed)
    model.classifier.eval()
    return model


def toy_batch(seed=0, batch=3, seq=9):
    """Random ids and a mask whose rows end at different places."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCAB, (batch, seq), generator=generator)
    lengths = torch.tensor([seq, max(1, seq - 4), max(1, seq // 2)])[:batch]
    mask = (torch.arange(seq)[None] < lengths[:, None]).long()
    return torch.where(mask == 1, ids, 1), mask


def logits(model, seed=0):
    """All logits side by side: [batch, labels of every task]."""
    with torch.no_grad():
        found = model.classifier.eval()(*toy_batch(seed)).logits
    return torch.cat(list(found.values()), dim=1)
