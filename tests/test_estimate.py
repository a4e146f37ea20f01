"""The dry run's table and what cleaning would find."""

import io
import re

from rich.console import Console

from polyfold.estimate import giga_macs_per_second, render_plan, stale_folders
from polyfold.pipeline import plan
from polyfold.recipe import load_recipe


def rendered(run, root, *changes):
    recipe = load_recipe(run.recipe, changes)
    console = Console(width=240, file=io.StringIO())
    console.print(render_plan(plan(recipe, run.project), recipe, root))
    return console.file.getvalue()


def minutes(text):
    """The estimated minutes of each stage, by name."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return {cells[0]: float(cells[4].replace(",", "")) for cells in rows}


def test_a_finished_run_costs_nothing_more(toy_run):
    text = rendered(toy_run, toy_run.out)
    assert set(minutes(text).values()) == {0.0}
    assert len(minutes(text)) == 12
    assert "about 0 minutes and 0 MB to go" in text
    assert toy_run.report.recipe_hash in text


def test_more_epochs_cost_more_and_what_is_untouched_costs_nothing(toy_run):
    few, many = (rendered(toy_run, toy_run.out, f"students.0.fit.epochs={epochs}") for epochs in (1000, 4000000))
    assert minutes(few)["small"] < minutes(many)["small"]
    assert minutes(many)["teacher"] == 0.0
    assert re.search(r"about [1-9][\d,]* minutes", many)


def test_this_machine_multiplies_at_a_speed_above_zero():
    assert 0.1 < giga_macs_per_second() < 1e6


def test_stale_folders_are_those_no_recipe_keeps(toy_run):
    everything = {path.name for path, _ in stale_folders(toy_run.out, set())}
    assert everything == {path.name for path in toy_run.out.iterdir() if path.is_dir()}
    kept = {stage.folder(toy_run.out).name for stage in toy_run.plan.stages()}
    ((cache, size_mb),) = stale_folders(toy_run.out, kept)
    assert cache.name == "cache"
    assert 0 < size_mb < 1
    assert stale_folders(toy_run.out / "nowhere", set()) == []
    assert stale_folders(toy_run.project, set()) == []
