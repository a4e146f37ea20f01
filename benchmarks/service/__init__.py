"""Load and faults of `polyfold serve`, measured from outside: see `__main__.py`."""
