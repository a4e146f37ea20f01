"""Fold many languages and many classification tasks into one small, fast model."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]

if TYPE_CHECKING:
    from polyfold.predictor import Predictor


def __getattr__(name: str) -> Any:
    """`polyfold.Predictor`, imported when it is first asked for: `polyfold --help` does without numpy."""
    if name != "Predictor":
        raise AttributeError(f"module 'polyfold' has no attribute '{name}'")
    from polyfold.predictor import Predictor

    return Predictor
