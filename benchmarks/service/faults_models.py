"""Faults of what computes: a runtime that breaks, a text that it chokes on, a damaged model that is offered."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyfold.artifact import MANIFEST, read_config
from polyfold.artifact import Stage as Building
from polyfold.predictor import Predictor

from .answers import Expected
from .contestants import polyfold_command
from .processes import Server
from .results import FaultRow
from .stage import NAME, Stage, Story, run_quietly

POISON_EVERY = 50


def runtime_raises(stage: Stage) -> FaultRow:
    """The preferred runtime breaks while it serves."""
    story = Story(
        "runtime_raises", "the runtime raises while serving",
        "OpenVINO's sessions are made to raise, from one moment on, by `benchmarks.service.sabotage`",
    )  # fmt: skip
    both = _either(stage)
    file = stage.work / "broken"
    file.unlink(missing_ok=True)
    with both.server(sabotage=json.dumps({"fault": "raise", "file": str(file.resolve())})) as server:
        before = _model(server)
        loading = both.load(server, stage.before_s + stage.after_s)
        moment = both.reached(loading.started, stage.before_s)
        file.touch()
        outcome = loading.wait()
        after, status = _model(server), server.ask("GET", "/health").content["status"]
        code = server.stop()
    facts = {"runtime_before": before["runtime"], "runtime_after": after["runtime"], "health": status,
             "failovers": float(after["failovers"])}  # fmt: skip
    checks = {
        "OpenVINO did not come first": before["runtime"] == "openvino",
        "no other runtime took over": after["runtime"] != before["runtime"] and after["failovers"] >= 1,
        "health does not show it": status == "degraded",
        f"exit code {code}, not 0": code == 0,
    }
    return both.row(story, outcome, moment, facts=facts, checks=checks)


def runtime_refuses(stage: Stage) -> FaultRow:
    """The preferred runtime does not open at all."""
    story = Story(
        "runtime_refuses", "the preferred runtime cannot load the model",
        "OpenVINO is made to open nothing, by `benchmarks.service.sabotage`",
    )  # fmt: skip
    both = _either(stage)
    with both.server(sabotage=json.dumps({"fault": "refuse"})) as server:
        loading = both.load(server, stage.before_s + stage.after_s)
        outcome = loading.wait()
        found = _model(server)
        code = server.stop()
    checks = {
        "no other runtime took over": found["runtime"] == "onnxruntime" and found["failovers"] >= 1,
        f"exit code {code}, not 0": code == 0,
    }
    facts = {"runtime": found["runtime"], "failovers": float(found["failovers"])}
    return both.row(story, outcome, loading.started + stage.before_s, facts=facts, checks=checks)


def poison_text(stage: Stage) -> FaultRow:
    """One text in fifty that no runtime can compute."""
    story = Story(
        "poison_text", f"one text in {POISON_EVERY} that no runtime computes",
        "every runtime raises where a batch holds the text's tokens, by `benchmarks.service.sabotage`",
    )  # fmt: skip
    # A text of the sample like any other, again and again; where others have its very tokens, so have they.
    texts = [text if number % POISON_EVERY else stage.texts[0] for number, text in enumerate(stage.texts)]
    predictor = stage.predictor
    ids = [row.tolist() for row in predictor.tokenizer.encode(texts, predictor.config.max_length).ids]
    poison = frozenset(number for number, row in enumerate(ids) if row == ids[0])
    fault = {"fault": "poison", "ids": ids[0]}
    other = stage.with_texts(texts, poison)
    with other.server(sabotage=json.dumps(fault)) as server:
        first = other.load(server, stage.before_s + stage.after_s)
        outcome = first.wait()
        bulk = other.load(server, 10.0, mode="closed", count=40, texts_a_request=32, connections=4).wait()
        found = _model(server)
        code = server.stop()
    many = other.expected.check(bulk)
    facts = {"beside_it_texts": float(many.texts - many.poisoned), "beside_it_bad": float(many.lost + many.wrong),
             "failovers": float(found["failovers"])}  # fmt: skip
    checks = {
        "neighbours of a poison text failed": not (many.lost or many.wrong or many.mixed_up or many.item_errors),
        "it caused a fail-over": found["failovers"] == 0 and found["state"] == "ready",
        "no text was poison": many.poisoned > 0,
        f"exit code {code}, not 0": code == 0,
    }
    return other.row(story, outcome, first.started + stage.before_s, facts=facts, checks=checks)


def corrupt_model(stage: Stage) -> FaultRow:
    """A damaged version is offered while running, and then a good one."""
    story = Story(
        "corrupt_model", "a corrupt model offered for hot reload, then a good one",
        "one byte of version 2's model file changed; `POST /v2/repository/models/model/load` with an admin key",
    )  # fmt: skip
    repository = stage.work / "repository"
    shutil.rmtree(repository, ignore_errors=True)
    for version in ("2", "3"):
        _copy(stage.folders[0], repository / NAME / version)
    _damage(repository / NAME / "2")
    keys = stage.work / "keys.yaml"
    keys.unlink(missing_ok=True)
    program = polyfold_command([], 0)[0]
    key = run_quietly([program, "key", "new", str(keys), "tester", "--role", "predict", "--role", "admin"])
    options = ("--repository", str(repository), "--keys", str(keys))
    with stage.server(*options, key=key) as server:
        loading = stage.load(server, stage.before_s + stage.after_s + 4.0, key=key)
        moment = stage.reached(loading.started, stage.before_s)
        bad = _load(server, "2", key)
        between = _versions(server, key)
        good = _load(server, "3", key)
        outcome = loading.wait()
        after = _versions(server, key)
        code = server.stop()
    checks = {
        f"the damaged one was not refused ({bad.status})": 400 <= bad.status < 500,
        "the old version did not stay": between == ["1"],
        f"the good one was refused ({good.status}: {good.body[:200]!r})": good.status == 200 and "3" in after,
        f"exit code {code}, not 0": code == 0,
    }
    facts = {"damaged_status": float(bad.status), "good_status": float(good.status)}
    return stage.row(story, outcome, moment, facts=facts, checks=checks)


def _either(stage: Stage) -> Stage:
    """Answers of any of the folders are right."""
    first = stage.folders[0]
    config, _ = read_config(first)
    other = Predictor.open(stage.folders[-1], runtime=None if len(stage.folders) > 1 else "onnxruntime")
    assert config.runtime == "openvino" or Path(config.file).suffix == ".onnx"
    second = Expected.of(other, stage.texts, stage.expected.tolerance)
    return replace(stage, expected=replace(stage.expected, other=second))


def _model(server: Server) -> dict[str, Any]:
    """What health says of the first model."""
    found: dict[str, Any] = server.ask("GET", "/health").content["models"][0]
    return found


def _versions(server: Server, key: str) -> list[str]:
    """Versions that are ready."""
    models = server.ask("GET", "/health", key=key).content["models"]
    return sorted(one["version"] for one in models if one["state"] == "ready")


def _load(server: Server, version: str, key: str) -> Any:
    body = {"parameters": {"version": version}}
    return server.ask("POST", f"/v2/repository/models/{NAME}/load", body, key, seconds=60.0)


def _copy(folder: Path, target: Path) -> None:
    """A model folder with a manifest, as stages leave it."""
    shutil.copytree(folder, target)
    if not (target / MANIFEST).is_file():
        Building("export", NAME, 1, {}).finish(target, {})


def _damage(folder: Path) -> None:
    """Change one byte in the middle of the largest file: its weights."""
    file = max((one for one in folder.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))
