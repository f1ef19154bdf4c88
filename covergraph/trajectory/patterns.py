"""Activation patterns of a chain of affine maps and ReLUs: which neurons are active, and the slope there.

On such a chain the logit g is linear wherever the pattern is constant, and ∇_x g = W_1ᵀ S_1 W_2ᵀ S_2 … W_dᵀ is linear
in s(x) = s_{d-1}(x) ⊗ … ⊗ s_1(x). That product has Π n_l entries and is never built: layers are kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from covergraph.errors import TrajectoryError
from covergraph.graph.node import Node
from covergraph.graph.operations import FIXED_LINEAR, Affine, Convolution, Elementwise, Linear, TransposedConvolution
from covergraph.kinds import REGIONS, require
from covergraph.values import Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from covergraph.graph.computation_graph import ComputationGraph

BLOCK = 1024
"""Samples that are run at once."""


@dataclass(frozen=True)
class Chain:
    """Names of the ReLU nodes in order, their sizes n_l, the node of the logit g, and whether f = sigmoid(g)."""

    relus: tuple[str, ...]
    sizes: tuple[int, ...]
    logit: str
    sigmoid: bool


@dataclass(frozen=True)
class Patterns:
    """Of m samples: layers[l] (m, n_l) = 1[h_l > 0], lam (m,) = ‖∇_x f‖, logits (m,) = g, and whether f = sigmoid(g).

    `single`: computed in less than double precision.
    """

    layers: tuple[NDArray[np.bool_], ...] = field(repr=False)
    lam: Floats
    logits: Floats
    sigmoid: bool
    single: bool = False

    def __len__(self) -> int:
        return len(self.lam)

    def __getitem__(self, rows: Any) -> Patterns:
        layers = tuple(layer[rows] for layer in self.layers)
        return Patterns(layers, self.lam[rows], self.logits[rows], self.sigmoid, self.single)

    @property
    def outputs(self) -> Floats:
        """f (m,)."""
        return np.exp(-np.logaddexp(0, -self.logits)) if self.sigmoid else self.logits

    @property
    def indecision(self) -> Floats:
        """min(f, 1 - f) (m,) of a sigmoid, without the cancellation of 1 - f."""
        return np.exp(-np.logaddexp(0, np.abs(self.logits)))

    def distinct(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows that have the distinct patterns, and for each sample the position of its pattern among these."""
        if not self.layers:
            return np.zeros(min(len(self), 1), dtype=np.intp), np.zeros(len(self), dtype=np.intp)
        packed = np.concatenate([np.packbits(layer, axis=1) for layer in self.layers], axis=1)
        keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1])))[:, 0]
        _, rows, positions = np.unique(keys, return_index=True, return_inverse=True)
        return rows, positions


def chain(graph: ComputationGraph) -> Chain:
    """The graph as a chain of affine maps and ReLUs with a scalar output, the last operation perhaps a sigmoid.

    Raises `TrajectoryError` naming the first node that is something else.
    """
    if not graph.sequential:
        odd = next((n for i, n in enumerate(graph.nodes[1:]) if n.inputs != (graph.nodes[i].name,)), graph.nodes[-1])
        raise TrajectoryError(_refusal(odd, "the graph is no chain (skip connection or several inputs)"))
    relus, last = [], graph[graph.output]
    sigmoid = _function(last) == "sigmoid"
    for node in graph.nodes[1 : len(graph) - sigmoid]:
        if _function(node) == "relu":
            relus.append(node)
        elif not _affine(node):
            raise TrajectoryError(_refusal(node, f"{node.operation.label} is neither affine nor a ReLU"))
    if last.size != 1:
        raise TrajectoryError(_refusal(last, f"the output has {last.size} entries, expected one"))
    logit = last.inputs[0] if sigmoid else last.name
    return Chain(tuple(n.name for n in relus), tuple(n.size for n in relus), logit, sigmoid)


def patterns(graph: ComputationGraph, model: nn.Module | Mapping[str, Tensor], X: Tensor) -> Patterns:
    """Patterns, slopes and logits of the samples X (m, *shape), under the parameters of `model` (or a state).

    Raises `TrajectoryError` where the graph is no chain of affine maps and ReLUs with a scalar output, or a slope or a
    logit is not finite.
    """
    require("patterns", REGIONS, graph=graph, model=model, X=X)
    found, state = chain(graph), graph.state(model)
    types = {value.dtype for value in state.values() if value.is_floating_point()} or {X.dtype}
    if not len(X) or X.dtype not in types:
        raise TrajectoryError(
            f"activation patterns: samples of shape {tuple(X.shape)} and type {X.dtype}, expected at least one, of the "
            f"parameters' type {', '.join(map(str, sorted(types, key=str)))}; convert them by X.to(...)"
        )
    parts = [_block(graph, state, found, part) for part in torch.split(X.detach(), BLOCK)]
    layers = tuple(np.concatenate([part[2][i] for part in parts]) for i in range(len(found.relus)))
    lam, logits = (np.concatenate([part[i] for part in parts]) for i in range(2))
    odd = np.flatnonzero(~np.isfinite(lam + logits))
    if len(odd):
        raise TrajectoryError(
            f"activation patterns: at {len(odd)} of {len(X)} samples, the first at position {odd[0]}, the output or "
            f"its slope is not finite ({logits[odd[0]]:g}, {lam[odd[0]]:g}); drop these samples, or take a model that "
            "has not diverged"
        )
    return Patterns(layers, lam, logits, found.sigmoid, X.dtype != torch.float64)


def _block(
    graph: ComputationGraph, state: Mapping[str, Tensor], found: Chain, X: Tensor
) -> tuple[Floats, Floats, list[NDArray[np.bool_]]]:
    """Slopes, logits and layers of one block. The slope of a sigmoid is f(1-f)‖∇g‖: it does not cancel to 0."""
    with torch.enable_grad():
        X = X.clone().requires_grad_()
        values = graph.run({name: value.detach() for name, value in state.items()}, X)
        g = values[found.logit].reshape(len(X))
        (gradient,) = torch.autograd.grad(g.sum(), X)
    lam = gradient.flatten(1).norm(dim=1).double().cpu().numpy()
    logits = g.detach().double().cpu().numpy()
    if found.sigmoid:
        lam = lam * np.exp(-np.logaddexp(0, logits) - np.logaddexp(0, -logits))
    return lam, logits, [(values[name].detach() > 0).flatten(1).cpu().numpy() for name in found.relus]


def inner(a: Patterns, b: Patterns) -> NDArray[Any]:
    """⟨s(x_i), s(x_j)⟩ = Π_l ⟨s_l(x_i), s_l(x_j)⟩ (len(a), len(b)), exact: int64, or Python's integers."""
    bits = sum(math.log2(max(layer.sum(axis=1).max(initial=1), 1)) for layer in a.layers)
    product: NDArray[Any] = np.ones((len(a), len(b)), dtype=np.int64 if bits < 61 else object)
    for left, right in zip(a.layers, b.layers, strict=True):
        counts = (left.astype(np.float64) @ right.astype(np.float64).T).astype(np.int64)  # below 2**53: exact
        product = product * counts.astype(product.dtype)
    return product


def _function(node: Node) -> str:
    return node.operation.function.name if isinstance(node.operation, Elementwise) else ""


def _affine(node: Node) -> bool:
    """Affine in the node's one input; a mask's dropped entries are affine, too."""
    if isinstance(node.operation, Elementwise):
        return node.operation.function.is_affine
    return isinstance(node.operation, (Linear, Convolution, TransposedConvolution, Affine, *FIXED_LINEAR))


def _refusal(node: Node, reason: str) -> str:
    place = f" ({node.origin})" if node.origin else ""
    return (
        f"activation patterns: node {node.name!r}{place} is not covered: {reason}. Expected affine layers and ReLUs in "
        "one chain with one output, the last operation perhaps a sigmoid; the patterns of other networks are not stated"
    )
