"""The page's files as HTTP gives them: complete, cacheable, and nothing in them could load or run more."""

import json
import re
from dataclasses import dataclass
from html import unescape

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from polyfold.serve.http.page import FOLDER, MEDIA_TYPES, POLICY, PageFiles, add_page
from polyfold.serve.spec import Limits

FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]


@dataclass(frozen=True)
class HasOnlyLimits:
    limits: Limits


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    add_page(app, HasOnlyLimits(Limits(max_texts=7, max_body_bytes=1234)))
    with TestClient(app) as client:
        yield client


def _source(name):
    return (FOLDER / name).read_text(encoding="utf8")


def test_the_page_says_what_the_service_takes_at_a_time(client):
    given = re.search(r'data-limits="([^"]*)"', client.get("/").text)[1]
    assert json.loads(unescape(given)) == {"max_body_bytes": 1234, "max_texts": 7, "max_characters": 20_000}


def test_everything_that_the_page_names_is_there_for_good_and_nothing_lies_unused(client):
    page = client.get("/").text
    seen, waiting = set(), set(re.findall(r'(?:src|href)="(static/[^"]+)"', page))
    assert waiting
    while waiting:
        address = waiting.pop()
        seen.add(address)
        found = client.get(f"/{address}")
        assert found.status_code == 200, address
        assert found.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert found.headers["content-type"] == MEDIA_TYPES[f".{address.rpartition('.')[2]}"]
        folder = address.rpartition("/")[0]
        imported = re.findall(r'from "\./([^"]+)"', found.text) if address.endswith(".js") else []
        waiting |= {f"{folder}/{name}" for name in imported} - seen
    assert sorted(address.rpartition("/")[2] for address in seen) == [
        name for name in FILES if name != "index.html"
    ]
    assert len(seen) >= 15


def test_the_page_itself_is_asked_for_again_and_sent_only_if_it_changed(client):
    first = client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200


def test_a_page_of_another_version_still_gets_files_but_keeps_none(client):
    found = client.get("/static/0123456789abcdef/page.js")
    assert (found.status_code, found.headers["cache-control"]) == (200, "no-cache")
    assert client.get("/static/page.js").content == found.content


@pytest.mark.parametrize(
    "path",
    ["/static/x/none.js", "/static/index.html", "/static/..%2fpage.py", "/static/x/%2e%2e%2fpage.py", "/static/"],
)
def test_only_the_folder_s_own_names_are_served(client, path):
    assert client.get(path).status_code == 404


def test_another_content_has_another_address(tmp_path):
    for name in FILES:
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    assert PageFiles.read(tmp_path) == PageFiles.read()
    (tmp_path / "csv.js").write_text("// changed")
    assert PageFiles.read(tmp_path).digest != PageFiles.read().digest


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/static/page.css"])
def test_every_file_carries_the_policy_and_answers_head(client, path):
    for found in (client.get(path), client.head(path)):
        assert found.status_code == 200
        assert found.headers["content-security-policy"] == POLICY
        assert found.headers["x-content-type-options"] == "nosniff"
    assert not client.head(path).content


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere():
    rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
    assert (
        rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    )
    assert {rules[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert rules["require-trusted-types-for"] == "'script'"


def test_no_file_names_another_place():
    named = {
        address
        for name in FILES
        for address in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<>]*", _source(name))
    }
    assert named == {"http://www.w3.org/2000/svg"}


def test_the_page_has_no_script_style_or_handler_of_its_own():
    page = _source("index.html")
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_makes_markup_or_code_out_of_text(name):
    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser",
            _source(name),
        )
        == []
    )


def test_every_element_that_a_script_looks_for_is_on_the_page():
    known = set(re.findall(r'\sid="([^"]+)"', _source("index.html")))
    wanted = {name for script in SCRIPTS for name in re.findall(r'byId\("([^"]+)"\)', _source(script))}
    assert len(wanted) > 20
    # The panel of an open CSV makes this one.
    assert wanted - known == {"column"}


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_short(name):
    assert len(_source(name).splitlines()) <= 400
