"""A vocabulary is trimmed on train texts, unlabelled ones and a corpus; dev texts only tell what that did."""

from polyfold.model.trimming import TrimVocabulary
from polyfold.train.counted import counted_texts, dev_texts
from toys_torch import toy_dataset

DATA = toy_dataset()


def test_the_counted_texts_are_train_unlabelled_and_corpus_and_nothing_of_dev_or_test(tmp_path):
    (tmp_path / "more.txt").write_text("more\n", encoding="utf8")
    found = list(counted_texts(TrimVocabulary(corpus="more.txt"), DATA, tmp_path))
    assert [text for _, text in found] == [*DATA.train.texts, *DATA.unlabelled.texts, "more"]
    assert [language for language, _ in found[:-1]] == [*DATA.train.languages, *DATA.unlabelled.languages]
    assert list(counted_texts(TrimVocabulary(unlabelled=False), DATA, tmp_path)) == found[: len(DATA.train)]


def test_dev_texts_come_with_their_languages():
    assert list(dev_texts(DATA)) == list(zip(DATA.dev.languages, DATA.dev.texts, strict=True))
