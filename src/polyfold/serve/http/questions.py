"""What a request asks of a model: which of its tasks, decided at which thresholds, about which texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyfold.serve.engine.answers import Failure
from polyfold.serve.engine.served import ServedModel
from polyfold.serve.http.strict_json import shown
from polyfold.serve.refusals import Refusal
from polyfold.tasks import Task

Thresholds = Mapping[str, Mapping[str, float] | float]

NOT_A_TEXT = Failure("not_a_text", "it is not a string")
NOT_UNICODE = Failure("not_a_text", "it holds half a character (a lone surrogate)")


@dataclass(frozen=True, slots=True)
class Question:
    """One task, where its labels stand in a row of `Answers`, and its thresholds (None for a single label)."""

    task: Task
    columns: slice
    thresholds: tuple[float, ...] | None


def questions(
    model: ServedModel, names: Sequence[str] | None = None, thresholds: Thresholds | None = None
) -> list[Question]:
    """The tasks named, or all, in the model's own order where all are asked; Refusal where one is not there."""
    given = thresholds or {}
    tasks = model.tasks if names is None else [_task(model, name) for name in dict.fromkeys(names)]
    for name in given:
        _refuse_single(model, _task(model, name))
    return [Question(task, model.columns[task.name], _thresholds(task, given.get(task.name))) for task in tasks]


def usable(texts: Sequence[Any], most_characters: int) -> tuple[list[str], dict[int, Failure]]:
    """The texts that can be asked about, and by place why the others cannot."""
    good: list[str] = []
    bad: dict[int, Failure] = {}
    for place, text in enumerate(texts):
        if type(text) is not str:
            bad[place] = NOT_A_TEXT
        elif len(text) > most_characters:
            bad[place] = Failure(
                "text_too_long", f"it has {len(text):,} characters, of at most {most_characters:,}"
            )
        elif not text.isascii() and _broken(text):
            bad[place] = NOT_UNICODE
        else:
            good.append(text)
    return good, bad


def _broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _task(model: ServedModel, name: str) -> Task:
    for task in model.tasks:
        if task.name == name:
            return task
    hint = f"its tasks: {', '.join(task.name for task in model.tasks)}"
    raise Refusal(422, "unknown_task", f"this model has no task '{shown(name)}'", hint=hint)


def _refuse_single(model: ServedModel, task: Task) -> None:
    if not task.multi_label:
        multi = ", ".join(task.name for task in model.tasks if task.multi_label)
        message = f"task '{task.name}' is single_label: its likeliest label is chosen, no threshold applies"
        raise Refusal(422, "bad_threshold", message, hint=f"tasks with thresholds: {multi or 'none'}")


def _thresholds(task: Task, given: Mapping[str, float] | float | None) -> tuple[float, ...] | None:
    if not task.multi_label:
        return None
    own = task.thresholds or (0.5,) * len(task.labels)
    if given is None:
        return own
    if not isinstance(given, Mapping):
        return (given,) * len(task.labels)
    for label in given:
        if label not in task.labels:
            hint = f"its labels: {', '.join(task.labels)}"
            raise Refusal(422, "bad_threshold", f"task '{task.name}' has no label '{shown(label)}'", hint=hint)
    return tuple(given.get(label, old) for label, old in zip(task.labels, own, strict=True))
