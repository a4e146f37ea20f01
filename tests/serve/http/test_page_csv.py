"""A CSV on the page, in a real browser before a real server: read, sent in parts, shown, taken away."""

import csv
import io
import json

import pytest
from browser_page import ARABIC, JAPANESE, MARKUP, api, csv_of, needs_chromium
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = needs_chromium


def _rows(count):
    cells = ["=1+1", 'said "hi", then\r\nleft', ARABIC, "", f"{JAPANESE};", MARKUP]
    return [
        [f"id{number}", f"{cells[number % len(cells)]}" + f" w{number}" * (number % 6 != 3)]
        for number in range(count)
    ]


def _in_parts(server, texts):
    return [one for start in range(0, len(texts), 10) for one in api(server, texts[start : start + 10])]


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_dropped_csv_becomes_a_table_and_a_labelled_csv(toy, server, delimiter):
    rows = _rows(50)
    toy.drop("feedback.csv", ("\ufeff" + csv_of([["key", "comment"], *rows], delimiter)).encode())
    assert toy.page.input_value("#column") == "1"
    toy.page.click("text=Label 50 rows")
    toy.page.wait_for_selector("text=42 texts labelled")
    assert toy.page.locator("#outcomes tbody tr").count() == 50
    toy.page.check("text=with every label's probability")
    with toy.page.expect_download() as download:
        toy.page.click("#download")
    assert download.value.suggested_filename == "feedback-labelled.csv"
    content = download.value.path().read_bytes().decode()
    assert content.startswith("\ufeff")
    header, *found = csv.reader(io.StringIO(content[1:], newline=""), delimiter=delimiter, strict=True)
    assert header[:4] == ["key", "comment", "domain", "domain:billing"]
    assert header[-2:] == ["truncated", "error"]
    assert [row[:2] for row in found] == rows
    for (_, text), row, expected in zip(rows, found, _in_parts(server, [text for _, text in rows]), strict=True):
        cells = dict(zip(header, row, strict=True))
        if not text:
            assert cells["error"] == "there is no text" and cells["domain"] == ""
            continue
        assert cells["domain"] == expected["labels"]["domain"]
        assert cells["topics"] == "|".join(expected["labels"]["topics"])
        assert float(cells["domain:billing"]) == expected["probabilities"]["domain"]["billing"]
        assert cells["truncated"] == str(expected["truncated"]).lower()


def test_formulas_are_told_of(toy):
    toy.drop("feedback.csv", b"text\n=1+1\n")
    toy.page.click("#predict")
    toy.page.wait_for_selector("text=they are formulas")


def test_another_column_and_a_file_without_names_are_read_too(toy):
    toy.drop("plain.csv", b"w1,w2 w3\nw4,w5\n")
    toy.page.uncheck("#named")
    toy.page.select_option("#column", "0")
    toy.page.click("text=Label 2 rows")
    toy.page.wait_for_selector("text=2 texts labelled")
    assert toy.page.locator("#outcomes td.text").all_inner_texts() == ["w1", "w4"]


def test_a_long_table_is_turned_page_by_page(toy):
    toy.drop("many.csv", csv_of([["text"], *([f"w{number}"] for number in range(230))]).encode())
    toy.page.click("#predict")
    toy.page.wait_for_selector("text=230 texts labelled")
    seen = []
    for rows in (100, 100, 30):
        assert toy.page.locator("#outcomes tbody tr").count() == rows
        seen += toy.page.locator("#outcomes td.text").all_inner_texts()
        if len(seen) < 230:
            toy.page.click("text=Next")
    assert seen == [f"w{number}" for number in range(230)]
    toy.page.click("[aria-label='Probabilities of row 230']")
    assert toy.page.locator("#outcomes .details .bars li").count() == 7


BAD_FILES = (
    ("open.csv", b'a,b\n1,"x\n2,3', "open.csv: a quote that opens on line 2 is never closed"),
    ("after.csv", b'a,b\n1,"x"y\n', "after.csv: on line 2 there is text after"),
    ("ragged.csv", b'a,b\n1,"x\ny"\n1,2,3\n', "ragged.csv: on line 4 there are 3 cells"),
    ("latin.csv", "a\nü\n".encode("latin1"), "latin.csv is not UTF-8"),
    ("double.csv", "a\nü\n".encode("utf-16"), "double.csv is not UTF-8"),
    ("book.xlsx", b"PK\x03\x04rest", "is a workbook"),
    ("empty.csv", b"\n\n", "is empty"),
)


def test_a_bad_csv_is_told_with_its_line_and_what_to_do(toy):
    for name, content, problem in BAD_FILES:
        toy.drop(name, content)
        toy.page.wait_for_selector(f"#notice :text('{problem}')")
        assert all(len(line) > 15 for line in toy.notice().split("\n\n"))
        assert toy.page.is_visible("#texts")


def test_a_csv_that_is_too_large_is_refused_before_it_is_read(toy):
    toy.page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(20e6 + 1)], "huge.csv"));
            const how = { dataTransfer: data, bubbles: true, cancelable: true };
            document.body.dispatchEvent(new DragEvent("drop", how));
        }"""
    )
    assert "huge.csv has 20.0 MB; this page reads up to 20.0 MB" in toy.notice()


def test_a_csv_waits_where_the_server_is_busy_and_then_goes_on(toy):
    toy.expected.append("status of 503")
    refusals = [{"retry-after": "0.05"}, {"retry-after": "0.05"}]

    def busy(route):
        if not refusals:
            return route.continue_()
        error = {"code": "queue_full", "message": "full", "hint": None, "request_id": "abc"}
        return route.fulfill(status=503, json={"error": error}, headers=refusals.pop())

    toy.page.route("**/predict", busy)
    toy.drop("many.csv", csv_of([["text"], *([f"w{number}"] for number in range(40))]).encode())
    toy.page.click("#predict")
    toy.page.wait_for_selector("text=40 texts labelled")
    assert refusals == []


def test_a_csv_can_be_stopped_and_gone_on_with(toy, server):
    held = []
    toy.page.route(
        "**/predict",
        lambda route: (
            held.append(route) if toy.page.locator("tbody tr.waiting").count() < 40 else route.continue_()
        ),
    )
    texts = [f"w{number}" for number in range(40)]
    toy.drop("many.csv", csv_of([["text"], *([text] for text in texts)]).encode())
    toy.page.click("#predict")
    toy.page.wait_for_selector("text=16 of 40")
    toy.page.click("#stop")
    toy.page.wait_for_selector("text=stopped before the other 24")
    toy.page.unroute("**/predict")
    toy.page.click("text=Label the other 24")
    toy.page.wait_for_selector("text=40 texts labelled")
    assert toy.page.locator("tbody tr.waiting").count() == 0
    shown = toy.page.eval_on_selector_all(
        "tbody tr td:nth-child(3) .chip", "all => all.map(one => one.firstChild.textContent)"
    )
    assert shown == [one["labels"]["domain"] for one in _in_parts(server, texts)]


def test_a_request_that_is_too_large_is_sent_in_smaller_parts(toy):
    toy.expected.append("status of 413")
    sizes = []

    def small(route):
        count = len(json.loads(route.request.post_data)["texts"])
        sizes.append(count)
        if count <= 4:
            return route.continue_()
        error = {"code": "body_too_large", "message": "too large", "hint": None, "request_id": "abc"}
        return route.fulfill(status=413, json={"error": error})

    toy.page.route("**/predict", small)
    toy.drop("many.csv", csv_of([["text"], *([f"w{number}"] for number in range(20))]).encode())
    toy.page.click("#predict")
    toy.page.wait_for_selector("text=20 texts labelled")
    assert sum(count for count in sizes if count <= 4) == 20


@pytest.fixture(scope="module")
def csv_page(browser, server):
    context = browser.new_context()
    page = context.new_page()
    page.goto(server)
    address = page.get_attribute("script[type=module]", "src").replace("page.js", "csv.js")
    page.evaluate(
        "address => import(new URL(address, document.baseURI)).then(found => { window.csv = found; })", address
    )
    yield page
    context.close()


# JSON, which carries them to the browser, knows no lone surrogates.


CELLS = st.text(st.sampled_from('ab ",;\t\r\n\ufeff=é語م') | st.characters(exclude_categories=["Cs"]), max_size=6)


ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, delimiter=st.sampled_from(",;\t"), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_the_page_reads_what_python_writes_and_writes_what_python_reads(csv_page, rows, delimiter, quoting):
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, quoting=quoting).writerows(rows)
    read, own = csv_page.evaluate(
        "([source, rows, delimiter]) => [csv.parseCsv(source, delimiter).rows, csv.formatCsv(rows, delimiter)]",
        [written.getvalue(), rows, delimiter],
    )
    assert read == rows
    assert list(csv.reader(io.StringIO(own, newline=""), delimiter=delimiter, strict=True)) == rows
