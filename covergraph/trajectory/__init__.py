"""What training revealed: the theorems of section 6 of docs/mathematics.md on a recorded `Trajectory`."""

from covergraph.trajectory.corollaries import corollary1, corollary2, corollary3
from covergraph.trajectory.covering import greedy_cover, intrinsic_dimension, manifold_cover
from covergraph.trajectory.dropout import Dropout
from covergraph.trajectory.empty_regions import theorem2, theorem2_sum
from covergraph.trajectory.first_layer_norm import first_layer_balance, first_layer_norm
from covergraph.trajectory.ledger import Assumption, Ledger, Statement
from covergraph.trajectory.patterns import patterns
from covergraph.trajectory.region_ledger import Consistency, assumption1
from covergraph.trajectory.robustness import Robustness, theorem3
from covergraph.trajectory.slices import LipschitzMap, lipschitz_map
from covergraph.trajectory.theorem1 import count_instances, theorem1, theorem1_batches, theorem1_gradient
from covergraph.trajectory.trajectory import Layer, Moments, Setting, Trajectory

__all__ = [
    "Assumption",
    "Consistency",
    "Dropout",
    "Layer",
    "Ledger",
    "LipschitzMap",
    "Moments",
    "Robustness",
    "Setting",
    "Statement",
    "Trajectory",
    "assumption1",
    "corollary1",
    "corollary2",
    "corollary3",
    "count_instances",
    "first_layer_balance",
    "first_layer_norm",
    "greedy_cover",
    "intrinsic_dimension",
    "lipschitz_map",
    "manifold_cover",
    "patterns",
    "theorem1",
    "theorem1_batches",
    "theorem1_gradient",
    "theorem2",
    "theorem2_sum",
    "theorem3",
]
