"""An encoder of mMiniLMv2-L6-H384's shape that can be trained where the published one cannot be downloaded.

    python benchmarks/minilm_shape.py --data ../shared/data --tokenizers ../shared/tokenizers \\
        --out runs/minilm-shape

Six layers, 384 wide, 12 heads, 1536 in the feed-forward layers, over XLM-R's 250,002 pieces. The layers are
random. The token table is not: each of XLM-R's pieces is cut by the embedded encoder's own tokenizer, and gets
the mean of the rows found there, on their 384 leading principal directions (pieces weighed by how often texts
have them). So a few epochs teach it something, and speed, int8 and label agreement can be measured on trained
weights. It is no substitute for the published checkpoint, which was distilled on web-scale text.

Writes a folder in the hub's layout (config.json, model.safetensors, tokenizer.json). A minute, 4 GB of memory.
"""

import argparse
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from polyfold.errors import InputError
from polyfold.model.backbone import embedding_rows, load_backbone
from polyfold.model.student import project_table
from polyfold.model.use_multilingual import FAMILY
from polyfold.text import TokenizerSpec, open_tokenizer

WIDTH = 384
SPECIAL = 4
"""XLM-R's first rows: <s>, <pad>, </s>, <unk>."""


def main(arguments: Sequence[str]) -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=6, help="12 gives the L12 shape [default: 6]")
    options = parser.parse_args(arguments)
    packed = options.tokenizers / "xlm-roberta.json.gz"
    for path in (packed, options.data / "feedback.parquet"):
        if not path.is_file():
            raise InputError("this file is needed", file=path)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    tokenizer = open_tokenizer(options.out, TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=1))
    table = transferred_table(options.out / "tokenizer.json", tokenizer.vocabulary_size)
    ids = tokenizer.encode(train_texts(options.data / "feedback.parquet"), 128).ids
    counts = np.bincount(np.concatenate(list(ids)), minlength=tokenizer.vocabulary_size)
    projected = project_table(table, counts, WIDTH)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.vocabulary_size, hidden_size=WIDTH, num_hidden_layers=options.layers,
        num_attention_heads=12, intermediate_size=1536, max_position_embeddings=514, type_vocab_size=1,
        bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = XLMRobertaModel(config, add_pooling_layer=False)
    with torch.no_grad():
        # Unit variance: the layers above were initialized for inputs of that size.
        model.get_input_embeddings().weight.copy_(projected / projected.std())
    model.save_pretrained(options.out)
    print(f"{options.out}: {sum(one.numel() for one in model.parameters()) / 1e6:.1f}M parameters")


def transferred_table(tokenizer_json: Path, rows: int) -> torch.Tensor:
    """A row of the embedded encoder's width for every piece of a unigram JSON; special tokens get zeros."""
    import json

    with TemporaryDirectory() as scratch:
        embedded = load_backbone(FAMILY, Path(scratch), Path())
        source = embedding_rows(embedded.module).numpy()
        import sentencepiece

        backend = sentencepiece.SentencePieceProcessor(model_file=str(Path(scratch) / embedded.tokenizer.file))
        pieces = [piece for piece, _ in json.loads(tokenizer_json.read_bytes())["model"]["vocab"]]
        table = np.zeros((rows, source.shape[1]), dtype=np.float32)
        found = backend.encode([piece.replace("▁", " ") for piece in pieces], out_type=int)
    exact = {backend.id_to_piece(index): index for index in range(backend.vocab_size())}
    for place in range(SPECIAL, len(pieces)):
        # A piece that both vocabularies have is not cut again: a space before it would be lost.
        ids = [exact[pieces[place]]] if pieces[place] in exact else found[place]
        if ids:
            table[place] = source[ids].mean(axis=0)
    return torch.from_numpy(table)


def train_texts(path: Path) -> list[str]:
    """An even tenth of the training texts: enough to weigh pieces by."""
    texts = pq.read_table(path, columns=["text"], filters=[("split", "=", "train")])["text"]
    return texts.take(np.arange(0, len(texts), 10)).to_pylist()


if __name__ == "__main__":
    main(sys.argv[1:])
