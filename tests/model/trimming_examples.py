"""Tiny tokenizers of every kind that can be trimmed, for the tests of trimming."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as schema
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from polyfold.model.pieces import Pieces
from polyfold.model.tokenizer_files import read_pieces
from polyfold.model.vocabulary import trim_tokenizer
from polyfold.text import Tokenizer, TokenizerSpec, open_tokenizer

SUBJECTS = {
    "en": ["the room", "our phone", "the course", "this hotel", "my order"],
    "fr": ["la chambre", "le téléphone", "ce cours", "cet hôtel", "ma commande"],
    "de": ["das zimmer", "unser telefon", "der kurs", "dieses hotel", "meine bestellung"],
    "ru": ["номер", "наш телефон", "этот курс", "гостиница", "мой заказ"],
    "ja": ["部屋は", "電話は", "授業は", "ホテルは", "注文は"],
}
VERDICTS = {
    "en": ["was clean and quiet", "arrived 3 days late", "is worth the price", "broke after a week"],
    "fr": ["était propre et calme", "est arrivé en retard", "vaut son prix", "est déjà cassé"],
    "de": ["war sauber und ruhig", "kam 3 tage zu spät", "ist den preis wert", "ging sofort kaputt"],
    "ru": ["был чистым и тихим", "пришёл поздно", "стоит своих денег", "сломался через неделю"],
    "ja": ["きれいで静かでした", "三日遅れました", "値段に見合います", "すぐ壊れました"],
}
SENTENCES = [
    f"{subject} {verdict}" for lang in SUBJECTS for subject in SUBJECTS[lang] for verdict in VERDICTS[lang]
]
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})


@dataclass(frozen=True)
class Example:
    """A tokenizer on disk, opened."""

    folder: Path
    spec: TokenizerSpec
    tokenizer: Tokenizer

    @staticmethod
    def open(folder: Path, spec: TokenizerSpec) -> "Example":
        return Example(folder, spec, open_tokenizer(folder, spec))

    @property
    def hides_pieces(self) -> bool:
        """A WordPiece unknown hides the pieces that led to its dead end."""
        return "wordpiece" in self.spec.file

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode([text], 10_000).ids[0].tolist()

    @property
    def pieces(self) -> Pieces:
        return read_pieces(self.folder, self.spec)

    def content(self) -> object:
        data = (self.folder / self.spec.file).read_bytes()
        return json.loads(data) if self.spec.kind == "tokenizers" else schema.ModelProto.FromString(data)

    def trimmed(self, keep: object, target: Path) -> tuple["Example", np.ndarray]:
        spec, rows = trim_tokenizer(self.folder, self.spec, np.asarray(keep, dtype=np.int64), target)
        return Example.open(target, spec), rows


def added_token(index: int, content: str) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **flags}


def template(begin: tuple[str, int], end: tuple[str, int]) -> dict:
    frame = [
        {"SpecialToken": {"id": begin[0], "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": end[0], "type_id": 0}},
    ]
    tokens = {name: {"id": name, "ids": [index], "tokens": [name]} for name, index in (begin, end)}
    return {"type": "TemplateProcessing", "single": frame, "pair": frame, "special_tokens": tokens}


def unigram_json(
    scored: list[tuple[str, float]], symbols: tuple[str, ...] = (), byte_fallback: bool = False
) -> dict:
    """XLM-R's layout: <s>, <pad>, </s>, <unk>, the pieces, <mask>."""
    vocab = [[name, 0.0] for name in ("<s>", "<pad>", "</s>", "<unk>")]
    vocab += [[piece, score] for piece, score in scored]
    vocab.append(["<mask>", 0.0])
    names = ("<s>", "<pad>", "</s>", "<unk>", *symbols, "<mask>")
    index = {piece: place for place, (piece, _) in enumerate(vocab)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(index[name], name) for name in names],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            ],
        },
        "post_processor": template(("<s>", 0), ("</s>", 2)),
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": byte_fallback},
    }


def wordpiece_json() -> dict:
    """Whole words, their first and last halves, and characters; specials in the middle, a token added behind."""
    halves = {word[: len(word) // 2] for word in WORDS} | {f"##{word[len(word) // 2 :]}" for word in WORDS}
    characters = {mark + character for word in WORDS for character in word for mark in ("", "##")}
    specials = ["[PAD]", "[UNK]", "[BEGIN]", "[END]", "[MASK]"]
    pieces = sorted(halves - {"", "##"})
    vocab = list(dict.fromkeys([*pieces, *specials, *WORDS, *sorted(characters)]))
    index = {piece: place for place, piece in enumerate(vocab)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": index["[PAD]"],
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [added_token(index["[MASK]"], "[MASK]"), added_token(len(vocab), "[ORDER]")],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": template(("[BEGIN]", index["[BEGIN]"]), ("[END]", index["[END]"])),
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "vocab": index,
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
    }


def sentencepiece_model(scored: list[tuple[str, float]]) -> bytes:
    model = schema.ModelProto()
    for name, kind in (("<unk>", "UNKNOWN"), ("<s>", "CONTROL"), ("</s>", "CONTROL")):
        model.pieces.add(piece=name, score=0.0, type=schema.ModelProto.SentencePiece.Type.Value(kind))
    for piece, score in scored:
        model.pieces.add(piece=piece, score=score)
    model.trainer_spec.model_type = schema.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(model.pieces)
    model.normalizer_spec.name = "identity"
    return model.SerializeToString()


def train_sentencepiece(folder: Path, name: str, **options: Any) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / name),
        vocab_size=options.pop("vocab_size", 450),
        hard_vocab_limit=options.get("model_type") == "bpe",
        normalization_rule_name=options.pop("rule", "identity"),
        minloglevel=2,
        **options,
    )


def train_bpe(style: str) -> str:
    """A BPE as `tokenizers` trains it: over words, over words with marks, or over bytes as RoBERTa has it."""
    backend = Backend(models.BPE(unk_token=None if style == "bytes" else "<unk>"))
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    marks: dict[str, Any] = {}
    if style == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        marks = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    elif style == "marks":
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        marks = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
    else:
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=names, show_progress=False, **marks)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.add_special_tokens([AddedToken("<mask>")])
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return backend.to_str()


def bpe_with_bytes(path: Path) -> dict:
    """A SentencePiece BPE as Llama and Gemma have it in JSON: every pair that makes a piece is a merge."""
    pieces = schema.ModelProto.FromString(path.read_bytes()).pieces
    vocab = {piece.piece: index for index, piece in enumerate(pieces)}
    merges = [
        [piece.piece[:cut], piece.piece[cut:]]
        for piece in sorted(pieces, key=lambda piece: -piece.score)
        if piece.type == piece.NORMAL
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in vocab and piece.piece[cut:] in vocab
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(index, name) for name, index in vocab.items() if index < 3],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": template(("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])),
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


XLM_R_LAYOUT = {"pad_id": 1, "offset": 1, "begin_id": 0, "end_id": 2, "unk_id": 3, "extra": 1}
KINDS = (
    "unigram",
    "unigram with bytes",
    "wordpiece",
    "sentencepiece",
    "sentencepiece as in XLM-R",
    "sentencepiece with bytes",
    "sentencepiece with specials last",
    "bpe",
    "bpe with marks",
    "bpe of bytes",
    "bpe with bytes",
    "sentencepiece bpe",
    "sentencepiece bpe as in XLM-R",
    "sentencepiece bpe with bytes",
)


def specials_last(data: bytes) -> bytes:
    """The same SentencePiece model with its meta pieces behind all others."""
    model = schema.ModelProto.FromString(data)
    kinds = model.pieces[0]
    pieces = sorted(model.pieces, key=lambda piece: piece.type != kinds.NORMAL)
    names = [piece.piece for piece in pieces]
    del model.pieces[:]
    model.pieces.extend(pieces)
    model.trainer_spec.unk_id = names.index("<unk>")
    model.trainer_spec.bos_id = names.index("<s>")
    model.trainer_spec.eos_id = names.index("</s>")
    return model.SerializeToString()


def scored_pieces(path: Path) -> list[tuple[str, float]]:
    """All pieces but <unk>, <s>, </s>."""
    pieces = schema.ModelProto.FromString(path.read_bytes()).pieces
    return [(piece.piece, piece.score) for piece in pieces if piece.piece not in ("<unk>", "<s>", "</s>")]


def make_examples(folder: Path) -> dict[str, Example]:
    """Every kind of tokenizer that can be trimmed, over the same sentences."""
    train_sentencepiece(folder, "plain", user_defined_symbols=["[ORDER]"])
    train_sentencepiece(folder, "bytes", byte_fallback=True)
    train_sentencepiece(folder, "joined", model_type="bpe", vocab_size=350, user_defined_symbols=["[ORDER]"])
    train_sentencepiece(folder, "joined-bytes", model_type="bpe", vocab_size=600, byte_fallback=True)
    last = specials_last((folder / "plain.model").read_bytes())
    (folder / "last.model").write_bytes(last)
    names = [piece.piece for piece in schema.ModelProto.FromString(last).pieces]
    begin, end = names.index("<s>"), names.index("</s>")
    files = {
        "unigram.json": unigram_json(scored_pieces(folder / "plain.model"), ("[ORDER]",)),
        "bytes.json": unigram_json(scored_pieces(folder / "bytes.model"), byte_fallback=True),
        "wordpiece.json": wordpiece_json(),
        "llama.json": bpe_with_bytes(folder / "joined-bytes.model"),
        **{f"bpe-{style}.json": json.loads(train_bpe(style)) for style in ("words", "marks", "bytes")},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf8")
    pad = wordpiece_json()["model"]["vocab"]["[PAD]"]
    specs = (
        TokenizerSpec(kind="tokenizers", file="unigram.json", pad_id=1),
        TokenizerSpec(kind="tokenizers", file="bytes.json", pad_id=1),
        TokenizerSpec(kind="tokenizers", file="wordpiece.json", pad_id=pad),
        TokenizerSpec(kind="sentencepiece", file="plain.model", pad_id=0, begin_id=1, end_id=2),
        TokenizerSpec(kind="sentencepiece", file="plain.model", **XLM_R_LAYOUT),
        TokenizerSpec(kind="sentencepiece", file="bytes.model", pad_id=0, begin_id=1, end_id=2),
        TokenizerSpec(kind="sentencepiece", file="last.model", pad_id=end, begin_id=begin, end_id=end),
        TokenizerSpec(kind="tokenizers", file="bpe-words.json", pad_id=1),
        TokenizerSpec(kind="tokenizers", file="bpe-marks.json", pad_id=1),
        TokenizerSpec(kind="tokenizers", file="bpe-bytes.json", pad_id=1),
        TokenizerSpec(kind="tokenizers", file="llama.json", pad_id=0),
        TokenizerSpec(kind="sentencepiece", file="joined.model", pad_id=0, begin_id=1, end_id=2),
        TokenizerSpec(kind="sentencepiece", file="joined.model", **XLM_R_LAYOUT),
        TokenizerSpec(kind="sentencepiece", file="joined-bytes.model", pad_id=0, begin_id=1, end_id=2),
    )
    return {kind: Example.open(folder, spec) for kind, spec in zip(KINDS, specs, strict=True)}
