"""Polyfold's own predictor over an exported folder. `settings`: folder, bf16."""

from collections.abc import Sequence
from pathlib import Path

from worker import Job, Scores, serve


class Polyfold:
    """What `polyfold.Predictor` answers; it chooses its batches itself."""

    batch_sizes: Sequence[int] = ()

    def __init__(self, job: Job) -> None:
        from polyfold.predictor import Predictor

        folder = Path(job.settings["folder"])
        self.files: Sequence[Path] = [folder]
        self.predictor = Predictor.open(folder, bf16=job.settings["bf16"])

    def answer(self, texts: list[str], batch_size: int) -> object:
        return self.predictor.predict(texts)

    def scores(self, texts: list[str], batch_size: int) -> Scores:
        logits = self.predictor.logits(texts)
        return {task.name: task.probabilities(logits[task.name]) for task in self.predictor.tasks}


if __name__ == "__main__":
    serve(Polyfold)
