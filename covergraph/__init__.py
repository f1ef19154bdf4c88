"""covergraph: a symbolic covering engine for neural networks."""

from covergraph.api import Analysis, TrajectoryRecorder, analyze
from covergraph.bound.certificate import Certificate
from covergraph.bound.choose import choose
from covergraph.bound.derive import Bound, derive
from covergraph.errors import CovergraphError
from covergraph.graph.calls import CallRule
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.functions import ScalarFunction
from covergraph.graph.losses import LipschitzLoss, MarginLoss
from covergraph.graph.node import Node
from covergraph.measure.measure import measure
from covergraph.passes.augment import augment
from covergraph.passes.coarsen import blocks, coarsen, merge_chains
from covergraph.rules.calls import register
from covergraph.tracers import TraceReport, trace, trace_report
from covergraph.trajectory.trajectory import Trajectory
from covergraph.values import Measurement, Measurements, Parameters

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "Bound",
    "CallRule",
    "Certificate",
    "ComputationGraph",
    "CovergraphError",
    "LipschitzLoss",
    "MarginLoss",
    "Measurement",
    "Measurements",
    "Node",
    "Parameters",
    "ScalarFunction",
    "TraceReport",
    "Trajectory",
    "TrajectoryRecorder",
    "analyze",
    "augment",
    "blocks",
    "choose",
    "coarsen",
    "derive",
    "measure",
    "merge_chains",
    "register",
    "trace",
    "trace_report",
]
