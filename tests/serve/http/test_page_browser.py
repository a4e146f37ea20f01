"""The page in a real browser before a real server: what people ask, and what they are told."""

from urllib.parse import urlsplit

import httpx
import pytest
from browser_page import ARABIC, JAPANESE, MARKUP, api, as_lists, needs_chromium
from server_process import running

from polyfold.serve.access.key_file import write_keys
from polyfold.serve.access.keys import KeyEntry, Keys, digest_key, new_key
from toys import write_toy_folder

pytestmark = needs_chromium


def test_arabic_and_japanese_are_labelled_as_the_service_does_and_read_from_their_own_side(toy, server):
    toy.predict(f"{ARABIC}\n{JAPANESE}")
    toy.page.wait_for_selector("article")
    expected = api(server, [ARABIC, JAPANESE])
    assert expected[0]["probabilities"] != expected[1]["probabilities"]
    assert toy.labels() == [as_lists(one["labels"]) for one in expected]
    directions = toy.page.eval_on_selector_all(
        "article .said", "all => all.map(one => getComputedStyle(one).direction)"
    )
    assert directions == ["rtl", "ltr"]
    assert toy.page.eval_on_selector("#texts", "field => getComputedStyle(field).direction") == "rtl"


def test_every_label_has_a_bar_as_long_as_its_probability(toy, server):
    toy.predict(JAPANESE)
    toy.page.wait_for_selector("article")
    (expected,) = api(server, [JAPANESE])
    rows = toy.page.eval_on_selector_all(
        "article .bars li",
        """rows => rows.map(row => {
            const width = part => row.querySelector(part).getBoundingClientRect().width;
            const [label, said] = row.title.split(": ");
            return [label, Number(said), width(".fill") / width(".track")];
        })""",
    )
    wanted = {label: p for task in expected["probabilities"].values() for label, p in task.items()}
    assert len(rows) == len(wanted) == 7
    for label, said, drawn in rows:
        assert said == pytest.approx(wanted[label], abs=1e-4)
        # The browser moves bars to where they go, and none is thinner than two pixels.
        assert wanted[label] < 0.05 or drawn == pytest.approx(wanted[label], abs=0.02)


def test_the_time_a_request_took_is_told_in_parts(toy):
    toy.predict("w1")
    toy.page.wait_for_selector(".timing")
    said = toy.page.inner_text(".timing")
    assert all(part in said for part in ("round trip", "queue", "tokenizing", "inference", "HTTP"))


def test_markup_in_texts_labels_and_cards_is_shown_and_never_run(open_page, server):
    found = open_page(server)
    found.page.select_option("[data-choice='select-Name']", "wide")
    found.predict(MARKUP)
    found.page.click("text=Show all 12 labels of colour")
    assert found.page.inner_text("article .said") == MARKUP
    assert found.page.locator("article .bars li").count() == 12
    assert MARKUP in found.page.inner_text("article .bars")
    found.page.select_option("[data-choice='select-Name']", "toy")
    found.page.select_option("[data-choice='select-Version']", "1")
    found.page.click("text=Read the model card")
    assert MARKUP in found.page.inner_text("#card-text")
    assert found.page.locator("#card-text table td").count() == 2
    assert found.page.locator("#card-text strong").inner_text() == "strong"
    assert found.page.locator("main img, #card-text img, #card-text a").count() == 0
    found.page.keyboard.press("Escape")
    assert not found.page.is_visible("#card")


def test_a_text_that_is_too_long_or_cut_is_marked_and_the_others_are_labelled(toy):
    long = " ".join(["w1"] * 50)
    toy.predict(f"{'x' * 20_001}\n{long}\nw2")
    toy.page.wait_for_selector("article")
    flags = toy.page.eval_on_selector_all(
        "article", "all => all.map(one => one.querySelector('.flag')?.textContent)"
    )
    assert flags[0].startswith("Not labelled: ")
    assert flags[1].startswith("Longer than the model reads")
    assert flags[2] is None
    assert "2 texts labelled" in toy.page.inner_text("#summary")


def test_all_of_the_field_is_one_text_if_wanted(toy):
    toy.page.uncheck("#by-line")
    toy.predict("w1\nw2\nw3")
    toy.page.wait_for_selector("article")
    assert toy.page.locator("article").count() == 1
    assert toy.page.inner_text("article .said") == "w1\nw2\nw3"


def test_tasks_and_versions_can_be_chosen(toy):
    toy.page.uncheck("[data-choice='task-domain']")
    toy.predict("w1")
    toy.page.wait_for_selector("article")
    assert list(toy.labels()[0]) == ["topics"]
    # The last one stays.
    toy.page.click("[data-choice='task-topics']")
    assert toy.page.is_checked("[data-choice='task-topics']")
    toy.page.select_option("[data-choice='select-Version']", "2")
    toy.predict("w1")
    toy.page.wait_for_selector("text=version 2, in")
    assert list(toy.labels()[0]) == ["domain"]


def test_a_threshold_decides_as_the_service_would(toy, server):
    texts = [f"w{number} w{number * 3}" for number in range(1, 12)]
    toy.predict("\n".join(texts))
    toy.page.wait_for_selector("article")
    before = toy.labels()
    for threshold in (0.01, 0.4, 0.99):
        toy.page.fill("#threshold-topics", str(threshold))
        expected = [as_lists(one["labels"]) for one in api(server, texts, thresholds={"topics": threshold})]
        assert [sorted(one["topics"]) for one in toy.labels()] == [sorted(one["topics"]) for one in expected]
    toy.page.click("text=Reset")
    assert toy.labels() == before


def test_no_text_is_told_and_the_field_gets_the_focus(toy):
    for blank in ("", "  \n "):
        toy.predict(blank)
        assert "There is no text yet" in toy.notice()
        assert toy.page.evaluate("document.activeElement.id") == "texts"


REFUSALS = (
    (403, "forbidden"),
    (413, "body_too_large"),
    (429, "rate_limited"),
    (500, "internal"),
    (503, "queue_full"),
    (504, "deadline_exceeded"),
)


def test_a_refusal_says_why_and_what_to_do_and_keeps_the_text(toy):
    for status, code in REFUSALS:
        toy.throttle(status, code)
        toy.predict(f"w1 {code}")
        toy.page.wait_for_selector(f"[data-code={code}]")
        said = toy.notice().lower()
        assert "it may not be" in said and "wait a little" in said and "abc" in said
        assert toy.page.input_value("#texts") == f"w1 {code}"
        toy.page.unroute("**/predict")
    toy.predict("w1")
    toy.page.wait_for_selector("article")
    assert toy.page.locator("#notice .notice").count() == 0


def test_the_time_to_wait_is_counted_down(timed):
    timed.throttle(429, "rate_limited", **{"retry-after": "5"})
    timed.predict("w1")
    assert "Send again in 5 s." in timed.notice()
    timed.page.clock.run_for(3000)
    assert "Send again in 2 s." in timed.notice()
    timed.page.clock.run_for(3000)
    assert "You can send again now." in timed.notice()


def test_a_server_that_is_gone_is_told_and_its_return_noticed(timed):
    timed.expected.append("ERR_INTERNET_DISCONNECTED")
    timed.page.context.set_offline(True)
    timed.predict("w1")
    assert "The server does not answer" in timed.notice()
    timed.page.clock.run_for(2100)
    timed.page.wait_for_selector(".health[data-state='down']")
    timed.page.context.set_offline(False)
    timed.page.clock.run_for(2100)
    timed.page.wait_for_selector(".health[data-state='ready']")
    timed.predict("w1")
    timed.page.wait_for_selector("article")


def test_a_key_is_asked_for_used_and_kept_nowhere(open_page, tmp_path):
    key = new_key()
    write_keys(tmp_path / "keys.yaml", Keys(keys=(KeyEntry(name="team", sha256=digest_key(key)),)))
    folder = write_toy_folder(tmp_path / "toy", "onnxruntime")
    with running([folder], "--keys", str(tmp_path / "keys.yaml")) as server:
        found = open_page(server.url, ready="#key-form:not([hidden])")
        found.expected.append("status of 401")
        found.page.wait_for_selector("#key:focus")
        found.page.keyboard.type(new_key())
        found.page.keyboard.press("Enter")
        found.notice()
        found.page.fill("#key", key)
        found.page.keyboard.press("Enter")
        found.page.wait_for_selector("#choices fieldset")
        assert not found.page.is_visible("#key-form")
        found.predict("w1")
        found.page.wait_for_selector("article")
        found.page.wait_for_selector("#throughput")
        kept = found.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
        assert key not in kept
        assert not any(key in address for address in found.addresses)
        assert key not in found.page.content()


LOOK = """state => {
    Object.defineProperty(document, "visibilityState", { get: () => state, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_the_service_is_asked_how_it_is_only_while_someone_looks(timed):
    def asked():
        return sum(urlsplit(address).path == "/stats" for address in timed.addresses)

    timed.page.wait_for_selector("#throughput")
    timed.page.evaluate(LOOK, "hidden")
    before = asked()
    timed.page.clock.run_for(20_000)
    assert asked() == before
    with timed.page.expect_response("**/stats"):
        timed.page.evaluate(LOOK, "visible")
    with timed.page.expect_response("**/stats"):
        timed.page.clock.run_for(2_100)


def test_drift_is_shown_as_the_service_tells_it(timed, server):
    timed.page.select_option("[data-choice='select-Version']", "2")
    timed.page.wait_for_selector("#drift .state:has-text('no reference')")
    timed.page.select_option("[data-choice='select-Version']", "1")
    for _ in range(25):
        api(server, ["w1 w2 w3 w4 w5 w6 w7"] * 16)
    with timed.page.expect_response("**/stats"):
        timed.page.clock.run_for(2_100)
    timed.page.wait_for_selector("#drift .state[data-state=drifted]")
    told = next(one for one in httpx.get(f"{server}/stats").json()["drift"]["models"] if one["version"] == "1")
    length = next(one for one in told["distributions"] if one["name"] == "length")
    assert length["state"] == "drifted"
    assert f"{length['stability_index']:.2f}" in timed.page.inner_text("#drift details:has-text('length') summary")
    timed.page.click("#drift details:has-text('length') summary")
    shown = timed.page.eval_on_selector_all("#drift details[open] li", "all => all.map(one => one.title)")
    assert sorted(shown) == sorted(
        f"{value}: now {_percent(now)}, when tested {_percent(then)}"
        for value, now, then in zip(length["values"], length["served"], length["expected"], strict=True)
    )
    # It stays open while it is drawn anew.
    api(server, ["w1"])
    timed.page.clock.run_for(2_100)
    timed.page.wait_for_selector(f"#drift details[open]:has-text('over {length['texts'] + 1:,} texts')")
    assert timed.page.locator("#drift details[open]").count() == 1


def _percent(share):
    if 0 < share < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= share < 1 else f"{int(share * 100 + 0.5)} %"
