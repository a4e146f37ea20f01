"""Texts in, predictions out, over any runtime: what is measured is what is served.

    from polyfold.predictor import Predictor

    predictor = Predictor.open("model/")
    for prediction in predictor.predict(["Where is my parcel?", "最高です"]):
        print(prediction.labels, prediction.probabilities)

Only the runtime that the folder names is imported, so an ONNX Runtime or OpenVINO model runs without torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polyfold.artifact import ModelConfig, read_config
from polyfold.errors import InputError, MissingExtra
from polyfold.runtimes.session import Session, SessionSpec
from polyfold.tasks import Task
from polyfold.text import Encoding, Tokenizer, open_tokenizer, pad, plan_batches

TOKEN_BUDGET = 4096
"""Tokens a batch, padding included: 32 documents of 128, or several hundred short ones."""

WINDOW = 16_384
"""Documents sorted by length together: enough for tight batches, few enough to keep memory flat."""

Thresholds = Mapping[str, Mapping[str, float] | float]
"""By multi-label task: one threshold for all its labels, or one by label (the others keep their tuned ones)."""


@dataclass(frozen=True)
class Prediction:
    """One document's answer: by task its label, or its labels, and every label's calibrated probability.

    `truncated` says that the text was longer than the model reads, and its end was not looked at.
    """

    labels: dict[str, str | list[str]]
    probabilities: dict[str, dict[str, float]]
    truncated: bool


@dataclass(frozen=True)
class Predictor:
    """A model folder, loaded; build it with `Predictor.open`."""

    folder: Path
    config: ModelConfig
    tasks: tuple[Task, ...]
    tokenizer: Tokenizer
    session: Session
    token_budget: int = TOKEN_BUDGET
    window: int = WINDOW

    @staticmethod
    def open(
        path: Path | str,
        *,
        threads: int | None = None,
        bf16: bool = False,
        token_budget: int = TOKEN_BUDGET,
        cache_dir: Path | None = None,
    ) -> "Predictor":
        """Load a model folder on the runtime its `config.json` names.

        `threads` defaults to every core this process may use; `bf16` and `cache_dir` are OpenVINO's;
        `token_budget` bounds documents times longest in a batch, and so the memory.
        """
        for name, value in (("threads", threads), ("token_budget", token_budget)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", hint=f"{name} must be at least 1")
        folder = Path(path)
        config, tasks = read_config(folder)
        spec = SessionSpec(threads=threads, bf16=bf16, cache_dir=cache_dir)
        session = _open_session(folder, config, tasks, spec)
        tokenizer = open_tokenizer(folder, config.tokenizer)
        return Predictor(folder, config, tasks, tokenizer, session, token_budget)

    def predict(
        self,
        texts: Sequence[str],
        tasks: Sequence[str] | None = None,
        thresholds: Thresholds | None = None,
    ) -> list[Prediction]:
        """Predictions in the order of `texts`, for all tasks or those named.

        `thresholds` replace the tuned ones of multi-label tasks. Equal texts are computed once.
        """
        chosen = self._chosen(tasks)
        limits = self._limits(thresholds or {})
        logits, truncated = self._logits(texts)
        answers = []
        for task in chosen:
            probabilities = task.probabilities(logits[task.name])
            decided = task.decide(probabilities, limits.get(task.name))
            answers.append((task, _label_names(task, decided), probabilities.tolist()))
        return [
            Prediction(
                {task.name: labels[row] for task, labels, _ in answers},
                {task.name: dict(zip(task.labels, values[row], strict=True)) for task, _, values in answers},
                bool(truncated[row]),
            )
            for row in range(len(truncated))
        ]

    def logits(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Uncalibrated logits by task, float32 [n, labels], in the order of `texts`."""
        return self._logits(texts)[0]

    def logits_of_ids(self, encoding: Encoding) -> dict[str, np.ndarray]:
        """Logits by task, float32 [n, labels], of documents that are already token ids."""
        found = {task.name: np.empty((len(encoding), len(task.labels)), np.float32) for task in self.tasks}
        for batch in plan_batches(encoding.lengths, self.token_budget):
            input_ids, attention_mask = pad([encoding.ids[row] for row in batch], self.tokenizer.spec.pad_id)
            logits = self.session.run(input_ids, attention_mask)
            for task in self.tasks:
                found[task.name][batch] = logits[task.name]
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise InputError(
                    "the model gives logits that are not numbers",
                    file=self.folder,
                    key=name,
                    hint="its weights are damaged, or bf16 does not suit it",
                )
        return found

    def _logits(self, texts: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Logits by task and which texts were cut, in the order of `texts`; equal texts run once."""
        _check_texts(texts)
        places: dict[str, int] = {}
        positions = np.fromiter(
            (places.setdefault(text, len(places)) for text in texts), dtype=np.int64, count=len(texts)
        )
        parts = list(self._windows(list(places)))
        if not parts:
            return {task.name: np.empty((0, len(task.labels)), np.float32) for task in self.tasks}, np.empty(
                0, bool
            )
        logits = {
            task.name: np.concatenate([part[task.name] for part, _ in parts])[positions] for task in self.tasks
        }
        return logits, np.concatenate([cut for _, cut in parts])[positions]

    def _windows(self, texts: list[str]) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Encode and run `window` texts at a time, so that token ids never pile up."""
        for start in range(0, len(texts), self.window):
            encoding = self.tokenizer.encode(texts[start : start + self.window], self.config.max_length)
            yield self.logits_of_ids(encoding), encoding.truncated

    def _chosen(self, names: Sequence[str] | None) -> list[Task]:
        if names is None:
            return list(self.tasks)
        if isinstance(names, str):
            raise InputError("tasks is one string", hint="give a list of task names")
        return [self._task(name) for name in names]

    def _task(self, name: str) -> Task:
        for task in self.tasks:
            if task.name == name:
                return task
        raise InputError(
            f"this model has no task '{name}'", hint=f"its tasks: {', '.join(task.name for task in self.tasks)}"
        )

    def _limits(self, thresholds: Thresholds) -> dict[str, tuple[float, ...]]:
        """The given thresholds, checked, in the order of each task's labels."""
        limits = {}
        for name, given in thresholds.items():
            task = self._task(name)
            if not task.multi_label:
                multi = [task.name for task in self.tasks if task.multi_label]
                raise InputError(
                    f"task '{name}' is single_label: its likeliest label is chosen, no threshold applies",
                    hint=f"tasks with thresholds: {', '.join(multi) or 'none'}",
                )
            limits[name] = _merged(task, given)
        return limits


def _check_texts(texts: Sequence[str]) -> None:
    """Refuse what is not a list of texts, naming the row; any string is a text, the empty one too."""
    if isinstance(texts, str | bytes):
        raise InputError("one text was given where a list is expected", hint="write predict([text])")
    for row, text in enumerate(texts, 1):
        if not isinstance(text, str):
            problem = f"a document is {type(text).__name__}, not text"
            raise InputError(problem, row=row, hint="every document must be a str")


def _merged(task: Task, given: Mapping[str, float] | float) -> tuple[float, ...]:
    by_label = given if isinstance(given, Mapping) else dict.fromkeys(task.labels, given)
    for label, value in by_label.items():
        if label not in task.labels:
            raise InputError(
                f"task '{task.name}' has no label '{label}'", hint=f"its labels: {', '.join(task.labels)}"
            )
        if not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            raise InputError(
                f"the threshold of '{label}' in task '{task.name}' is {value!r}",
                hint="a threshold is a number from 0 to 1",
            )
    tuned = task.thresholds or (0.5,) * len(task.labels)
    return tuple(by_label.get(label, own) for label, own in zip(task.labels, tuned, strict=True))


def _label_names(task: Task, decided: np.ndarray) -> list[str | list[str]]:
    if not task.multi_label:
        return [task.labels[index] for index in decided.tolist()]
    return [[label for label, on in zip(task.labels, row, strict=True) if on] for row in decided.tolist()]


def _open_session(folder: Path, config: ModelConfig, tasks: Sequence[Task], spec: SessionSpec) -> Session:
    match config.runtime:
        case "onnxruntime":
            from polyfold.runtimes.onnxruntime import open_onnxruntime

            return open_onnxruntime(folder, config, tasks, spec)
        case "openvino":
            from polyfold.runtimes.openvino import open_openvino

            return open_openvino(folder, config, tasks, spec)
        case "torch":
            if spec.bf16 or spec.threads is not None:
                raise InputError(
                    "threads and bf16 are not options of the torch runtime",
                    file=folder,
                    hint="leave them out (OMP_NUM_THREADS sets torch's threads), or export the model",
                )
            try:
                from polyfold.runtimes.torch import open_torch
            except ModuleNotFoundError as error:
                raise MissingExtra(error.name or "torch", "train") from None
            return open_torch(folder)
