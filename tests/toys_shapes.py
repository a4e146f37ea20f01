"""Published backbones as folders in the hub's exact layout: true sizes or toy ones, random weights from a seed.

Full-sized folders have the real tokenizer where `../shared/tokenizers` holds it, else one of the true size trained
on `../shared/data/corpus.parquet`. Toy folders have the same files, made of the toy words.
"""

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from toys_torch import toy_documents, word_pieces, write_sentencepiece, write_word_piece_json, write_xlm_r_json

SHARED = Path(__file__).parents[2] / "shared"
XLM_R = SHARED / "tokenizers" / "xlm-roberta.json.gz"
MBERT = SHARED / "tokenizers" / "bert-base-multilingual-cased.json.gz"
CORPUS = SHARED / "data" / "corpus.parquet"

BERT = {
    "model_type": "bert", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
ROBERTA = {
    "model_type": "xlm-roberta", "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-5,
    "max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1,
}  # fmt: skip
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
L12 = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 12}
L6 = {**L12, "num_hidden_layers": 6}


@dataclass(frozen=True)
class Shape:
    """A repository of the hub: its `config.json` and the files its tokenizer is published as.

    `tokenizer`: XLM-R's pieces with their JSON ("unigram") or as the SentencePiece model alone ("sentencepiece"),
    word pieces with their JSON ("cased") or as a `vocab.txt` alone ("uncased"), or BPE with bytes ("bytes").
    `spare` are the rows of the table that no piece has; `parameters` is the encoder's published size in millions.
    """

    hub_id: str
    config: dict
    tokenizer: str
    parameters: float
    spare: int = 0

    @property
    def name(self) -> str:
        """The repository without its owner."""
        return self.hub_id.partition("/")[2]


SHAPES = (
    Shape(
        "FacebookAI/xlm-roberta-base",
        {**ROBERTA, **BASE, "architectures": ["XLMRobertaForMaskedLM"], "vocab_size": 250_002},
        "unigram",
        277.5,
    ),
    Shape(
        "google-bert/bert-base-multilingual-cased",
        {**BERT, **BASE, "architectures": ["BertForMaskedLM"], "vocab_size": 119_547, "directionality": "bidi",
         "pad_token_id": 0, "pooler_fc_size": 768, "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3,
         "pooler_size_per_head": 128, "pooler_type": "first_token_transform"},
        "cased",
        177.3,
    ),
    Shape(
        "nreimers/mMiniLMv2-L12-H384-distilled-from-XLMR-Large",
        {**ROBERTA, **L12, "architectures": ["XLMRobertaModel"], "vocab_size": 250_002,
         "tokenizer_class": "XLMRobertaTokenizer"},
        "unigram",
        117.5,
    ),
    Shape(
        "nreimers/mMiniLMv2-L6-H384-distilled-from-XLMR-Large",
        {**ROBERTA, **L6, "architectures": ["XLMRobertaModel"], "vocab_size": 250_002,
         "tokenizer_class": "XLMRobertaTokenizer"},
        "unigram",
        106.8,
    ),
    Shape(
        "microsoft/Multilingual-MiniLM-L12-H384",
        {**BERT, **L12, "architectures": ["BertModel"], "vocab_size": 250_037,
         "tokenizer_class": "XLMRobertaTokenizer"},
        "sentencepiece",
        117.5,
        spare=35,
    ),
    Shape(
        "microsoft/xtremedistil-l6-h384-uncased",
        {**BERT, **L6, "architectures": ["BertModel"], "vocab_size": 30_522, "pad_token_id": 0},
        "uncased",
        22.6,
    ),
    Shape(
        "jhu-clsp/mmBERT-small",
        {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "attention_bias": False,
         "attention_dropout": 0.0, "bos_token_id": 2, "classifier_pooling": "mean", "cls_token_id": 1,
         "decoder_bias": True, "embedding_dropout": 0.0, "eos_token_id": 1, "global_attn_every_n_layers": 3,
         "global_rope_theta": 160_000.0, "hidden_activation": "gelu", "hidden_size": 384,
         "initializer_range": 0.02, "intermediate_size": 1152,
         "local_attention": 128, "local_rope_theta": 160_000.0, "mask_token_id": 4,
         "max_position_embeddings": 8192, "mlp_bias": False, "norm_bias": False, "norm_eps": 1e-5,
         "num_attention_heads": 6, "num_hidden_layers": 22, "pad_token_id": 0, "sep_token_id": 1,
         "vocab_size": 256_000},
        "bytes",
        140.5,
    ),
)  # fmt: skip

# What is scaled down in a toy. A window of 8 tokens, so that local attention leaves something out.
TOY = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
TOY_POSITIONS = {"bert": 32, "xlm-roberta": 34, "modernbert": 64}


def write_shape(folder, shape, full=False, seed=0):
    """The repository as a folder; returns it. Without `full`, two layers of width 32 over the toy words."""
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    folder.mkdir(parents=True)
    pieces = (write_full_tokenizer if full else write_toy_tokenizer)(folder, shape.tokenizer)
    settings = dict(shape.config)
    if full:
        assert pieces + shape.spare == settings["vocab_size"], (pieces, shape)
    else:
        settings |= {**TOY, "vocab_size": pieces + shape.spare, "local_attention": 8}
        settings["max_position_embeddings"] = TOY_POSITIONS[settings["model_type"]]
        if settings["model_type"] == "modernbert":
            settings["num_hidden_layers"] = 4  # so that two of them are global
        else:
            settings.pop("local_attention")
    masked = settings["architectures"][0].endswith("ForMaskedLM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(**settings)
        model = (AutoModelForMaskedLM if masked else AutoModel).from_config(config)
    model.save_pretrained(folder)
    # The published file, not what today's transformers would write: older names and all. The last key is ours.
    written = {**settings, "polyfold_random_weights": True} if full else settings
    (folder / "config.json").write_text(json.dumps(written, indent=2), encoding="utf8")
    return folder


def write_toy_tokenizer(folder, kind):
    """The files of one kind of tokenizer, over the toy words; returns how many ids there are."""
    settings = {"model_max_length": 512}
    match kind:
        case "unigram":
            write_sentencepiece(folder / "sentencepiece.bpe.model")
            write_xlm_r_json(folder / "tokenizer.json")
        case "sentencepiece":
            write_sentencepiece(folder / "sentencepiece.bpe.model")
            write_xlm_r_json(folder / "counted.json")
            pieces = _size(folder / "counted.json")
            (folder / "counted.json").unlink()
            return pieces
        case "cased":
            write_word_piece_json(folder / "tokenizer.json")
            _write_vocabulary(folder, word_pieces())
            settings["do_lower_case"] = False
        case "uncased":
            _write_vocabulary(folder, word_pieces())
            _write_json(folder / "tokenizer_config.json", {**settings, "do_lower_case": True})
            return len(word_pieces())
        case "bytes":
            # Words that no toy text has, so that there is something to trim.
            unused = [
                f"{first}{second}" for first in ("quo", "vix", "jam") for second in ("que", "zum", "fyr")
            ] * 9
            train_byte_pairs(folder / "tokenizer.json", [*toy_documents(200, 9).texts, *unused], 460)
    _write_json(folder / "tokenizer_config.json", settings)
    return _size(folder / "tokenizer.json")


def write_full_tokenizer(folder, kind):
    """The files of one kind of tokenizer in its published size; returns how many ids there are."""
    settings = {"model_max_length": 512}
    match kind:
        case "unigram" | "sentencepiece":
            content = gzip.decompress(XLM_R.read_bytes())
            write_xlm_r_model(folder / "sentencepiece.bpe.model", json.loads(content))
            if kind == "sentencepiece":
                return len(json.loads(content)["model"]["vocab"])
            (folder / "tokenizer.json").write_bytes(content)
        case "cased":
            content = gzip.decompress(MBERT.read_bytes())
            (folder / "tokenizer.json").write_bytes(content)
            vocabulary = json.loads(content)["model"]["vocab"]
            _write_vocabulary(folder, sorted(vocabulary, key=vocabulary.get))
            settings["do_lower_case"] = False
        case "uncased":
            pieces = train_word_pieces(corpus_texts()[::8], 30_522)
            _write_vocabulary(folder, pieces)
            _write_json(folder / "tokenizer_config.json", {**settings, "do_lower_case": True})
            return len(pieces)
        case "bytes":
            train_byte_pairs(folder / "tokenizer.json", corpus_texts(), 256_000)
    _write_json(folder / "tokenizer_config.json", settings)
    return _size(folder / "tokenizer.json")


def write_xlm_r_model(path, content):
    """XLM-R's JSON as the SentencePiece model beside it: <unk>, <s>, </s>, then the pieces in their order."""
    from sentencepiece import sentencepiece_model_pb2 as schema

    model, kinds = schema.ModelProto(), schema.ModelProto.SentencePiece.Type
    for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL")):
        model.pieces.add(piece=name, score=0.0, type=kinds.Value(kind))
    for piece, score in content["model"]["vocab"][4:-1]:
        model.pieces.add(piece=piece, score=score)
    model.trainer_spec.model_type = schema.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    model.normalizer_spec.name = "nmt_nfkc"
    model.normalizer_spec.precompiled_charsmap = base64.b64decode(content["normalizer"]["precompiled_charsmap"])
    path.write_bytes(model.SerializeToString())


def train_word_pieces(texts, size):
    """An uncased word-piece vocabulary in BERT's order."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    )
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def train_byte_pairs(path, texts, size):
    """Gemma's tokenizer, which mmBERT took over: BPE in which what has no piece falls to its bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    codes = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=[*special, *codes], show_progress=False)
    )
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    content["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    content["pre_tokenizer"] = {
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False,
    }  # fmt: skip
    ends = {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in (("<bos>", 2), ("<eos>", 1))}
    one = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
           {"SpecialToken": {"id": "<eos>", "type_id": 0}}]  # fmt: skip
    two = [*one, {"Sequence": {"id": "B", "type_id": 0}}, one[2]]
    content["post_processor"] = {
        "type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": ends,
    }  # fmt: skip
    _write_json(path, content)


def corpus_texts():
    """All texts of the corpus."""
    from pyarrow import parquet

    return parquet.read_table(CORPUS, columns=["text"])["text"].to_pylist()


def _size(path):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path)).get_vocab_size(with_added_tokens=True)


def _write_vocabulary(folder, pieces):
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf8")


def _write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf8")
