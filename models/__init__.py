"""Networks and small data sets for the demo, the tests and the experiments; installed as ``covergraph.models``."""

from __future__ import annotations

# Imported as top-level `models`, every class would exist twice and isinstance checks would fail far from here.
if not __name__.startswith("covergraph."):
    raise ImportError(f"imported as {__name__!r}, expected 'covergraph.models': write `import covergraph.models`")

from covergraph.models.convolutional import ConvNet, PooledConvNet
from covergraph.models.demo import DEMO, NETWORKS, DemoNetwork
from covergraph.models.digits import load_digits
from covergraph.models.mlp import MLP
from covergraph.models.recurrent import RowGRU
from covergraph.models.residual import ResidualMLP
from covergraph.models.training import error, train
from covergraph.models.transformer import VisionTransformer

__all__ = [
    "DEMO",
    "MLP",
    "NETWORKS",
    "ConvNet",
    "DemoNetwork",
    "PooledConvNet",
    "ResidualMLP",
    "RowGRU",
    "VisionTransformer",
    "error",
    "load_digits",
    "train",
]
