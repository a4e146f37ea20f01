"""Fold many languages and many classification tasks into one small, fast model."""

__version__ = "0.1.0"
