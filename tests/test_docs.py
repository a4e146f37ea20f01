"""The documentation is true to the code: keys, defaults, recipes, commands, links."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from polyfold import cli
from polyfold.cli.predict import parse_thresholds
from polyfold.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "RECIPES.md"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "demo" / "README.md"], key=lambda path: path.name
)
COMPLETE = "<!-- complete recipe -->\n"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# A row of a table of keys: cells between pipes, where `\|` is a pipe in a cell.
CELLS = re.compile(r"(?<!\\)\|")
SMALLEST = {
    "name": "smallest",
    "data": {"path": "feedback.csv", "tasks": [{"name": "intent"}]},
    "teacher": {"backbone": "use-multilingual"},
    "students": [{"name": "narrow", "init": {"kind": "convolutional"}}],
}


def names(documents: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in documents]


def fences(path: Path, kind: str) -> list[str]:
    return [content for found, content in FENCE.findall(path.read_text(encoding="utf8")) if found == kind]


def complete_recipes() -> list[tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        for part in path.read_text(encoding="utf8").split(COMPLETE)[1:]:
            match = FENCE.match(part)
            assert match is not None, f"{path.name}: no block follows the mark of a complete recipe"
            found.append((path.name, match[2]))
    return found


def lines(path: Path) -> list[str]:
    """The lines of all blocks without a language: commands and what they print."""
    return [line for content in fences(path, "") for line in content.splitlines()]


def spans(path: Path) -> list[str]:
    """The `code` inside the text."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", path.read_text(encoding="utf8")))


def load_text(text: str, folder: Path) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf8")
    return load_recipe(path)


# --- keys --------------------------------------------------------------------------------------------------


def specs() -> dict[str, type[BaseModel]]:
    """Every model a recipe is made of, by the name its schema has for it."""
    wanted = {"Recipe", *Recipe.model_json_schema()["$defs"]}
    classes, queue = {}, [BaseModel]
    while queue:
        for one in queue.pop().__subclasses__():
            queue.append(one)
            if one.__name__ in wanted and one.__module__.startswith("polyfold."):
                classes[one.__name__] = one
    assert set(classes) == wanted
    return classes


def key_tables() -> dict[str, dict[str, str]]:
    """The default each table of docs/RECIPES.md gives for each key, by the model the table is for."""
    tables: dict[str, dict[str, str]] = {}
    text = REFERENCE.read_text(encoding="utf8")
    for models, table in re.findall(r"<!-- keys: ([\w ]+) -->\n((?:\|.*\n)+)", text):
        rows = [[cell.strip() for cell in CELLS.split(line)[1:-1]] for line in table.splitlines()[2:]]
        assert all(len(row) == 4 for row in rows), models
        for model in models.split():
            assert model not in tables, f"two tables for {model}"
            tables[model] = {row[0].strip("`"): row[2] for row in rows}
    return tables


@pytest.fixture(scope="module")
def tables() -> dict[str, dict[str, str]]:
    return key_tables()


def is_block(value: Any) -> bool:
    """Whether a default is a block, or a list of them: documented by tables of their own."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict) for one in value))


def test_every_model_of_the_recipe_has_a_table_and_every_table_a_model(tables):
    assert set(tables) == set(specs())


@pytest.mark.parametrize("model", sorted(specs()))
def test_a_table_lists_exactly_the_keys_of_its_model(model, tables):
    assert set(tables[model]) == set(specs()[model].model_fields)


@pytest.mark.parametrize("model", sorted(specs()))
def test_a_table_gives_the_defaults_of_the_code(model, tables):
    for key, field in specs()[model].model_fields.items():
        cell = tables[model][key]
        # The tag that tells one block from another is needed wherever the block is one of several.
        if field.is_required() or (key == "kind" and cell == "required"):
            assert cell == "required", key
            continue
        default = to_jsonable_python(field.get_default(call_default_factory=True))
        if cell == "below":
            assert is_block(default), key
        else:
            assert cell.startswith("`") and cell.endswith("`"), key
            assert yaml.safe_load(cell.strip("`")) == default, key


# --- recipes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where,text", complete_recipes())
def test_a_recipe_that_is_shown_as_complete_is_one(where, text, tmp_path):
    recipe = load_text(text, tmp_path)
    assert recipe.students and recipe.export, where


def test_readme_and_reference_each_show_a_complete_recipe():
    assert {where for where, _ in complete_recipes()} == {"README.md", "RECIPES.md"}


def test_every_other_example_of_the_reference_fits_into_a_recipe(tmp_path):
    whole = {text for _, text in complete_recipes()}
    examples = [text for text in fences(REFERENCE, "yaml") if text not in whole]
    assert len(examples) >= 8
    for example in examples:
        # A block replaces the smallest recipe's block of that name; text goes together since YAML does.
        top = set(re.findall(r"^(\w+):", example, re.M))
        rest = yaml.safe_dump({key: value for key, value in SMALLEST.items() if key not in top})
        load_text(rest + example, tmp_path)


def test_every_recipe_of_the_repository_loads():
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert {path.stem for path in recipes} >= {"demo", "feedback", "paper", "smoke", "losses", "tinybert"}
    for path in recipes:
        assert load_recipe(path).name == path.stem


# --- commands ----------------------------------------------------------------------------------------------


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that `polyfold WORDS` calls, and the words that are left for it."""
    command: Any = typer.main.get_command(cli.app)
    while isinstance(command, typer.core.TyperGroup) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command '{words[0]}'"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def shown_commands() -> list[str]:
    calls = (re.search(r"(?:^|\| )polyfold ([^#]+)", line) for line in lines(ROOT / "README.md"))
    return sorted({call[1].strip() for call in calls if call is not None})


def test_the_readme_shows_every_command():
    shown = {find_command(shlex.split(line))[0].name for line in shown_commands()}
    # Every command but those that only look after keys.
    own = {
        "run",
        "check",
        "report",
        "clean",
        "predict",
        "compare",
        "ablate",
        "extend",
        "benchmark",
        "serve",
        "new",
    }
    assert shown == own


@pytest.mark.parametrize("line", shown_commands())
def test_a_command_shown_in_readme_parses(line):
    # Parsed by the command line's own parser, without running: a wrong option or number of arguments raises.
    command, words = find_command(shlex.split(line))
    parameters = command.make_context(command.name, words).params
    parse_thresholds(parameters.get("thresholds") or [])


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_commands_and_options_named_in_the_text_exist(path):
    for span in spans(path):
        if not span.startswith("polyfold "):
            continue
        command, words = find_command(shlex.split(span)[1:])
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, span


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_make_targets_named_in_code_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.M))
    assert targets >= {"demo", "test"}
    calls = (re.match(r"make ([a-z-]+)", code.strip()) for code in lines(path) + spans(path))
    assert {call[1] for call in calls if call is not None} <= targets


# --- links and paths ---------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_link_leads_somewhere(path):
    text = FENCE.sub("", path.read_text(encoding="utf8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file) if file else path
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_file_of_ours_named_in_code_exists(path):
    package = ROOT / "src" / "polyfold"
    folders = {one.name for one in (*ROOT.iterdir(), *package.iterdir()) if one.is_dir()} - {"runs"}
    for span in spans(path):
        # Placeholders (docs/results/NAME) and patterns name no one file.
        if (
            re.fullmatch(r"[\w./-]+", span)
            and span.split("/")[0] in folders
            and "/" in span
            and "NAME" not in span
        ):
            assert (ROOT / span).exists() or (package / span).exists(), span


def test_all_pages_were_looked_at():
    assert set(names(DOCUMENTS)) >= {
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
        *("docs/DESIGN.md", "docs/LAB.md", "docs/RECIPES.md", "demo/README.md"),
    }
