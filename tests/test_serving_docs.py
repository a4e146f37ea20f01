"""docs/SERVING.md is true to the code: options, codes, and every example, asked of a real server."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_args

import httpx
import pytest
import typer

from polyfold import cli
from polyfold.artifact import Stage
from polyfold.serve.refusals import Code
from polyfold.tasks import Task
from toys import write_toy_folder

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "SERVING.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
ADDRESS = "http://127.0.0.1:8080"

sys.path.insert(0, str(ROOT / "tests" / "serve"))

from server_process import running  # noqa: E402

TASKS = (
    Task(name="domain", labels=("hotel", "restaurant")),
    Task(name="sentiment", labels=("mixed", "negative", "neutral", "positive")),
    Task(
        name="topics", kind="multi_label", labels=("place_environment", "price_value", "quality", "staff_service")
    ),
)


@dataclass(frozen=True)
class Example:
    """A request that the page shows, and the answer that it shows for it, if any."""

    method: str
    url: str
    headers: dict[str, str]
    body: str | None
    answer: object


def fences() -> list[tuple[str, str]]:
    return FENCE.findall(PAGE.read_text(encoding="utf8"))


def examples() -> list[Example]:
    """Every curl of the page, in order; a block of JSON right after a single one is its answer."""
    found, blocks = [], [*fences(), ("", "")]
    for (kind, content), (next_kind, next_content) in pairwise(blocks):
        if kind == "" and content.startswith("curl "):
            calls = [call for call in re.split(r"^(?=curl )", content, flags=re.M) if call]
            answer = json.loads(next_content) if next_kind == "json" and len(calls) == 1 else None
            found += [example(call, answer) for call in calls]
    return found


def example(call: str, answer: object) -> Example:
    words = iter(shlex.split(call.replace("\\\n", " "))[1:])
    method, url, headers, body = "", "", {}, None
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H":
                name, _, content = next(words).partition(": ")
                headers[name] = content
            case "-d":
                body = next(words)
            case _:
                assert word.startswith(ADDRESS) and not url, call
                url = word.removeprefix(ADDRESS)
    return Example(method or ("GET" if body is None else "POST"), url, headers, body, answer)


def table(mark: str) -> list[list[str]]:
    """The cells of the first table after `mark`, without its head."""
    rows = (
        PAGE.read_text(encoding="utf8")
        .partition(mark)[2]
        .partition("\n|")[2]
        .partition("\n\n")[0]
        .splitlines()[2:]
    )
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server as the page starts it, over toys of the page's tasks; its address, and keys by name."""
    root = tmp_path_factory.mktemp("serving")
    for version in ("1", "2"):
        folder = write_toy_folder(root / "models" / "feedback" / version, "onnxruntime", TASKS)
        Stage("export", "toy", 1, {}).finish(folder, {})
    file = root / "keys.yaml"
    keys = {"$KEY": key_of(file, "shop", "predict"), "$ADMIN": key_of(file, "operator", "predict", "admin")}
    with running(
        [f"feedback@1={root}/models/feedback/1"], "--repository", root / "models", "--keys", file
    ) as server:
        yield server.url, keys


def key_of(file: Path, name: str, *roles: str) -> str:
    words = ["polyfold", "key", "new", f"{file}", name, *(word for role in roles for word in ("--role", role))]
    words[0] = f"{Path(sys.executable).with_name('polyfold')}"
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def is_like(shown: object, found: object) -> bool:
    """Whether what was answered has every key that is shown, and everywhere the same kinds of values."""
    match shown, found:
        case dict(), dict():
            return all(key in found and is_like(value, found[key]) for key, value in shown.items())
        case list(), list() if shown and isinstance(shown[0], dict):
            return len(shown) == len(found) and all(map(is_like, shown, found))
        case list(), list():
            return {type(one) for one in found} <= {type(one) for one in shown}
        case _:
            return type(shown) is type(found)


def test_every_request_shown_is_answered_as_shown(served):
    url, keys = served
    asked = examples()
    assert len(asked) >= 11 and sum(one.answer is not None for one in asked) == 4
    with httpx.Client(base_url=url) as client:
        for one in asked:
            headers = {
                name: re.sub(r"\$\w+", lambda found: keys[found[0]], value) for name, value in one.headers.items()
            }
            answer = client.request(one.method, one.url, headers=headers, content=one.body and one.body.encode())
            refused = isinstance(one.answer, dict) and "error" in one.answer
            assert (answer.status_code >= 400) == refused, (one, answer.text)
            assert one.answer is None or is_like(one.answer, answer.json()), (one, answer.text)
            if refused:
                assert answer.json()["error"]["code"] == one.answer["error"]["code"]


@pytest.mark.parametrize("place", [0, 1])
def test_the_python_shown_does_what_it_says(served, place):
    url, keys = served
    code = [content for kind, content in fences() if kind == "python"]
    assert len(code) == 2
    names = {"URL": url, "KEY": keys["$KEY"]}
    exec(compile(code[place], f"{PAGE}, block {place}", "exec"), names)
    if place == 0:
        # Two texts of four labels each, whose probabilities make one.
        assert sum(names["probabilities"]) == pytest.approx(2.0, abs=1e-5)
    else:
        (found,) = names["old_answers"]("sentiment-de", ["Zu teuer."])
        assert found["label"] in TASKS[1].labels
        assert found["scores"][found["label"]] == max(found["scores"].values())


def test_the_table_of_options_is_that_of_the_command_line():
    command = typer.main.get_command(cli.app).commands["serve"]
    options = {one.opts[0]: default_of(one) for one in command.params if one.opts[0].startswith("--")}
    assert len(options) > 20
    assert sum(default != "none" for default in options.values()) > 12
    assert options == {row[0].strip("`"): row[1].strip("`") for row in table("<!-- options -->")}


def default_of(option):
    """As the page writes it: what the parser fills in, or the number of the service's own that the help names."""
    own = re.search(r"\[default: ([\d.]+)\]", option.help or "")
    if own is not None:
        return own[1]
    return "none" if option.default is None else str(option.default).lower()


def test_the_table_of_errors_has_every_code_with_the_status_it_is_sent_with():
    shown: dict[str, set[str]] = {}
    for codes, status, _ in table("### Errors\n"):
        for code in re.findall(r"`(\w+)`", codes):
            shown[code] = set(re.findall(r"\d{3}", status))
    assert set(shown) == set(get_args(Code))
    sent = re.compile(r"Refusal\(\s*(\d{3}),\s*\"(\w+)\"")
    found = [
        pair for path in (ROOT / "src/polyfold/serve").rglob("*.py") for pair in sent.findall(path.read_text())
    ]
    assert len(found) > 25
    # Of several models without a name the page says so beside the row.
    assert [pair for pair in found if pair[0] not in shown[pair[1]] and pair != ("422", "unknown_model")] == []


def test_every_command_shown_parses():
    lines = [line for kind, content in fences() if kind == "" for line in content.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("polyfold ")]
    assert {words[0] for words in commands} == {"serve", "key", "predict"}
    for given in commands:
        command, words = typer.main.get_command(cli.app), given
        while isinstance(command, typer.core.TyperGroup):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(command.name, list(words))
