"""The command line; importing it defines every command, in the order in which --help lists them."""

from polyfold.cli import runs, predict, studies, benchmark  # isort: skip
from polyfold.cli.app import app, main

__all__ = ["app", "benchmark", "main", "predict", "runs", "studies"]
