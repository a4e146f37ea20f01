"""PyTorch as a runtime: the reference that the exports are compared with, and the fast one on a GPU.

On a processor a model runs in fp32 with torch's fused attention. On a GPU encoders of BERT's family run without
padding in half precision, small batches as recorded graphs; int8 and fp8 are there to be asked for. A model with
fake quantizers runs as it was trained: in fp32, its attention spelled out.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from polyfold.batch import Outputs
from polyfold.errors import InputError
from polyfold.model.backbone import Transformer, prefer_plain_attention
from polyfold.model.classifier import Classifier, load_model
from polyfold.model.first_token import first_token_outputs, readable
from polyfold.model.quantized import is_quantized
from polyfold.runtimes.cuda_graphs import GraphRunner, rectangles
from polyfold.runtimes.low_precision import check_capability, to_eight_bits
from polyfold.runtimes.session import Session, SessionSpec
from polyfold.runtimes.varlen import (
    Packed,
    PackedClassifier,
    can_attend_at_once,
    can_pack,
    pack,
    padding_of,
    unflat,
)

Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8"]

DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    # What is not a product with a weight.
    "int8": torch.bfloat16,
    "fp8": torch.bfloat16,
}


class TorchOptions(BaseModel):
    """What only this runtime can be told. All but fp32 need a GPU.

    `int8` and `fp8` quantize linear layers of a float model as it is loaded, the rest stays bf16. `unpadded` packs
    documents end to end; unless said, wherever the kernel takes the model. `compiled` hands the model to
    `torch.compile` with dynamic shapes: the first batches take seconds to minutes. `graphs` records small unpadded
    batches as CUDA graphs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Precision = "fp32"
    unpadded: bool | None = None
    compiled: bool = False
    graphs: bool = True


class TorchSession:
    """A classifier over padded batches, without gradient; any family, with or without fake quantizers.

    In half precision a transformer's weights are cast; the embedded encoder, which mixes its own precisions, runs
    under autocast.
    """

    def __init__(
        self,
        classifier: Classifier,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        self._device = torch.device(device)
        quantized = is_quantized(classifier)
        # NNCF's fake quantizers are autograd functions that save their inputs, which inference mode forbids.
        self._without_gradient = torch.no_grad if quantized else torch.inference_mode
        cast = dtype if isinstance(classifier.encoder, Transformer) else torch.float32
        self._module = module = classifier.eval().to(device=self._device, dtype=cast)
        self._autocast = dtype if cast != dtype else None
        self._call: Callable[..., Outputs] = module
        if compiled:
            self._call = torch.compile(module, dynamic=True)
        elif self._device.type == "cpu" and readable(module):
            # It asks the mask whether anything is padded, and a GPU would be waited for.
            self._call = partial(first_token_outputs, module)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Mapping[str, np.ndarray]:
        """Logits by task, float32 [batch, labels]."""
        found = self.logits(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Mapping[str, Tensor]:
        """The same with tensors on both sides; what comes back is on the session's device."""
        autocast = torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None)
        with self._without_gradient(), autocast:
            return self._call(input_ids.to(self._device), attention_mask.to(self._device)).logits


class PackedSession:
    """A classifier of BERT's family without padding: what a session is given padded is packed on the way in."""

    def __init__(
        self, classifier: Classifier, device: str | torch.device, max_length: int, options: TorchOptions
    ) -> None:
        self._device = torch.device(device)
        self._pad_id = padding_of(classifier)
        self._module = PackedClassifier(classifier).cast(self._device, DTYPES[options.precision])
        if options.precision in ("int8", "fp8"):
            to_eight_bits(self._module.layers, options.precision)
        self._call: Callable[..., Tensor] = self._module
        if options.compiled:
            self._call = torch.compile(self._module, dynamic=True)
        self._graphs = None
        if options.graphs and self._device.type == "cuda":
            self._graphs = GraphRunner(self._call, self._device, rectangles(max_length))

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Mapping[str, np.ndarray]:
        """Logits by task, float32 [batch, labels]."""
        return self._module.split(self.logits(self.pack(input_ids, attention_mask)).cpu().numpy())

    def pack(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Packed:
        """A padded batch without its padding, positions numbered as this model numbers them."""
        return pack(input_ids, attention_mask, self._pad_id)

    @torch.inference_mode()
    def logits(self, batch: Packed) -> Tensor:
        """Logits of all tasks side by side, fp32 [documents, labels], on the device until the next call."""
        found = self._graphs.run(batch) if self._graphs is not None else None
        if found is None:
            flat = batch.flat().to(self._device)
            found = self._call(*unflat(flat, len(batch.ids)), batch.longest)
        return found

    @torch.inference_mode()
    def resident(self, batch: Packed) -> Callable[[], Tensor]:
        """A call that computes this batch again, all it reads being on the device: what the device alone takes."""
        replay = self._graphs.resident(batch) if self._graphs is not None else None
        inputs = unflat(batch.flat().to(self._device), len(batch.ids))

        @torch.inference_mode()
        def again() -> Tensor:
            return replay() if replay is not None else self._call(*inputs, batch.longest)

        return again

    def flops(self, batch: Packed) -> int:
        """Operations of the matrix products for this batch."""
        return self._module.flops(np.diff(batch.starts))


def open_torch(folder: Path, spec: SessionSpec, options: TorchOptions | None = None) -> Session:
    """Load a torch model folder, fake quantizers included, on `spec.device`; `options` go beyond what `spec` says.

    Threads are refused: torch has one number of them for the whole process, which is not one session's to set.
    """
    if spec.threads is not None:
        raise InputError(
            "threads are no option of the torch runtime: it has one number of them for the whole process",
            file=folder,
            hint="leave it out and set OMP_NUM_THREADS, or export the model",
        )
    if spec.streams not in (None, 1):
        raise InputError("the torch runtime has one stream", file=folder, hint="leave streams out")
    loaded = load_model(folder)
    chosen = options or TorchOptions(precision="bf16" if spec.bf16 else "fp32")
    return torch_session(loaded.classifier, loaded.max_length, spec.device, chosen)


def torch_session(classifier: Classifier, max_length: int, device: str, options: TorchOptions) -> Session:
    """The fastest session that these options allow; InputError where the machine or the model does not.

    The classifier is the session's from here on: it is moved, cast, and its attention replaced.
    """
    check_options(classifier, device, options)
    dtype = DTYPES[options.precision]
    if is_quantized(classifier):
        # Quantizers of attention's products sit on operations that the fused attention does not run.
        prefer_plain_attention(classifier.encoder)
        return TorchSession(classifier, device, dtype, options.compiled)
    unpadded = options.unpadded
    if unpadded is None:
        unpadded = options.precision in ("int8", "fp8") or (
            can_pack(classifier) and can_attend_at_once(torch.device(device), dtype, _head_size(classifier))
        )
    if unpadded:
        return PackedSession(classifier, device, max_length, options)
    prefer_fused_attention(classifier.encoder)
    return TorchSession(classifier, device, dtype, options.compiled)


def check_options(classifier: Classifier, device: str, options: TorchOptions) -> None:
    """InputError where the options suit neither this machine nor this model."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device cuda was asked for, and torch sees no GPU",
            key="device",
            hint="use device cpu, or a torch built for CUDA on a machine that has one",
        )
    if options.precision != "fp32":
        if device != "cuda":
            raise InputError(
                f"{options.precision} in the torch runtime needs a GPU",
                key="device",
                hint="give device cuda; on a processor OpenVINO computes in bf16 and int8",
            )
        if is_quantized(classifier):
            raise InputError(
                f"this model has fake quantizers, which compute in fp32 and not in {options.precision}",
                hint="export it; or give the model as it was before the step that quantizes",
            )
    if options.precision in ("int8", "fp8"):
        check_capability(options.precision, torch.cuda.get_device_capability())
    if (options.unpadded or options.precision in ("int8", "fp8")) and not can_pack(classifier):
        raise InputError(
            "only float encoders of the families bert, roberta and xlm-roberta run without padding",
            hint="leave `unpadded` out, and use bf16",
        )


def prefer_fused_attention(encoder: nn.Module) -> None:
    """Let a transformer use torch's scaled-dot-product attention, which never writes the scores to memory."""
    if isinstance(encoder, Transformer):
        encoder.encoder.set_attn_implementation("sdpa")  # type: ignore[operator]


def _head_size(classifier: Classifier) -> int:
    from polyfold.model.layout import layout_of, sizes_of

    encoder = classifier.encoder.encoder
    assert isinstance(encoder, nn.Module)
    return sizes_of(encoder, layout_of(str(encoder.config.model_type))).head_size  # type: ignore[union-attr]
