"""The one training loop, its objectives and teachers."""
