"""Accuracy, speed, cost and the report."""
