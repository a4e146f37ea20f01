import yaml
from toy_run import LANGUAGES, TASKS

from polyfold.measure.card import CardFacts, model_card

FACTS = CardFacts(
    artifact_name="tiny: a <model>", languages=LANGUAGES, base_model="some/encoder", license="apache-2.0"
)


def front_matter(card):
    _, header, _ = card.split("---\n", 2)
    return yaml.safe_load(header)


def test_the_front_matter_holds_each_tasks_result_over_all_and_by_language(toy_report):
    row = toy_report.row("student, int8, onnxruntime")
    header = front_matter(model_card(FACTS, toy_report, row, TASKS))
    assert header["pipeline_tag"] == "text-classification"
    assert header["library_name"] == "polyfold"
    assert header["language"] == list(LANGUAGES)
    results = header["model-index"][0]["results"]
    assert len(results) == len(TASKS) * (1 + len(LANGUAGES))
    overall = {
        one["task"]["name"]: one["metrics"][0]["value"] for one in results if one["dataset"]["config"] == "all"
    }
    assert overall == {task: round(value, 4) for task, value in row.macro_f1.items()}


def test_the_code_for_norwegian_stays_a_word(toy_report):
    # Bare, YAML reads it as false.
    facts = FACTS.model_copy(update={"languages": ("no", "en")})
    assert front_matter(model_card(facts, toy_report, toy_report.rows[1], TASKS))["language"] == ["no", "en"]


def test_the_card_tells_how_to_use_it_and_what_speaks_against_it(toy_report):
    row = toy_report.row("student, int8, onnxruntime")
    card = model_card(FACTS, toy_report, row, TASKS)
    assert "Predictor.open(" in card
    assert "`teacher, trimmed and int8` was at least as fast and at least as good" in card
    assert "broke the quality gate on topics" in card
    assert "Weakest language of domain" in card
    assert "tiny: a &lt;model&gt;" in card


def test_a_model_of_random_weights_says_so_and_has_no_results(toy_report):
    card = model_card(FACTS, toy_report, toy_report.rows[0], TASKS)
    assert "its weights are random" in card
    assert "model-index" not in front_matter(card)
