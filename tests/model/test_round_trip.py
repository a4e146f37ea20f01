"""A trimmed tokenizer's new ids come out alike from `tokenizers`, from transformers and from our own path."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from trimming_examples import SENTENCES, Example, make_examples

from polyfold.model.tokenizer_convert import to_tokenizers_json
from polyfold.model.vocabulary import choose_pieces, count_pieces
from polyfold.text import TokenizerSpec

KINDS = (
    "unigram",
    "unigram with bytes",
    "wordpiece",
    "bpe",
    "bpe with marks",
    "bpe of bytes",
    "bpe with bytes",
    "sentencepiece",
    "sentencepiece as in XLM-R",
    "sentencepiece bpe",
    "sentencepiece bpe with bytes",
)
TEXTS = [*SENTENCES, "", "unseen wörds and 未知 ☃☃ characters", "a", "été  42!"]


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    """Every kind, trimmed to what a part of the sentences uses, as a folder that transformers reads."""
    made = make_examples(tmp_path_factory.mktemp("full"))
    found = {}
    for kind in KINDS:
        full = made[kind]
        counts = count_pieces(full.tokenizer, SENTENCES[::2])
        keep = choose_pieces(full.pieces, counts, 0.9)
        found[kind], rows = full.trimmed(keep, tmp_path_factory.mktemp("trimmed"))
        assert len(rows) < full.tokenizer.vocabulary_size
    return found


def stock_folder(example: Example) -> dict:
    """Write `tokenizer.json` and `tokenizer_config.json` beside the tokenizer; what the former holds."""
    path = example.folder / example.spec.file
    converted = example.spec.kind == "sentencepiece"
    text = to_tokenizers_json(example.folder, example.spec) if converted else path.read_text(encoding="utf8")
    (example.folder / "tokenizer.json").write_text(text, encoding="utf8")
    content = json.loads(text)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1000}
    (example.folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf8")
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_new_ids_are_alike_on_all_paths(trimmed, kind):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    example = trimmed[kind]
    stock_folder(example)
    backend = Backend.from_file(str(example.folder / "tokenizer.json"))
    stock = PreTrainedTokenizerFast(tokenizer_file=str(example.folder / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(example.folder)
    assert len(auto) == example.tokenizer.vocabulary_size
    ours = [ids.tolist() for ids in example.tokenizer.encode(TEXTS, 1000).ids]
    assert [backend.encode(text).ids for text in TEXTS] == ours
    assert [stock(text)["input_ids"] for text in TEXTS] == ours
    assert [auto(text)["input_ids"] for text in TEXTS] == ours
    assert max(max(ids) for ids in ours) < example.tokenizer.vocabulary_size


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_their_ids_are_each_others_inverse_on_all_paths(trimmed, kind):
    from transformers import AutoTokenizer

    example = trimmed[kind]
    stock_folder(example)
    backend = Backend.from_file(str(example.folder / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(example.folder)
    ids = np.unique(np.concatenate(example.tokenizer.encode(TEXTS, 1000).ids)).tolist()
    assert auto.convert_ids_to_tokens(ids) == [backend.id_to_token(index) for index in ids]
    assert auto.convert_tokens_to_ids(auto.convert_ids_to_tokens(ids)) == ids
    own = example.pieces.texts
    special = {token["id"] for token in json.loads(backend.to_str())["added_tokens"]}
    assert [own[index] for index in ids if index not in special] == [
        backend.id_to_token(index) for index in ids if index not in special
    ]


@pytest.mark.parametrize("kind", ["sentencepiece", "sentencepiece bpe"])
def test_decoding_gives_the_text_back(trimmed, kind):
    from transformers import AutoTokenizer

    example = trimmed[kind]
    stock_folder(example)
    auto = AutoTokenizer.from_pretrained(example.folder)
    for text in SENTENCES[::2]:
        ids = auto(text)["input_ids"]
        if example.tokenizer.unknown_id not in ids:
            assert auto.decode(ids, skip_special_tokens=True) == text


def test_the_spec_of_a_json_made_of_a_model_opens_it(trimmed):
    example = trimmed["sentencepiece as in XLM-R"]
    stock_folder(example)
    spec = TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=example.spec.pad_id)
    again = Example.open(example.folder, spec)
    assert [again.ids(text) for text in TEXTS] == [example.ids(text) for text in TEXTS]
    assert again.pieces.texts[example.spec.pad_id] == "<pad>"
