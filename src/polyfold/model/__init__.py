"""Backbones and the multi-task classifier."""
