"""Runtimes, one a file; importing this package imports none of them."""
