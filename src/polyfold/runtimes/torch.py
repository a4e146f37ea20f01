"""PyTorch as a runtime: the reference that the exports are compared with."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from polyfold.model.classifier import Classifier, load_model


class TorchSession:
    """A classifier in inference mode; on a GPU where there is one."""

    def __init__(self, classifier: Classifier) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._classifier = classifier.eval().to(self._device)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> Mapping[str, np.ndarray]:
        """Logits by task, float32 [batch, labels]."""
        # no_grad and not inference_mode: NNCF's fake quantizers are autograd functions that save their inputs.
        with torch.no_grad():
            ids = torch.from_numpy(input_ids).to(self._device)
            outputs = self._classifier(ids, torch.from_numpy(attention_mask).to(self._device))
        return {name: values.float().cpu().numpy() for name, values in outputs.logits.items()}


def open_torch(folder: Path) -> TorchSession:
    """Load a torch model folder, fake quantizers included."""
    return TorchSession(load_model(folder).classifier)
