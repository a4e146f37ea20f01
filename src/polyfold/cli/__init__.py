"""The command line; importing it defines every command, in the order in which --help lists them."""

from polyfold.cli import runs, predict, studies, benchmark, serve, keys  # isort: skip
from polyfold.cli.app import app, main

__all__ = ["app", "benchmark", "keys", "main", "predict", "runs", "serve", "studies"]
