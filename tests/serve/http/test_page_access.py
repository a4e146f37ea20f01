"""The page for everyone: without a mouse, with a screen reader, in light and dark, narrow and wide."""

from itertools import pairwise

from browser_page import ARABIC, csv_of, needs_chromium

pytestmark = needs_chromium


def test_everything_can_be_reached_and_used_without_a_mouse(toy):
    page = toy.page
    page.focus(".skip")
    assert page.locator(".skip").bounding_box()["y"] >= 0
    order = []
    for _ in range(40):
        name, outline = page.evaluate(
            """() => {
                const one = document.activeElement;
                const name = one.id || one.dataset.choice || one.textContent.trim();
                return [name, getComputedStyle(one).outlineStyle];
            }"""
        )
        if name in order or page.evaluate("document.activeElement === document.body"):
            break
        order.append(name)
        assert outline != "none", f"the focus on {name} cannot be seen"
        page.keyboard.press("Tab")
    expected = [
        "Skip to the results",
        "API docs",
        "theme",
        "texts",
        "by-line",
        "predict",
        "open",
        "examples",
        "clear",
    ]
    assert order[: len(expected)] == expected
    assert {"select-Version", "task-domain", "task-topics", "threshold-topics", "Read the model card"} <= set(
        order
    )
    page.focus("#texts")
    page.keyboard.type("w1 w2")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("article")
    assert page.evaluate("document.activeElement.id") == "texts"
    page.focus("#threshold-topics")
    page.keyboard.press("Home")
    assert len(toy.labels()[0]["topics"]) == 4
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "results"


def test_every_control_has_a_name_and_states_are_announced(toy):
    toy.predict(f"w1\n{ARABIC}")
    toy.page.wait_for_selector("article")
    nodes = toy.page.context.new_cdp_session(toy.page).send("Accessibility.getFullAXTree")["nodes"]
    controls = (
        "button",
        "textbox",
        "checkbox",
        "combobox",
        "slider",
        "link",
        "progressbar",
        "region",
        "form",
        "article",
    )
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in controls
    ]
    assert len(named) > 15
    assert [role for role, name in named if not name.strip()] == []
    assert toy.page.get_attribute("#summary", "role") == "status"
    assert toy.page.get_attribute("#notice", "role") == "alert"
    levels = toy.page.eval_on_selector_all("h1, h2, h3", "all => all.map(one => Number(one.tagName[1]))")
    assert levels.count(1) == 1 and all(after - before <= 1 for before, after in pairwise(levels))


COLOURS_SHOWN = """() => {
    const words = "p, b, label, h1, h2, h3, dt, dd, button:enabled, .label, .share, .chip, a, summary";
    const behind = one => {
        const own = getComputedStyle(one).backgroundColor;
        return own === "rgba(0, 0, 0, 0)" && one.parentElement ? behind(one.parentElement) : own;
    };
    return [...document.querySelectorAll(words)]
        .filter(one => one.checkVisibility() && one.textContent.trim() && !one.closest(".hidden"))
        .map(one => [one.textContent.trim().slice(0, 40), getComputedStyle(one).color, behind(one)]);
}"""


BACKGROUND = "getComputedStyle(document.body).backgroundColor"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def _luminance(colour):
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(front, back):
    """WCAG 2.2, 1.4.3: words of this size want 4.5 at least."""
    low, high = sorted((_luminance(front), _luminance(back)))
    return (high + 0.05) / (low + 0.05)


def test_words_stand_out_from_what_is_behind_them_in_light_and_in_dark(open_page, server):
    found = open_page(server, reduced_motion="reduce")
    found.predict(f"w1\n{'x' * 20_001}")
    found.page.wait_for_selector("article")
    found.throttle(429, "rate_limited")
    found.predict("w1")
    found.notice()
    backgrounds = {}
    for scheme in ("light", "dark"):
        found.page.emulate_media(color_scheme=scheme)
        pairs = found.page.evaluate(COLOURS_SHOWN)
        assert len(pairs) > 40
        contrasts = {text: _contrast(front, back) for text, front, back in pairs}
        assert {text: contrast for text, contrast in contrasts.items() if contrast < 4.5} == {}
        backgrounds[scheme] = _luminance(found.page.evaluate(BACKGROUND))
    assert backgrounds["light"] > 0.8 and backgrounds["dark"] < 0.05


def test_the_chosen_theme_outlives_a_reload(open_page, server):
    found = open_page(server, color_scheme="dark")
    dark = found.page.evaluate(BACKGROUND)
    found.page.click("#theme")
    light = found.page.evaluate(BACKGROUND)
    assert _luminance(light) > 0.8 and _luminance(dark) < 0.1
    found.page.reload()
    assert found.page.evaluate(BACKGROUND) == light
    assert found.page.get_attribute("#theme", "aria-pressed") == "false"


def test_nothing_is_cut_off_on_a_narrow_or_a_wide_screen(toy):
    def assert_fits():
        for width in (360, 1400):
            toy.page.set_viewport_size({"width": width, "height": 740})
            assert toy.page.evaluate(OVERFLOW) == 0, width

    assert_fits()
    toy.predict(f"{ARABIC}\n{'w1' * 300}")
    toy.page.wait_for_selector("article")
    assert_fits()
    toy.drop("many.csv", csv_of([["text"], ["w" * 200], [ARABIC]]).encode())
    toy.page.click("#predict")
    toy.page.wait_for_selector("#download:enabled")
    assert_fits()
