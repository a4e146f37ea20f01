"""Texts to numbers: the queue, the batches, the models and their versions."""
