"""A stock classification folder to ONNX, as `torch.onnx.export` writes it, and to ONNX Runtime's dynamic int8.

`settings.folder` holds the stock model. Writes model.onnx, or model_int8.onnx where `settings.int8`, and the
tokenizer. This is a preparation: it is not asked anything afterwards.
"""

import shutil
import warnings
from pathlib import Path

from worker import Job, serve

OPSET = 17


def _prepare(job: Job) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    source = Path(job.settings["folder"])
    model = AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()
    model.config.return_dict = False

    class Logits(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = model(input_ids=input_ids, attention_mask=attention_mask)[0]
            return logits

    ids = torch.full((2, 16), 5, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    both = {0: "batch", 1: "seq"}
    target = job.folder / "model.onnx"
    wrapped = Logits()
    wrapped.model = model
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapped.eval(), (ids, mask), str(target), input_names=["input_ids", "attention_mask"],
            output_names=["logits"], opset_version=OPSET, dynamo=False,
            dynamic_axes={"input_ids": both, "attention_mask": both, "logits": {0: "batch"}},
        )  # fmt: skip
    shutil.copy(source / "tokenizer.json", job.folder / "tokenizer.json")
    if job.settings["int8"]:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(target, job.folder / "model_int8.onnx", weight_type=QuantType.QInt8)
        target.unlink()


if __name__ == "__main__":
    serve(lambda job: None, _prepare)  # type: ignore[arg-type,return-value]
