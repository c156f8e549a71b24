"""Accuracy per second: how far draws are from the posterior, against the CPU seconds that a sentence costs."""
