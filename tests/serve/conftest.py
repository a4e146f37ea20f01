"""A browser before a real server, for the tests of the page: one of each a test file."""

import json

import pytest
from browser_page import ARGUMENTS, CHROMIUM, LIGHT, MARKUP, PATIENCE_MS, Watched
from server_process import running

from polyfold.tasks import Task
from toys import TOY_TASKS, write_toy_folder

COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink", "brown", "lime", "teal", "navy", MARKUP)


WIDE_TASKS = (Task(name="colour", labels=COLOURS),)


CARD = f"""---
license: apache-2.0
---
# The *toy*

| task | labels |
|---|---:|
| domain | 3 |

- `code` and **strong**
- [a link](javascript:alert(2)) {MARKUP}
"""


PROFILE = {
    "documents": 100_000,
    "languages": {},
    "token_bounds": [4, 8],
    "tokens": [90_000, 5_000, 5_000],
    "tasks": {
        "domain": {
            "mean_confidence": 0.5,
            "confidence": [50_000] * 2,
            "labels": {"billing": 99_998, "delivery": 1, "other": 1},
        }
    },
}


REPORT = {
    "rows": [
        {"name": "toy", "runtime": "onnxruntime", "precision": "fp32", "profile": PROFILE},
        {"name": "another", "runtime": "onnxruntime", "precision": "fp32"},
    ]
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two versions of one model, one of them with a report; another model with many labels; 16 texts a request."""
    root = tmp_path_factory.mktemp("page")
    for name, tasks in (("toy", TOY_TASKS), ("newer", TOY_TASKS[:1]), ("wide", WIDE_TASKS)):
        write_toy_folder(root / name, "onnxruntime", tasks)
    (root / "report.json").write_text(json.dumps(REPORT), encoding="utf8")
    (root / "toy" / "README.md").write_text(CARD, encoding="utf8")
    models = (f"toy@1={root / 'toy'}", f"toy@2={root / 'newer'}", f"wide={root / 'wide'}")
    with running(models, "--max-texts", "16") as found:
        yield found.url


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def profile(browser):
    """A profile for tests that leave nothing in it: opening one for each would take most of the time."""
    with browser.new_context(**LIGHT) as context:
        yield context


@pytest.fixture
def open_page(browser, profile):
    """`open_page(url, **how)` opens it; afterwards: no error but those expected, no request to anywhere else."""
    opened = []

    def start(url, ready="#choices fieldset", **how):
        context = browser.new_context(**{**LIGHT, **how}) if how else profile
        found = Watched(context.new_page(), url)
        found.page.set_default_timeout(PATIENCE_MS)
        opened.append((context, found))
        found.page.on("console", lambda said: said.type in ("error", "warning") and found.errors.append(said.text))
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on(
            "dialog", lambda dialog: (found.errors.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )
        found.page.on("request", lambda request: found.addresses.append(request.url))
        found.page.goto(url, wait_until="commit")
        found.page.wait_for_selector(ready)
        return found

    yield start
    for context, found in opened:
        found.page.close()
        if context is not profile:
            context.close()
        assert found.addresses
        strange = [one for one in found.addresses if not one.startswith((f"{found.url}/", "blob:"))]
        assert strange == []
        assert [said for said in found.errors if not any(part in said for part in found.expected)] == []


@pytest.fixture
def toy(open_page, server):
    """The page, with the toy's first version chosen."""
    found = open_page(server)
    found.page.select_option("[data-choice='select-Version']", "1")
    return found


@pytest.fixture
def timed(open_page, server):
    """A page whose clock goes only as far as it is told, in a profile of its own since that has the clock."""
    found = open_page(server, reduced_motion="reduce")
    found.page.clock.install()
    return found
