"""A unigram tokenizers JSON in XLM-R's form, small, with a real character map."""

import base64
import io
import json

import sentencepiece

from polyfold.text import TokenizerSpec

SENTENCES = [
    "the room was clean and the staff were friendly",
    "la chambre était propre et le personnel aimable",
    "das zimmer war sauber und das personal freundlich",
    "部屋はとても清潔でした",
    "номер был чистым, персонал приветливым",
    "객실이 깨끗하고 직원들이 친절했어요 하하하",
    "phòng sạch sẽ và nhân viên thân thiện < > s / u n k m a",
    "कमरा साफ था और कर्मचारी मिलनसार थे 1 2 3 4 5 6 7 8 9 0",
]
SPECIALS = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>"}
# Powers of a word, whose order is a matter of rounding.
POWERS = ["...", "..", "haha", "ha", "!!", "!!!", "하하", "55", "555"]
SPEC = TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=1)


def added(index, content):
    """An added token as XLM-R's files have it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **flags}


def xlm_r_form():
    """The JSON: specials first, <mask> last, pieces of a model trained on the sentences, and the powers."""
    from sentencepiece import sentencepiece_model_pb2 as schema

    held = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=held,
        vocab_size=300,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    model = schema.ModelProto()
    model.ParseFromString(held.getvalue())
    learned = {piece.piece: piece.score for piece in model.pieces if piece.type == piece.NORMAL}
    learned |= {power: -5.0 - 0.7310585786 * place for place, power in enumerate(POWERS)}
    learned |= {one: -5.6 - 0.1192029220 * place for place, one in enumerate(".h!5")}
    vocabulary = [[name, 0.0] for name in SPECIALS.values()] + [list(entry) for entry in learned.items()]
    vocabulary.append(["<mask>", 0.0])
    names = {**SPECIALS, len(vocabulary) - 1: "<mask>"}
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template += [{"SpecialToken": {"id": "</s>", "type_id": 0}}]
    mark = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    ends = {name: {"id": name, "ids": [index], "tokens": [name]} for index, name in ((0, "<s>"), (2, "</s>"))}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(index, name) for index, name in names.items()],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, mark]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, *template],
            "special_tokens": ends,
        },
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False},
    }


def write_json(folder, content):
    """The folder that now holds it as its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC.file).write_text(json.dumps(content, ensure_ascii=False), encoding="utf8")
    return folder
