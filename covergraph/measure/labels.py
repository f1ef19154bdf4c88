"""Labels as users have them, as the loss takes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from covergraph.errors import LabelError
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.losses import Loss, MarginLoss
from covergraph.measure.finite import require_finite
from covergraph.measure.reading import as_tensor, require_rows


def read_labels(labels: Any, rows: int, graph: ComputationGraph, loss: Loss | None, start: int) -> Tensor:
    """One label per sample: reals in double precision, whole numbers in int64; for the margin loss classes, (rows,).

    Classes may come as whole reals, in a column, or one-hot. Raises `LabelError`, `NonFiniteError`.
    """
    marks = as_tensor(labels, "labels", start)
    require_rows(marks, rows, start)
    marks = marks.double() if marks.is_floating_point() else marks.long()
    if isinstance(loss, MarginLoss):
        return _classes(marks, graph[graph.output].size, start)
    if marks.is_floating_point():
        require_finite({"the label": marks}, start)
    return marks


def _classes(marks: Tensor, outputs: int, start: int) -> Tensor:
    """Classes by number. What is no whole number stays, and is refused when a margin is asked for."""
    if marks.numel() == len(marks):
        marks = marks.reshape(-1)
    elif marks.shape[1:] == (outputs,):
        marks = _of_one_hot(marks, start)
    else:
        raise LabelError(
            f"measure: the batch that starts at sample {start} has {len(marks)} samples and labels of shape "
            f"{tuple(marks.shape)}; expected one label per sample"
        )
    return marks.long() if bool((marks == marks.round()).all()) and bool((marks.abs() < 2**62).all()) else marks


def _of_one_hot(marks: Tensor, start: int) -> Tensor:
    good = ((marks == 0) | (marks == 1)).all(1) & (marks.sum(1) == 1)
    if not bool(good.all()):
        row = int((~good).nonzero()[0])
        raise LabelError(
            f"measure: sample {start + row} has the label {marks[row].tolist()}, expected a class or a one-hot row; "
            "the error is of classes, so take the class that was observed"
        )
    return marks.argmax(1)
