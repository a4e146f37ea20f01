"""Labelled texts from files: sources, preparation, checks."""
