"""Which row is the baseline, what each row lost against it, and which students the folded teacher beats."""

from collections.abc import Sequence

from polyfold.measure.report import Report, Row, SpeedKey
from polyfold.metrics import degradation_percent

# Real texts first: they are what a user has; the dense shape is the paper's.
SPEED_PREFERENCE: tuple[SpeedKey, ...] = ("real_text", "32x128")

NOT_COMPRESSED = ("baseline", "teacher")


def best_teacher(rows: Sequence[Row]) -> str | None:
    """The quality baseline: the teacher row with the best mean macro-F1."""
    scored = {row.name: mean for row in rows if row.stage == "teacher" and (mean := row.mean_macro_f1)}
    return max(scored, key=lambda name: scored[name]) if scored else None


def judge(rows: Sequence[Row], quality_baseline: str | None) -> tuple[Row, ...]:
    """The same rows with `degradation_percent` and `dominated_by` filled in.

    A teacher may know some tasks only; what a row lost is counted on the tasks that both have.
    """
    baseline = next((row for row in rows if row.name == quality_baseline), None)
    by = dominated(rows)
    judged = []
    for row in rows:
        found: dict[str, float | str | None] = {"dominated_by": by.get(row.name)}
        if baseline is not None and baseline.macro_f1 and row.macro_f1 and row.name != baseline.name:
            own = row.macro_f1
            common = {task: value for task, value in baseline.macro_f1.items() if task in own}
            if common:
                found["degradation_percent"] = degradation_percent(common, {task: own[task] for task in common})
        judged.append(row.model_copy(update=found))
    return tuple(judged)


def dominated(rows: Sequence[Row], key: SpeedKey | None = None) -> dict[str, str]:
    """Student rows that some folded teacher row is at least as fast and at least as good as: {student: by}.

    Any compressed form of the teacher that runs in int8 counts as "the teacher itself, trimmed and int8". Speed
    is compared under `key`, or under the first of `SPEED_PREFERENCE` that both rows have; rows without a common
    speed or without quality are not compared. Of several dominating rows the best, then fastest, is named.
    """
    folded = [row for row in rows if lineage(row, rows) == "teacher" and is_int8(row)]
    verdicts: dict[str, str] = {}
    for student in rows:
        if lineage(student, rows) != "student":
            continue
        better = [(*pair, row.name) for row in folded if (pair := _at_least_as_good(row, student, key))]
        if better:
            verdicts[student.name] = max(better)[-1]
    return verdicts


def lineage(row: Row, rows: Sequence[Row]) -> str | None:
    """Whether a row is a `student` or the `teacher` itself: the first such stage up its chain of parents.

    A chain that leaves the table without meeting either gives None; it then takes no part in any verdict.
    """
    by_name = {one.name: one for one in rows}
    seen: set[str] = set()
    current: Row | None = row
    while current is not None and current.name not in seen:
        if current.stage in ("student", "teacher"):
            return current.stage
        seen.add(current.name)
        current = by_name.get(current.parent or "")
    return None


def is_int8(row: Row) -> bool:
    """Whether its matrix products run in int8, alone or beside bf16; torch only imitates that, in fp32."""
    whole = row.precision.startswith("int8") and not row.precision.startswith("int8-weights")
    return whole and row.runtime != "torch"


def best_int8(report: Report) -> Row | None:
    """The int8 row that lost least against the baseline (of equals the fastest), whatever it was made from."""
    scored = [row for row in report.rows if is_int8(row) and row.macro_f1]
    return max(scored, key=lambda row: (row.mean_macro_f1 or 0.0, _speed(row) or 0.0), default=None)


def int8_rows(report: Report) -> tuple[Row, ...]:
    """The scored int8 rows, best first."""
    scored = [row for row in report.rows if is_int8(row) and row.macro_f1]
    return tuple(sorted(scored, key=lambda row: -(row.mean_macro_f1 or 0.0)))


def headline_speed_key(rows: Sequence[Row]) -> SpeedKey | None:
    """The preferred speed key that at least one row has."""
    return next((key for key in SPEED_PREFERENCE if any(key in row.speed for row in rows)), None)


def _at_least_as_good(row: Row, other: Row, key: SpeedKey | None) -> tuple[float, float] | None:
    """(Quality, speed) of `row` if neither is below those of `other`."""
    keys = (key,) if key else SPEED_PREFERENCE
    common = next((one for one in keys if one in row.speed and one in other.speed), None)
    quality, other_quality = row.mean_macro_f1, other.mean_macro_f1
    if common is None or quality is None or other_quality is None or quality < other_quality:
        return None
    speed = row.speed[common].documents_per_second
    return (quality, speed) if speed >= other.speed[common].documents_per_second else None


def _speed(row: Row) -> float | None:
    key = headline_speed_key([row])
    return row.speed[key].documents_per_second if key else None
