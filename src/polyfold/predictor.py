"""Texts in, predictions out, over any runtime: what is measured is what is served.

    from polyfold.predictor import Predictor

    predictor = Predictor.open("model/")
    for prediction in predictor.predict(["Where is my parcel?", "最高です"]):
        print(prediction.labels, prediction.probabilities)

Only the runtime that the folder names is imported, so an ONNX Runtime or OpenVINO model runs without torch.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polyfold.artifact import ModelConfig, read_config
from polyfold.errors import InputError
from polyfold.overlap import one_ahead
from polyfold.predictions import Predictions
from polyfold.runtimes.choice import Choice
from polyfold.runtimes.opening import Device, RuntimeChoice, open_fastest, open_session
from polyfold.runtimes.session import Session, SessionSpec
from polyfold.system import give_memory_back
from polyfold.tasks import Task
from polyfold.text import Encoding, Tokenizer, open_tokenizer, pad_rows
from polyfold.text.shapes import plan_shapes

TOKEN_BUDGET = 4096
"""Tokens a batch, padding included: 32 documents of 128, or several hundred short ones."""

WINDOW = 16_384
"""Documents sorted by length together: enough for tight batches, few enough to keep memory flat."""

Thresholds = Mapping[str, Mapping[str, float] | float]
"""By multi-label task: one threshold for all its labels, or one by label (the others keep their tuned ones)."""


@dataclass(frozen=True)
class _Window:
    """Distinct texts as token ids; `positions` tells for every text which of them it is, None for its own."""

    encoding: Encoding
    positions: np.ndarray | None

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of the distinct texts for all texts."""
        return values if self.positions is None else values[self.positions]


@dataclass(frozen=True)
class Predictor:
    """A model folder, loaded; build it with `Predictor.open`. `choice` says how "auto" found its runtime."""

    folder: Path
    config: ModelConfig
    tasks: tuple[Task, ...]
    tokenizer: Tokenizer
    session: Session
    token_budget: int = TOKEN_BUDGET
    window: int = WINDOW
    choice: Choice | None = None

    @staticmethod
    def open(  # noqa: PLR0913  (settings, each given by its name)
        path: Path | str,
        *,
        runtime: RuntimeChoice | None = None,
        threads: int | None = None,
        bf16: bool = False,
        streams: int | None = None,
        token_budget: int = TOKEN_BUDGET,
        cache_dir: Path | None = None,
        device: Device = "cpu",
        spinning: bool = True,
    ) -> "Predictor":
        """Load a model folder on the runtime its `config.json` names, on a given one, or on the fastest ("auto").

        `threads` defaults to every core this process may use; `bf16` lets OpenVINO, and what runs on a GPU, use
        bfloat16; OpenVINO cuts a batch into `streams` parts (one a thread); `token_budget` bounds documents times
        longest in a batch, and so the memory; `cache_dir` keeps what OpenVINO and TensorRT compile; `device` is
        where torch, ONNX Runtime and TensorRT compute; ONNX Runtime's threads wait for work by `spinning`, which
        takes the cores from whatever else runs beside it.
        """
        for name, value in (("threads", threads), ("streams", streams), ("token_budget", token_budget)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", hint=f"{name} must be at least 1")
        folder = Path(path)
        config, tasks = read_config(folder)
        spec = SessionSpec(threads=threads, bf16=bf16, streams=streams, cache_dir=cache_dir, device=device)
        spec = spec if spinning else spec.model_copy(update={"spinning": False})
        if runtime == "auto":
            opened = open_fastest(folder, config, tasks, spec)
            session, choice = opened.session, opened.choice
        else:
            session, choice = open_session(folder, config, tasks, spec, runtime), None
        tokenizer = open_tokenizer(folder, config.tokenizer, threads)
        give_memory_back()
        return Predictor(folder, config, tasks, tokenizer, session, token_budget, choice=choice)

    def predict(
        self,
        texts: Sequence[str],
        tasks: Sequence[str] | None = None,
        thresholds: Thresholds | None = None,
    ) -> Predictions:
        """Predictions in the order of `texts`, for all tasks or those named.

        `thresholds` replace the tuned ones of multi-label tasks. Equal texts are computed once where they stand
        within `window` documents of each other. While one window is computed, the next is tokenized.
        """
        chosen = self._chosen(tasks)
        limits = self._limits(thresholds or {})
        logits, truncated = self._logits(texts, chosen)
        probabilities = {task.name: task.probabilities(logits[task.name]) for task in chosen}
        decided = {task.name: task.decide(probabilities[task.name], limits.get(task.name)) for task in chosen}
        return Predictions(tuple(chosen), probabilities, decided, truncated)

    def logits(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Uncalibrated logits by task, float32 [n, labels], in the order of `texts`."""
        return self._logits(texts, self.tasks)[0]

    def logits_of_ids(self, encoding: Encoding, tasks: Sequence[Task] | None = None) -> dict[str, np.ndarray]:
        """Logits by task (all, or some), float32 [n, labels], of documents that are already token ids."""
        wanted = self.tasks if tasks is None else tasks
        found = {task.name: np.empty((len(encoding), len(task.labels)), np.float32) for task in wanted}
        for batch in plan_shapes(encoding.lengths, self.token_budget, self.config.max_length):
            inputs = pad_rows(encoding, batch.rows, self.tokenizer.spec.pad_id, batch.width)
            logits = self.session.run(*inputs)
            for name, values in found.items():
                values[batch.rows] = logits[name]
        for name, values in found.items():
            if not np.isfinite(values).all():
                raise InputError(
                    "the model gives logits that are not numbers",
                    file=self.folder,
                    key=name,
                    hint="its weights are damaged, or bf16 does not suit it",
                )
        return found

    def _logits(self, texts: Sequence[str], tasks: Sequence[Task]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Logits by task and which texts were cut, in the order of `texts`."""
        _check_texts(texts)
        logits = {task.name: np.empty((len(texts), len(task.labels)), np.float32) for task in tasks}
        truncated = np.empty(len(texts), dtype=bool)
        with closing(self._windows(texts)) as windows:
            for start, window in zip(range(0, len(texts), self.window), windows, strict=True):
                rows = slice(start, start + self.window)
                for name, values in self.logits_of_ids(window.encoding, tasks).items():
                    logits[name][rows] = window.spread(values)
                truncated[rows] = window.spread(window.encoding.truncated)
        return logits, truncated

    def _windows(self, texts: Sequence[str]) -> Generator[_Window, None, None]:
        """`window` texts at a time, tokenized in the background one window ahead, so that ids never pile up."""
        parts = (texts[start : start + self.window] for start in range(0, len(texts), self.window))
        windows = map(self._window, parts)
        # A single window has nothing to be ahead of, and a thread would only cost its start.
        yield from windows if len(texts) <= self.window else one_ahead(windows)

    def _window(self, texts: Sequence[str]) -> _Window:
        distinct = dict.fromkeys(texts)
        positions = None
        if len(distinct) < len(texts):
            places = {text: place for place, text in enumerate(distinct)}
            positions = np.fromiter(map(places.__getitem__, texts), dtype=np.int64, count=len(texts))
        return _Window(self.tokenizer.encode(list(distinct), self.config.max_length), positions)

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
    if set(map(type, texts)) <= {str}:
        return
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
