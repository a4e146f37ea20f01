"""The recipe: one experiment as one frozen, validated value, read from YAML. Its hash names the run."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from polyfold.artifact import digest_json
from polyfold.compress.int8_qat import Int8Qat
from polyfold.compress.prune_spec import Prune
from polyfold.compress.step import StepSpec, quantizes
from polyfold.data.spec import DataSpec
from polyfold.errors import InputError
from polyfold.export import ExportSpec, export_label
from polyfold.losses.labels import LabelLoss
from polyfold.measure.measure import MeasureSpec
from polyfold.train.backbones import BackboneSpec
from polyfold.train.distill import StudentSpec
from polyfold.train.extend import ExtendSpec
from polyfold.train.teacher import GivenTeacher, TeacherSpec, TrainedTeacher, members_of

TEACHER = "teacher"
USE_MULTILINGUAL = "use-multilingual"

Steps = tuple[StepSpec, ...]

TRUTH = "tag:yaml.org,2002:bool"


class Recipe(BaseModel):
    """Data, backbones, teacher, students, the steps that compress them, their exports, what is measured.

    The teacher itself is compressed by the same steps and measured beside its students (where it is one
    multi-task model and `compress_teacher` is on): a student that it beats on speed and quality is no success.
    `compress_by_name` gives one student (or `teacher`) steps of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = Field(default=0, ge=0)
    data: DataSpec
    backbones: tuple[BackboneSpec, ...] = ()
    teacher: TeacherSpec
    students: tuple[StudentSpec, ...] = ()
    compress: Steps = ()
    compress_by_name: dict[str, Steps] = Field(default_factory=dict)
    compress_teacher: bool = True
    export: tuple[ExportSpec, ...] = ()
    measure: MeasureSpec = MeasureSpec()
    extend: ExtendSpec = ExtendSpec()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [student.name for student in self.students]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two students are named '{name}'; give each a name of its own")
        if TEACHER in names:
            raise ValueError("a student cannot be named 'teacher'; its compressed form is a row already")
        labels = [export_label(target) for target in self.export]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"export names '{label}' twice; `bf16: true` adds its row to the one export")
        for steps in (self.compress, *self.compress_by_name.values()):
            for step in steps[:-1]:
                if quantizes(step):
                    reason = "what is quantized can no longer be cut, trained or quantized again"
                    raise ValueError(f"{step.kind} must be the last step: {reason}")
        for name in self.compress_by_name:
            if name not in (*names, TEACHER):
                raise ValueError(f"compress_by_name: there is no student '{name}'; there are {names}")
        self._check_backbone_names()
        self._check_gate_names()
        self._check_teacher_names()
        self._check_class_weights()
        return self

    def _check_backbone_names(self) -> None:
        """One backbone may stand on another, but on one that is made before it."""
        names = [backbone.name for backbone in self.backbones]
        for place, backbone in enumerate(self.backbones):
            if backbone.name in names[:place] or backbone.name == USE_MULTILINGUAL:
                raise ValueError(f"backbones: the name '{backbone.name}' is taken; give another")
            started = (backbone.init.name,) if backbone.init.kind == "backbone" else ()
            for name in (backbone.teacher, *started):
                if name in names[place:]:
                    raise ValueError(f"backbones: '{backbone.name}' needs '{name}', which must come before it")

    def _check_gate_names(self) -> None:
        """A misspelt gate must not be found only after everything is trained."""
        gates = self.measure.gates
        if gates is None:
            return
        pairs = [pair.partition("/") for pair in gates.pairs]
        tasks = [task.name for task in self.data.tasks]
        for name in (*gates.tasks, *(task for task, _, _ in pairs)):
            if name not in tasks:
                raise ValueError(f"measure.gates: there is no task '{name}'; tasks are {', '.join(tasks)}")
        for language in (*gates.languages, *(language for _, _, language in pairs)):
            if self.data.languages is not None and language not in self.data.languages:
                raise ValueError(f"measure.gates: '{language}' is not among data.languages")

    def _check_teacher_names(self) -> None:
        """Nor a misspelt task or language of a teacher."""
        tasks, languages = [task.name for task in self.data.tasks], self.data.languages
        for spec in members_of(self.teacher):
            named = spec.tasks or () if isinstance(spec, TrainedTeacher) else (spec.task,) if spec.task else ()
            for name in named:
                if name not in tasks:
                    raise ValueError(f"teacher: there is no task '{name}'; tasks are {', '.join(tasks)}")
            for language in spec.languages or ():
                if languages is not None and language not in languages:
                    raise ValueError(f"teacher: '{language}' is not among data.languages")
            unnamed = not (spec.languages or languages)
            if isinstance(spec, TrainedTeacher) and spec.mode.kind == "per_language" and unnamed:
                raise ValueError("a teacher a language needs to know them: name teacher.languages")

    def _check_class_weights(self) -> None:
        """Weights of a task that is not there would count for nothing, unnoticed."""
        steps = (step for some in (self.compress, *self.compress_by_name.values()) for step in some)
        losses = [loss for student in self.students for loss in student.losses]
        losses += [one.loss for one in members_of(self.teacher) if isinstance(one, TrainedTeacher)]
        losses += [loss for step in steps if isinstance(step, Prune | Int8Qat) for loss in step.losses]
        tasks = [task.name for task in self.data.tasks]
        for loss in losses:
            given = loss.class_weights if isinstance(loss, LabelLoss) else None
            for name in given if isinstance(given, dict) else ():
                if name not in tasks:
                    raise ValueError(f"class_weights: there is no task '{name}'; tasks are {', '.join(tasks)}")

    @property
    def folds_teacher(self) -> bool:
        """Whether the teacher itself is compressed as well; a given one may turn out to be none that can be."""
        match self.teacher:
            case TrainedTeacher():
                one = self.teacher.mode.kind == "multi_task" and self.teacher.tasks is None
            case GivenTeacher():
                one = self.teacher.task is None
            case _:
                return False
        return self.compress_teacher and one and self.teacher.languages is None

    def steps(self, name: str) -> Steps:
        """The compression steps of a student or of the teacher itself."""
        return self.compress_by_name.get(name, self.compress)

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over all of it."""
        return digest_json(self.model_dump(mode="json"))[:16]


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe and apply `a.b=value` changes; InputError names the key that does not fit."""
    try:
        content = _parse(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise InputError("there is no such recipe", file=path, hint="see recipes/ for examples") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"not a text file: {error}", file=path) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {error}", file=path) from None
    if not isinstance(content, dict):
        raise InputError("a recipe is a mapping of keys", file=path, hint="it begins with `name:` and `data:`")
    for change in changes:
        content = changed(content, change)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise _explained(error, path) from None


class _Words(yaml.SafeLoader):
    """YAML 1.2's truth values: by 1.1, `on` (a key of the logits loss) and `no` (Norwegian) are no words."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own class attribute)
        first: [(tag, pattern) for tag, pattern in found if tag != TRUTH]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Words.add_implicit_resolver(TRUTH, re.compile("^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def _parse(text: str) -> Any:
    # A safe loader all the same: it builds nothing but plain values.
    return yaml.load(text, Loader=_Words)


def changed(content: Mapping[str, Any], change: str) -> dict[str, Any]:
    """A copy of the recipe with one `a.b=value` applied; numbers in the path index lists, the value is YAML."""
    key, equals, value = change.partition("=")
    if not equals or not key.strip():
        raise InputError(f"'--set {change}' is not of the form a.b=value", hint="for example: --set seed=1")
    try:
        parsed = _parse(value)
    except yaml.YAMLError as error:
        raise InputError(f"'--set {change}': the value is not valid YAML: {error}") from None
    copied = _set(content, key.strip().split("."), parsed, change)
    assert isinstance(copied, dict)
    return copied


def _set(node: Any, path: list[str], value: Any, change: str) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            raise InputError(f"'--set {change}': '{head}' is no index of a list of {len(node)}")
        return [_set(item, rest, value, change) if i == int(head) else item for i, item in enumerate(node)]
    if node is None or isinstance(node, Mapping):
        return {**(node or {}), head: _set((node or {}).get(head), rest, value, change)}
    raise InputError(f"'--set {change}': '{head}' would lie inside '{node}', which is no mapping")


def _explained(error: ValidationError, path: Path) -> InputError:
    """The first problem in the user's terms; for a misspelt key, the nearest one that exists."""
    problems = error.errors()
    first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
    # `trained` is the tag of a teacher's block that needs none: nobody wrote it.
    key = ".".join(str(part) for part in first["loc"] if part != "trained")
    if first["type"] == "extra_forbidden":
        own = str(first["loc"][-1])
        near = difflib.get_close_matches(own, _known_keys(), n=1)
        # A key of another block is its own nearest.
        misspelt = near and near[0] != own
        hint = f"did you mean '{near[0]}'?" if misspelt else "remove it; docs/RECIPES.md lists each block's keys"
        return InputError("unknown key", file=path, key=key, hint=hint)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InputError(f"{first['msg']}{more}", file=path, key=key or None, hint="docs/RECIPES.md lists the keys")


def _known_keys() -> list[str]:
    """Every property name anywhere in the recipe's schema."""
    schema = Recipe.model_json_schema()
    definitions = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for definition in definitions for name in definition.get("properties", {})})
