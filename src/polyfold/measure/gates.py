"""Quality gates: how much macro-F1 a row may lose before the run counts as failed."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, Field

from polyfold.errors import InputError
from polyfold.measure.report import Gate, Row
from polyfold.measure.verdicts import NOT_COMPRESSED


class GateSpec(BaseModel):
    """Greatest allowed drops of macro-F1 against the quality baseline, in points (macro-F1 x 100).

    `greatest_drop` holds for every task, `tasks` overrides it by task. `language_drop` holds for every task in
    every language, overridden by `languages`, and both by `pairs` ("task/language"). What no key names is not
    checked. `rows` are shell patterns of row names; without them every compressed or student row is checked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    greatest_drop: float | None = Field(default=None, ge=0.0)
    tasks: dict[str, float] = Field(default_factory=dict)
    language_drop: float | None = Field(default=None, ge=0.0)
    languages: dict[str, float] = Field(default_factory=dict)
    pairs: dict[str, float] = Field(default_factory=dict)
    rows: tuple[str, ...] | None = None

    def allowed(self, task: str, language: str | None) -> float | None:
        """The allowed drop in points, or None where nothing is asked."""
        if language is None:
            return self.tasks.get(task, self.greatest_drop)
        by_language = self.languages.get(language, self.language_drop)
        return self.pairs.get(f"{task}/{language}", by_language)


def check_gates(spec: GateSpec, baseline: Row, rows: Sequence[Row]) -> tuple[Gate, ...]:
    """Check every chosen row that has quality; InputError where the spec names what does not exist."""
    _names_exist(spec, baseline, rows)
    gates = []
    for row in _chosen(spec, baseline, rows):
        for task, language, before, after in _pairs(baseline, row):
            allowed = spec.allowed(task, language)
            if allowed is None:
                continue
            drop = 100.0 * (before - after)
            gate = Gate(
                row=row.name,
                task=task,
                language=language,
                allowed_drop=allowed,
                drop=drop,
                # A drop of exactly the allowed size passes, whatever binary fractions make of it.
                passed=drop <= allowed + 1e-9,
            )
            gates.append(gate)
    return tuple(gates)


def sentence(gate: Gate) -> str:
    """One gate in words."""
    where = f"task '{gate.task}'" + (f" in language '{gate.language}'" if gate.language else "")
    verdict = "holds" if gate.passed else "is broken"
    change = f"loses {gate.drop:.2f}" if gate.drop >= 0 else f"gains {-gate.drop:.2f}"
    return (
        f"the gate on {where} {verdict}: '{gate.row}' {change} points of macro-F1; "
        f"at most {gate.allowed_drop:.2f} may be lost"
    )


def _chosen(spec: GateSpec, baseline: Row, rows: Sequence[Row]) -> Iterator[Row]:
    for row in rows:
        if row.name == baseline.name or not row.macro_f1:
            continue
        if spec.rows is None:
            wanted = row.stage not in NOT_COMPRESSED
        else:
            wanted = any(fnmatchcase(row.name, pattern) for pattern in spec.rows)
        if wanted:
            yield row


def _pairs(baseline: Row, row: Row) -> Iterator[tuple[str, str | None, float, float]]:
    """(Task, language or None for all, baseline's macro-F1, row's macro-F1)."""
    after, after_by_language = row.macro_f1 or {}, row.macro_f1_by_language or {}
    for task, before in (baseline.macro_f1 or {}).items():
        yield task, None, before, after[task]
        for language, value in (baseline.macro_f1_by_language or {}).get(task, {}).items():
            yield task, language, value, after_by_language[task][language]


def _names_exist(spec: GateSpec, baseline: Row, rows: Sequence[Row]) -> None:
    """A gate on a misspelt name would hold for ever."""
    by_language = baseline.macro_f1_by_language or {}
    tasks = set(baseline.macro_f1 or {})
    languages = {language for values in by_language.values() for language in values}
    pairs = {f"{task}/{language}" for task, values in by_language.items() for language in values}
    for key, given, known in (
        ("tasks", spec.tasks, tasks),
        ("languages", spec.languages, languages),
        ("pairs", spec.pairs, pairs),
    ):
        unknown = sorted(set(given) - known)
        if unknown:
            raise InputError(
                f"a gate names {unknown}, which no test document is labelled with",
                key=f"measure.gates.{key}",
                hint=f"allowed are {sorted(known)}",
            )
    for pattern in spec.rows or ():
        if not any(fnmatchcase(row.name, pattern) for row in rows):
            raise InputError(
                f"a gate's pattern '{pattern}' fits no row",
                key="measure.gates.rows",
                hint=f"rows are {[row.name for row in rows]}",
            )
