"""Trimming on chosen languages and on a corpus, and what of it is refused before anything is cut."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from polyfold.compress.bench import Bench
from polyfold.compress.step import step_files
from polyfold.compress.trim_vocabulary import trim_vocabulary
from polyfold.errors import InputError
from polyfold.model.backbone import load_backbone, token_embedding
from polyfold.model.classifier import load_model, new_classifier, save_model
from polyfold.model.corpus import CorpusSpec
from polyfold.model.tokenizer_files import read_pieces
from polyfold.model.trimming import TrimVocabulary, trim
from polyfold.pipeline import plan, run
from polyfold.recipe import load_recipe
from polyfold.text import open_tokenizer
from toys_pipeline import toy_recipe, write_toy_data, write_toy_project
from toys_torch import MAX_LENGTH, TASKS, toy_dataset, toy_model, write_hub_folder

DATA = toy_dataset()


@pytest.fixture
def bench(tmp_path):
    """A fresh model's folder to cut from and one to cut to; the model is saved as `loaded` reads it."""
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    save_model(toy_model(source), source, source)
    return Bench(DATA, source, target, 0, "step", None, tmp_path)


def pieces_after(bench, **keys):
    """The pieces that a trim leaves, as texts."""
    spec = TrimVocabulary(**{"coverage": 1.0, "keep_characters": False, "unlabelled": False, **keys})
    model, told = trim_vocabulary(spec, load_model(bench.source), bench)
    left = [text for text in read_pieces(bench.folder, model.backbone.tokenizer).texts if text]
    assert told["pieces_after"] == len(left) == token_embedding(model.classifier.encoder).num_embeddings
    return set(left)


def anchors_of(bench):
    """The pieces that stay whatever they are: the segmentation hangs on their scores."""
    pieces = read_pieces(bench.source, load_model(bench.source).backbone.tokenizer)
    return {str(pieces.texts[index]) for index in np.flatnonzero(pieces.anchors)}


def words_of(language):
    return {
        f"▁{word}"
        for name, text in zip(DATA.train.languages, DATA.train.texts, strict=True)
        if name == language
        for word in text.split()
    }


def test_only_the_chosen_languages_are_counted(bench):
    german = pieces_after(bench, languages=["de"])
    assert words_of("de") <= german
    assert words_of("en") & german <= anchors_of(bench)
    both = pieces_after(bench, languages=["de", "en"])
    assert words_of("de") | words_of("en") <= both
    assert words_of("ja") & both <= anchors_of(bench)


def test_the_characters_of_the_chosen_languages_scripts_stay(bench):
    left = pieces_after(bench, languages=["de"], keep_characters=True)
    every = {text for text in read_pieces(bench.source, load_model(bench.source).backbone.tokenizer).texts if text}
    single = {text for text in every if len(text) == 1 and text != "▁"}
    assert {text for text in single if text.isascii() or text in "äöü"} <= left
    assert {text for text in single if text >= "\u3000"} & left <= anchors_of(bench)
    both = pieces_after(bench, languages=["de", "ja"], keep_characters=True)
    assert single <= both


def test_all_pieces_of_the_scripts_stay_if_asked_for(bench):
    every = {text for text in read_pieces(bench.source, load_model(bench.source).backbone.tokenizer).texts if text}
    left = pieces_after(bench, languages=["de"], keep_scripts=True)
    assert left - anchors_of(bench) == {
        text for text in every if all(letter < "\u3000" for letter in text)
    } - anchors_of(bench)
    # Nothing changes for a text in these scripts, counted or not.
    full = open_tokenizer(bench.source, load_model(bench.source).backbone.tokenizer)
    model, _ = trim_vocabulary(
        TrimVocabulary(languages=["de"], keep_scripts=True), load_model(bench.source), bench
    )
    cut = open_tokenizer(bench.folder, model.backbone.tokenizer)
    texts = [t for name, t in zip(DATA.dev.languages, DATA.dev.texts, strict=True) if name != "ja"]
    assert [len(ids) for ids in cut.encode(texts, 100).ids] == [len(ids) for ids in full.encode(texts, 100).ids]


def test_with_a_share_of_each_language_a_small_one_is_not_starved(bench):
    train = DATA.train
    japanese = [i for i, language in enumerate(train.languages) if language == "ja"][:1]
    others = [i for i, language in enumerate(train.languages) if language == "en"]
    starved = train.take(np.asarray(others * 20 + japanese))
    small = replace(bench, data=replace(DATA, train=starved))
    rare = {f"▁{word}" for word in train.texts[japanese[0]].split()}
    together = pieces_after(small, coverage=0.9)
    apart = pieces_after(small, coverage=0.9, per_language=True)
    assert len(rare & apart) > len(rare & together)
    # And with a size: what is left of each language is the same share of its tokens.
    sized = pieces_after(small, size=30, per_language=True)
    assert len(sized) <= 30
    assert rare & sized


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_corpus_is_counted_beside_the_runs_own_texts(bench, tmp_path, suffix):
    unseen = sorted(set().union(*(words_of(language) for language in ("en", "de", "ja"))))
    own = DATA.train.take(np.asarray([0]))
    small = replace(bench, data=replace(DATA, train=own))
    text = " ".join(word.removeprefix("▁") for word in unseen)
    line = text if suffix == "txt" else json.dumps({"text": text, "lang": "de"})
    (tmp_path / f"corpus.{suffix}").write_text(f"{line}\n", encoding="utf8")
    without = pieces_after(small)
    with_corpus = pieces_after(small, corpus=f"corpus.{suffix}")
    assert without < with_corpus
    assert set(unseen) <= with_corpus
    if suffix == "jsonl":
        spec = CorpusSpec(path="corpus.jsonl", language="lang")
        assert set(unseen) <= pieces_after(small, corpus=spec, languages=["de"])


# --- what is refused ---------------------------------------------------------------------------------------


def test_a_language_without_texts_is_named_with_those_that_have_some(bench):
    with pytest.raises(InputError, match=r"'fr'(.|\n)*de, en, ja"):
        pieces_after(bench, languages=["de", "fr"])


def test_a_language_without_texts_is_found_before_anything_is_trained(tmp_path):
    write_toy_project(tmp_path)
    recipe = toy_recipe()
    recipe["compress"] = [{"kind": "trim_vocabulary", "languages": ["fr"]}]
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf8")
    with pytest.raises(InputError, match=r"'fr'(.|\n)*de, en"):
        run(load_recipe(tmp_path / "recipe.yaml"), tmp_path, tmp_path / "runs")
    assert [path.name.partition("-")[0] for path in (tmp_path / "runs").iterdir()] == ["data"]


def test_a_size_below_what_must_stay_is_refused_with_the_least_that_would_do(bench):
    with pytest.raises(InputError, match=r"10 pieces are fewer than(.|\n)*give at least"):
        pieces_after(bench, size=10, keep_characters=True)


def test_a_corpus_of_unknown_languages_does_not_go_with_a_choice_of_languages():
    for choice in ({"languages": ["de"]}, {"per_language": True}):
        with pytest.raises(ValidationError, match="name its column, `language`"):
            TrimVocabulary(corpus="some.csv", **choice)
    assert TrimVocabulary(corpus="some.csv").corpus == CorpusSpec(path="some.csv")
    with pytest.raises(ValidationError):
        TrimVocabulary(languages=[])


def test_a_missing_corpus_is_found_before_anything_runs_and_a_changed_one_is_another_stage(tmp_path):
    write_toy_data(tmp_path / "toy.csv")
    recipe = toy_recipe()
    recipe["compress"] = [{"kind": "trim_vocabulary", "corpus": "more.txt"}]
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf8")
    loaded = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match="no such corpus"):
        plan(loaded, tmp_path)
    keys = []
    for text in ("one", "another"):
        (tmp_path / "more.txt").write_text(text, encoding="utf8")
        assert set(step_files(loaded.compress[0], tmp_path)) == {"more.txt"}
        keys.append([stage.key for line in plan(loaded, tmp_path).lines for _, stage in line.steps])
    assert keys[0] and all(one != other for one, other in zip(*keys, strict=True))


@pytest.mark.parametrize("name", ["mask_token_id", "cls_token_id", "pad_token_id"])
def test_a_configuration_that_needs_a_token_the_vocabulary_lacks_is_refused(tmp_path, name):
    folder = write_hub_folder(tmp_path / "xlm-r", "xlm-roberta")
    backbone = load_backbone("xlm-r", tmp_path, tmp_path)
    tokenizer = backbone.tokenizer
    if name == "pad_token_id":
        tokenizer = tokenizer.model_copy(update={"pad_id": 9_999})
    config = {**backbone.config, name: 9_999}
    broken = replace(backbone, config=config, tokenizer=tokenizer)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="9999"):
        trim(TrimVocabulary(), broken, folder, tmp_path / "out", [("en", "a")], [])


def test_a_configurations_special_tokens_stay_and_get_their_new_ids(tmp_path):
    folder = write_hub_folder(tmp_path / "xlm-r", "xlm-roberta")
    backbone = load_backbone("xlm-r", tmp_path, tmp_path)
    pieces = read_pieces(folder, backbone.tokenizer)
    last, word = len(pieces) - 1, len(pieces) - 5
    ids = {"bos_token_id": 0, "eos_token_id": 2, "mask_token_id": last, "cls_token_id": word}
    named = replace(backbone, config={**backbone.config, **ids})
    (tmp_path / "out").mkdir()
    trimmed = trim(TrimVocabulary(), named, folder, tmp_path / "out", [("en", "waiter")], []).backbone
    after = read_pieces(tmp_path / "out", trimmed.tokenizer)
    assert len(after) < len(pieces)
    for name, old in ids.items():
        assert after.texts[trimmed.config[name]] == pieces.texts[old], name
        assert getattr(trimmed.module.encoder.config, name) == trimmed.config[name]
    model = new_classifier(trimmed, TASKS, MAX_LENGTH, 0)
    save_model(model, tmp_path / "saved", tmp_path / "out")
    assert load_model(tmp_path / "saved").backbone.config["mask_token_id"] == len(after) - 1


def test_a_tokenizer_with_more_pieces_than_the_table_has_rows_is_refused(tmp_path):
    folder = write_hub_folder(tmp_path / "xlm-r", "xlm-roberta")
    backbone = load_backbone("xlm-r", tmp_path, tmp_path)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"]["vocab"] += [[f"more{i}", -20.0] for i in range(30)]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf8")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"pieces, the model's embedding table"):
        trim(TrimVocabulary(), backbone, folder, tmp_path / "out", [("en", "a")], [])


def test_a_vocabulary_that_could_not_spell_a_dropped_character_is_refused(tmp_path):
    folder = write_hub_folder(tmp_path / "xlm-r", "xlm-roberta")
    backbone = load_backbone("xlm-r", tmp_path, tmp_path)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"]["unk_id"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf8")
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="no unknown token"):
        trim(TrimVocabulary(), backbone, folder, tmp_path / "out", [("en", "waiter")], [])
