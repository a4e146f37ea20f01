"""Compression steps, one a file."""
