"""`polyfold compare`: texts from a recipe or a file, and every file it writes."""

import csv
import json

import pytest

from polyfold.errors import InputError
from polyfold.measure.compare import Comparison
from polyfold.predictor import Predictor
from polyfold.study.compare import file_texts, recipe_texts
from toys import TOY_TASKS, toy_graph, write_toy_folder
from toys_pipeline import TASKS, toy_rows, write_toy_project


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two toy models in ONNX Runtime with the same tasks and other weights."""
    root = tmp_path_factory.mktemp("pair")
    other = write_toy_folder(root / "other", "onnxruntime", graph=toy_graph(TOY_TASKS, seed=1))
    return write_toy_folder(root / "first", "onnxruntime"), other


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.csv"
    rows = [("a1", "en", "w1 w2"), ("a2", "de", "w3 w4 w5"), ("a3", "de", "w9"), ("a4", "", "w7 w8")]
    with path.open("w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([("key", "lang", "comment"), *rows])
    return path


def test_a_file_gives_texts_with_languages_and_ids_where_it_has_them(texts, tmp_path):
    found = file_texts(texts, "comment", "lang", "key").documents
    assert found.texts == ["w1 w2", "w3 w4 w5", "w9", "w7 w8"]
    assert found.ids == ["a1", "a2", "a3", "a4"]
    assert found.languages == ["en", "de", "de", "und"]
    bare = file_texts(texts, "comment", None, None).documents
    assert (bare.ids, bare.languages) == (["1", "2", "3", "4"], ["und"] * 4)
    plain = tmp_path / "plain.txt"
    plain.write_text("w1\nw2 w3\n", encoding="utf8")
    assert file_texts(plain, "text", None, None).documents.texts == ["w1", "w2 w3"]
    for column, named in (("text", "text"), ("comment", "lung")):
        with pytest.raises(InputError, match=f"key '{named}': there is no such column"):
            file_texts(texts, column, named if column == "comment" else None, None)


def test_the_command_writes_what_it_is_asked_for_and_no_text_unless_told(pair, texts, tmp_path, polyfold):
    options = ["--text", "comment", "--language", "lang", "--id", "key"]
    outputs = ["--json", tmp_path / "one.json", "--out", tmp_path / "out", "--flips", tmp_path / "flips.csv"]
    code, out, _ = polyfold("compare", *pair, texts, *options, *outputs)
    assert code == 0
    assert "What changed" in out and "domain" in out and "topics" in out
    found = Comparison.model_validate_json((tmp_path / "one.json").read_bytes())
    assert (tmp_path / "out" / "comparison.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "comparison.json", "comparison.md", "comparison.html",
    }  # fmt: skip
    with (tmp_path / "flips.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = {key: Predictor.open(folder).predict(["w1 w2", "w3 w4 w5", "w9", "w7 w8"]) for key, folder in
               zip(("first", "second"), pair, strict=True)}  # fmt: skip
    expected = {
        (f"a{row + 1}", task.name)
        for row in range(4)
        for task in TOY_TASKS
        if answers["first"][row].labels[task.name] != answers["second"][row].labels[task.name]
    }
    assert expected and {(row["id"], row["task"]) for row in rows} == expected
    assert sum(one.flips.flipped for one in found.tasks) == len(rows)
    written = [path.read_text(encoding="utf8") for path in tmp_path.rglob("*") if path.is_file() and path != texts]
    assert not [content for content in written if "w3 w4 w5" in content]
    flips = tmp_path / "with.jsonl"
    assert polyfold("compare", *pair, texts, *options, "--flips", flips, "--include-text")[0] == 0
    lines = [json.loads(line) for line in flips.read_text(encoding="utf8").splitlines()]
    assert {line["text"] for line in lines} <= {"w1 w2", "w3 w4 w5", "w9", "w7 w8"}


def test_a_model_and_its_exports_are_compared_on_a_recipes_documents(torch_toys, tmp_path, polyfold):
    recipe = write_toy_project(tmp_path / "project")
    toys = torch_toys["transformer"]
    folders = toys["folders"]["fp32"]
    given = recipe_texts(recipe, [], "test")
    rows = [row for row in toy_rows() if row["split"] == "test"]
    assert given.documents.ids == [row["id"] for row in rows]
    assert [task.name for task in given.tasks] == [task.name for task in TASKS]
    for runtime in ("onnxruntime", "openvino"):
        file = tmp_path / f"{runtime}.json"
        code, _, _ = polyfold("compare", folders["torch"], folders[runtime], "--data", recipe, "--json", file)
        assert code == 0
        found = Comparison.model_validate_json(file.read_bytes())
        assert [one.flips.flipped for one in found.tasks] == [0, 0, 0]
        assert {
            gain.verdict for one in found.tasks for gain in (one.quality, *one.quality_by_language.values())
        } == {"same"}
    # Nothing is left beside the recipe.
    assert {path.name for path in (tmp_path / "project").iterdir()} == {"toy.yaml", "toy.csv", "toy-bert"}


def test_mistakes_end_with_one_message(pair, texts, tmp_path, polyfold):
    recipe = write_toy_project(tmp_path / "project")
    cases = [
        ([*pair], "give either a FILE of texts or --data RECIPE"),
        ([*pair, texts, "--data", recipe], "give either a FILE of texts or --data RECIPE"),
        ([*pair, texts], "there is no such column"),
        ([*pair, texts, "--text", "comment", "--flips", "flips.html"], "names no format"),
        ([pair[0], tmp_path / "nowhere", texts, "--text", "comment"], "no config.json here"),
        ([*pair, "--data", recipe, "--split", "all"], "--split"),
    ]
    for arguments, said in cases:
        code, out, err = polyfold("compare", *arguments)
        assert (code, out) == (2, ""), arguments
        assert said in err
        assert "Traceback" not in err


def test_texts_of_a_file_are_compared_without_torch(pair, texts):
    import subprocess
    import sys

    arguments = ["polyfold", "compare", *map(str, pair), str(texts), "--text", "comment"]
    script = (
        "import sys\n"
        "from polyfold import cli\n"
        f"sys.argv = {arguments!r}\n"
        "try:\n"
        "    cli.main()\n"
        "except SystemExit as left:\n"
        "    assert not left.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
