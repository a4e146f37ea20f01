"""ONNX Runtime over a plain export: `tokenizers`, batches in the order of the texts, padded to their longest.

`settings`: file (in the peer's folder), pad_id, pad_token, max_length.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from worker import Job, Scores, batches, decided, serve, split_tasks


class OnnxRuntime:
    """A session with its default options."""

    batch_sizes: Sequence[int] = (1, 8, 32, 64)

    def __init__(self, job: Job) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.tasks, settings = job.tasks, job.settings
        self.files: Sequence[Path] = [job.folder / settings["file"], job.folder / "tokenizer.json"]
        self.tokenizer = Tokenizer.from_file(str(self.files[1]))
        self.tokenizer.enable_truncation(settings["max_length"])
        self.tokenizer.enable_padding(pad_id=settings["pad_id"], pad_token=settings["pad_token"])
        self.session = onnxruntime.InferenceSession(self.files[0], providers=["CPUExecutionProvider"])

    def answer(self, texts: list[str], batch_size: int) -> object:
        return decided(self.tasks, self.scores(texts, batch_size))

    def scores(self, texts: list[str], batch_size: int) -> Scores:
        logits = []
        for batch in batches(texts, batch_size):
            encoded = self.tokenizer.encode_batch(batch)
            ids = np.array([one.ids for one in encoded], np.int64)
            mask = np.array([one.attention_mask for one in encoded], np.int64)
            logits.append(self.session.run(None, {"input_ids": ids, "attention_mask": mask})[0])
        return split_tasks(self.tasks, np.concatenate(logits))


if __name__ == "__main__":
    serve(OnnxRuntime)
