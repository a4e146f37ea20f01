"""The page in a browser as tests hold it, and what its server answers without it."""

import csv
import io
import shutil
from dataclasses import dataclass, field

import httpx
import pytest

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no 'chromium' here; `make browser` installs Debian's"
)

PATIENCE_MS = 10_000
LIGHT = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}

ARABIC, JAPANESE = "أين طردي w5؟", "荷物 w9 w3 はどこですか"
MARKUP = "<img src=x onerror=alert(1)>"


@dataclass
class Watched:
    """A page, and all that went on in it; `expected` holds a part of each error that is allowed."""

    page: object
    url: str
    expected: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    addresses: list = field(default_factory=list)

    def predict(self, text):
        """Type it, and ask for its labels by the keyboard."""
        self.page.fill("#texts", text)
        self.page.keyboard.press("Control+Enter")

    def drop(self, name, content):
        """Drop a file of these bytes somewhere on the page."""
        self.page.evaluate(
            """([name, content]) => {
                const data = new DataTransfer();
                data.items.add(new File([Uint8Array.from(content)], name));
                for (const kind of ["dragenter", "dragover", "drop"]) {
                    const event = new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
                    document.body.dispatchEvent(event);
                }
            }""",
            [name, list(content)],
        )

    def notice(self):
        """What the message above the results says, once there is one."""
        self.page.wait_for_selector("#notice .notice")
        return self.page.inner_text("#notice")

    def throttle(self, status, code, **headers):
        """Refuse every next prediction as the service does it."""
        self.expected.append(f"status of {status}")
        error = {"code": code, "message": "it may not be", "hint": "wait a little", "request_id": "abc"}
        self.page.route(
            "**/predict", lambda route: route.fulfill(status=status, json={"error": error}, headers=headers)
        )

    def labels(self):
        """By card, each task's chosen labels."""
        return self.page.eval_on_selector_all(
            "article",
            """cards => cards.map(card => Object.fromEntries([...card.querySelectorAll(".task")].map(task =>
                [task.dataset.task, [...task.querySelectorAll(".chip")].map(chip => chip.textContent)])))""",
        )


def api(server, texts, **more):
    """What the service itself says of texts, probabilities included."""
    body = {"model": "toy", "version": "1", "texts": texts, "probabilities": True, **more}
    answer = httpx.post(f"{server}/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def as_lists(labels):
    """By task a list of labels, as the page shows them."""
    return {task: [found] if isinstance(found, str) else found for task, found in labels.items()}


def csv_of(rows, delimiter=","):
    """Rows as Python writes them."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()
