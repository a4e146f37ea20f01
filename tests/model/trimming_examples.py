"""Tiny tokenizers of every kind that can be trimmed, for the tests of trimming."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as schema

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


def train_sentencepiece(folder: Path, name: str, **options: object) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / name),
        vocab_size=450,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=2,
        **options,
    )


XLM_R_LAYOUT = {"pad_id": 1, "offset": 1, "begin_id": 0, "end_id": 2, "unk_id": 3, "extra": 1}
KINDS = (
    "unigram",
    "unigram with bytes",
    "wordpiece",
    "sentencepiece",
    "sentencepiece as in XLM-R",
    "sentencepiece with bytes",
    "sentencepiece with specials last",
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
    last = specials_last((folder / "plain.model").read_bytes())
    (folder / "last.model").write_bytes(last)
    names = [piece.piece for piece in schema.ModelProto.FromString(last).pieces]
    begin, end = names.index("<s>"), names.index("</s>")
    files = {
        "unigram.json": unigram_json(scored_pieces(folder / "plain.model"), ("[ORDER]",)),
        "bytes.json": unigram_json(scored_pieces(folder / "bytes.model"), byte_fallback=True),
        "wordpiece.json": wordpiece_json(),
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
    )
    return {kind: Example.open(folder, spec) for kind, spec in zip(KINDS, specs, strict=True)}
