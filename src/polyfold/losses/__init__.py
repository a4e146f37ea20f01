"""Training losses: plain functions over tensors."""
