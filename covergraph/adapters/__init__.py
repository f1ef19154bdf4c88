"""Callbacks that put a TrajectoryRecorder around the training loops of other packages.

`covergraph.adapters.lightning` needs Lightning, `covergraph.adapters.transformers` Hugging Face transformers; neither
is imported by anything else.
"""
