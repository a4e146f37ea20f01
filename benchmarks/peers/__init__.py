"""Polyfold and its peers side by side in one run: see `__main__.py`."""
