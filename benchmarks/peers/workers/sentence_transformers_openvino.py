"""sentence-transformers' OpenVINO backend in int8: its own export and static quantization, linear heads on top.

`settings`: folder (a stock folder, of which the encoder is taken), heads (arrays over the first token's state),
and calibration (texts to quantize with). The library pads its calibration texts to 384 tokens.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linear import load_heads
from worker import Job, Scores, decided, serve, split_tasks

MODEL = "model"
QUANTIZED = "openvino/openvino_model_qint8_quantized.xml"


class SentenceTransformerInt8:
    """Embeddings, which the library sorts by length and batches itself, and one matrix product for all tasks."""

    batch_sizes: Sequence[int] = (1, 8, 32, 64)

    def __init__(self, job: Job) -> None:
        from sentence_transformers import SentenceTransformer

        self.tasks = job.tasks
        folder, heads = job.folder / MODEL, Path(job.settings["heads"])
        self.weights, self.biases = load_heads(heads)
        self.model = SentenceTransformer(
            str(folder), backend="openvino", device="cpu", model_kwargs={"file_name": QUANTIZED}
        )
        graph = folder / QUANTIZED
        self.files: Sequence[Path] = [graph, graph.with_suffix(".bin"), folder / "tokenizer.json", heads]

    def answer(self, texts: list[str], batch_size: int) -> object:
        return decided(self.tasks, self.scores(texts, batch_size))

    def scores(self, texts: list[str], batch_size: int) -> Scores:
        features = self.model.encode(texts, batch_size=batch_size, show_progress_bar=False)
        return split_tasks(self.tasks, features @ self.weights + self.biases)


def _prepare(job: Job) -> None:
    from sentence_transformers import SentenceTransformer, export_static_quantized_openvino_model

    folder = job.folder / MODEL
    _written(job, folder)
    model = SentenceTransformer(str(folder), backend="openvino", device="cpu", model_kwargs={"export": True})
    texts = job.folder / "calibration"
    texts.mkdir(exist_ok=True)
    chosen = job.sample("train")["texts"][: job.settings["calibration"]]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in chosen]
    (texts / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    export_static_quantized_openvino_model(
        model, None, str(folder), dataset_name=str(texts), dataset_config_name="default", dataset_split="train",
        column_name="text",
    )  # fmt: skip


def _written(job: Job, folder: Path) -> None:
    """The encoder as a sentence-transformers folder that pools the first token."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder: Any = Transformer(job.settings["folder"])
    pooling = Pooling(encoder.get_embedding_dimension(), "cls")
    SentenceTransformer(modules=[encoder, pooling], device="cpu").save_pretrained(str(folder))


if __name__ == "__main__":
    serve(SentenceTransformerInt8, _prepare)
