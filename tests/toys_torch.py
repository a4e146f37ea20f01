"""Builders of toys that need torch: tokenizers of 200 words, encoders of width 32, 40 labelled documents."""

import json
from dataclasses import dataclass

import numpy as np
import torch

from polyfold.artifact import Artifact, Stage
from polyfold.data.dataset import Dataset, Documents
from polyfold.model.backbone import Backbone, use_backbone
from polyfold.model.classifier import Model, new_classifier, save_model
from polyfold.model.use_multilingual import UseConfig, UseMultilingual
from polyfold.tasks import NOT_LABELLED, Task
from polyfold.text import TokenizerSpec

# A word of the row's meaning in each of three languages; the tasks below ask for these rows.
MEANINGS = {
    "billing": ("invoice", "rechnung", "請求"),
    "delivery": ("parcel", "paket", "荷物"),
    "staff": ("waiter", "kellner", "店員"),
    "good": ("great", "toll", "最高"),
    "bad": ("awful", "furchtbar", "最悪"),
    "price": ("cheap", "billig", "安い"),
    "speed": ("fast", "schnell", "速い"),
    "taste": ("tasty", "lecker", "美味"),
    "look": ("pretty", "schön", "綺麗"),
}
LANGUAGES = ("en", "de", "ja")
FILLERS = {
    "en": tuple(f"{a}{b}" for a in ("um", "so", "we", "al") for b in ("bo", "ka", "li", "no", "te", "ru")),
    "de": tuple(f"{a}{b}" for a in ("ei", "da", "zu", "ob") for b in ("nö", "wä", "xü", "cho", "sch", "pf")),
    "ja": tuple(f"{a}{b}" for a in "あいうえ" for b in "かきくけこさ"),
}
WORDS = tuple(sorted({*(w for row in MEANINGS.values() for w in row), *(w for f in FILLERS.values() for w in f)}))
CHARACTERS = tuple(sorted({character for word in WORDS for character in word}))

TASKS = (
    Task(name="domain", labels=("billing", "delivery", "staff")),
    Task(name="sentiment", labels=("good", "bad")),
    Task(name="topics", kind="multi_label", labels=("price", "speed", "taste", "look")),
)
MAX_LENGTH = 24


def toy_documents(count, seed, missing=0.25):
    """Documents whose words tell their labels, in three languages; a share of the labels is missing."""
    random = np.random.default_rng(seed)
    texts, languages = [], []
    labels = {
        "domain": random.integers(0, 3, count),
        "sentiment": random.integers(0, 2, count),
        "topics": (random.random((count, 4)) < 0.4).astype(np.int8),
    }
    for row in range(count):
        place = int(random.integers(0, len(LANGUAGES)))
        language = LANGUAGES[place]
        meant = [TASKS[0].labels[labels["domain"][row]], TASKS[1].labels[labels["sentiment"][row]]]
        meant += [label for label, on in zip(TASKS[2].labels, labels["topics"][row], strict=True) if on]
        words = [MEANINGS[meaning][place] for meaning in meant]
        words += list(random.choice(FILLERS[language], random.integers(0, 9)))
        random.shuffle(words)
        texts.append(" ".join(words))
        languages.append(language)
    for values in labels.values():
        values[random.random(count) < missing] = NOT_LABELLED
    names = [f"{seed}-{row}" for row in range(count)]
    return Documents(names, texts, languages, names, labels)


def toy_dataset(missing=0.25):
    """Forty documents to train on, half as many for dev and test, and some without any label."""
    return Dataset(
        tasks=TASKS,
        train=toy_documents(40, 1, missing),
        dev=toy_documents(24, 2, missing),
        test=toy_documents(24, 3, missing),
        unlabelled=toy_documents(12, 4, missing=1.1),
        fingerprint="f" * 64,
        max_length=MAX_LENGTH,
    )


def write_sentencepiece(path, words=WORDS):
    """A unigram model in XLM-R's piece order (<unk>, <s>, </s>, then pieces): words, then their characters."""
    from sentencepiece import sentencepiece_model_pb2 as schema

    model = schema.ModelProto()
    for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL")):
        model.pieces.add(piece=name, score=0.0, type=schema.ModelProto.SentencePiece.Type.Value(kind))
    for place, word in enumerate(words):
        model.pieces.add(piece=f"▁{word}", score=-3.0 - 0.01 * place)
    for place, character in enumerate(("▁", *CHARACTERS)):
        model.pieces.add(piece=character, score=-9.0 - 0.01 * place)
    model.trainer_spec.model_type = schema.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    model.normalizer_spec.name = "identity"
    # `from_pretrained` of transformers reads the normalizer's table, so there must be one, if empty.
    path.write_bytes(model.SerializeToString())


def write_xlm_r_json(path, words=WORDS):
    """The `tokenizer.json` that XLM-R's repository holds beside its SentencePiece model."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"▁{word}", -3.0 - 0.01 * place) for place, word in enumerate(words)]
    vocabulary += [(character, -9.0 - 0.01 * place) for place, character in enumerate(("▁", *CHARACTERS))]
    vocabulary.append(("<mask>", 0.0))
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([AddedToken(name) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")])
    tokenizer.save(str(path))


def word_pieces():
    """mBERT's layout: [PAD] first, whole words, then characters with and without the continuation mark."""
    characters = [mark + character for mark in ("", "##") for character in CHARACTERS]
    return list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *characters]))


def write_word_piece_json(path):
    """The `tokenizer.json` of a cased BERT."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {piece: place for place, piece in enumerate(word_pieces())}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    # As BERT has it: Chinese characters stand alone, so the Japanese words are spelled character by character.
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens([AddedToken(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")])
    tokenizer.save(str(path))


HUB_FOLDERS = ("xlm-roberta", "bert", "mminilm-v1", "mminilm-v2", "xtremedistil")


def write_hub_folder(folder, kind, seed=0, dtype=torch.float32, pad_in_config=True):
    """A two-layer encoder of width 32 laid out as its repository on the hub is; returns the folder.

    XLM-R and mMiniLMv2: `xlm-roberta` with a tokenizer.json. mBERT: `bert` with a tokenizer.json. XtremeDistil:
    `bert` with a vocab.txt alone. Multilingual-MiniLM (v1): `bert` over XLM-R's SentencePiece model, no JSON. Two
    more are published in one language only: `roberta`, laid out as XLM-R is, and `distilbert`, as mBERT.
    """
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel
    from transformers import XLMRobertaConfig as XlmConfig
    from transformers import XLMRobertaModel as XlmModel

    folder.mkdir(parents=True)
    shape = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    unigram = kind in ("xlm-roberta", "mminilm-v1", "mminilm-v2", "roberta")
    vocabulary = 4 + len(WORDS) + 1 + len(CHARACTERS) + 1 if unigram else len(word_pieces())
    torch.manual_seed(seed)
    if kind in ("xlm-roberta", "mminilm-v2", "roberta"):
        described, encoder = (RobertaConfig, RobertaModel) if kind == "roberta" else (XlmConfig, XlmModel)
        config = described(
            vocab_size=vocabulary, max_position_embeddings=34, type_vocab_size=1, bos_token_id=0, pad_token_id=1,
            eos_token_id=2, **shape,
        )  # fmt: skip
        model = encoder(config, add_pooling_layer=False)
    elif kind == "distilbert":
        config = DistilBertConfig(
            vocab_size=vocabulary, max_position_embeddings=32, dim=32, n_layers=2, n_heads=4, hidden_dim=48
        )
        model = DistilBertModel(config)
    else:
        config = BertConfig(vocab_size=vocabulary, max_position_embeddings=32, **shape)
        model = BertModel(config, add_pooling_layer=False)
    model.to(dtype).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_bytes())
    if kind == "mminilm-v1":
        settings["tokenizer_class"] = "XLMRobertaTokenizer"
    if not pad_in_config:
        settings.pop("pad_token_id", None)
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf8")
    if unigram:
        write_sentencepiece(folder / "sentencepiece.bpe.model")
    if kind in ("xlm-roberta", "mminilm-v2", "roberta"):
        write_xlm_r_json(folder / "tokenizer.json")
    if kind in ("bert", "distilbert"):
        write_word_piece_json(folder / "tokenizer.json")
    if kind in ("bert", "xtremedistil", "distilbert"):
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in word_pieces()), encoding="utf8")
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}), encoding="utf8")
    return folder


def toy_use_backbone(folder, seed=0):
    """A narrow embedded encoder with random weights; its SentencePiece model goes to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sentencepiece(folder / "sentencepiece.model")
    spec = TokenizerSpec(kind="sentencepiece", file="sentencepiece.model", pad_id=0, begin_id=1, end_id=2)
    torch.manual_seed(seed)
    config = UseConfig(
        vocab_size=3 + len(WORDS) + 1 + len(CHARACTERS), embedding_width=16, branch_width=8, sentence_width=32,
        dense_width=24,
    )  # fmt: skip
    return use_backbone(UseMultilingual(config).eval(), spec)


def toy_model(folder, seed=0, tasks=TASKS, dropout=None) -> Model:
    """An untrained classifier over the narrow embedded encoder, its tokenizer in `folder`."""
    model = new_classifier(toy_use_backbone(folder, seed), tasks, MAX_LENGTH, seed)
    if dropout is not None:
        model.classifier.dropout.p = dropout
    model.classifier.eval()
    return model


def save_artifact(model: Model, source, root, name="teacher", languages=None) -> Artifact:
    """A finished stage's folder that holds this model; `source` holds its tokenizer.

    `languages` are those that it answers for, as a teacher.
    """

    def build(folder):
        save_model(model, folder, source)
        return {}

    return Stage("teacher", name, 1, {"toy": name, "languages": languages}).run(root, build)


@dataclass(frozen=True)
class Loaded:
    """A backbone and the folder with its tokenizer file."""

    backbone: Backbone
    folder: object
