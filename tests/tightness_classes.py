"""How tight are the entropies' radii? The farthest that two rules of a class are apart, over what the lemmas allow.

Values depend on the parameters linearly, so the farthest rule and the worst input are found in turn by singular
vectors; the parameters that change are those of one output, on which the lemmas' norms are Euclidean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from operation_cases import Case
from tightness import jacobian, spectral
from torch import Tensor

from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.interpreter import Context, apply
from covergraph.graph.node import Node
from covergraph.graph.weights import Weights
from covergraph.measure.layers import distance
from covergraph.rules.entropy import ClassEntropy, learned_entropy

ROUNDS = 40


def entropy(case: Case) -> ClassEntropy | None:
    """The entropies of the case's class, None if nothing is learned."""
    return learned_entropy(case.operation, case.node, graph(case)) if case.parameters else None


def graph(case: Case) -> ComputationGraph:
    """The node alone, with the shapes of its parameters."""
    slots = [Node(f"u{i}", op.Input(), (), shape) for i, shape in enumerate(case.slots)]
    inputs = [Node("x", op.Input(), (), ()), *slots]
    constants = {f"v.{role}": value for role, value in case.constants}
    weights = Weights(constants=constants, shapes={name: tuple(v.shape) for name, v in case.state.items()})
    return ComputationGraph([*inputs, case.node], "v", weights=weights)


def values_tightness(case: Case) -> float | None:
    """||R(h) - R_0(h)|| / (a sqrt(gain ||h||^2 + P)); None if nothing is learned."""
    found = entropy(case)
    return None if found is None else _Search(case, found).values()


def jacobians_tightness(case: Case) -> float | None:
    """||J - J_0||_op / (b sqrt(gain)); None if all rules of the class have one Jacobian."""
    found = entropy(case)
    return _Search(case, found).derivatives() if found is not None and found.derivative_count else None


@dataclass(frozen=True)
class _Search:
    case: Case
    entropy: ClassEntropy

    def values(self) -> float:
        h, best = self._start(), 0.0
        support = _support(self.case)
        for _ in range(ROUNDS):
            change = self._farthest(h, support)
            best = max(best, self._ratio(h, change))
            if not self.entropy.gain:
                break
            candidates = self._worst(h, change)
            h = max(candidates, key=lambda x: self._ratio(x, change))
            best = max(best, self._ratio(h, change))
        return best

    def derivatives(self) -> float:
        """Over changes of a single entry, which are the vertices of the ball of the 1-norm: this is the supremum."""
        h = self._start()
        before = self._jacobian(h, None)
        gaps = []
        for role, value in self.case.parameters:
            for place in range(value.numel()):
                change = {r: torch.zeros_like(v) for r, v in self.case.parameters}
                change[role].view(-1)[place] = 1.0
                b = distance(self.case.operation, self.case.node, change).b
                moved = spectral(self._jacobian(h, change) - before)
                gaps.append(moved / (b * math.sqrt(self.entropy.gain)) if b else moved)
        return max(gaps)

    def _start(self) -> list[Tensor]:
        """Negative numbers, where slopes act; what is special, as it is."""
        return [v[1:2] if i in self.case.special else -v[:1].abs() for i, v in enumerate(self.case.values())]

    def _value(self, h: list[Tensor], change: Mapping[str, Tensor] | None) -> Tensor:
        state = {f"v.{role}": v + (change[role] if change else 0) for role, v in self.case.parameters}
        constants = {f"v.{role}": v for role, v in self.case.constants}
        context = Context(state | constants)
        return apply(self.case.operation, self.case.node, h or [torch.zeros(1)], context)[:1].double()

    def _difference(self, h: list[Tensor], change: Mapping[str, Tensor]) -> Tensor:
        return (self._value(h, change) - self._value(h, None)).reshape(-1)

    def _ratio(self, h: list[Tensor], change: Mapping[str, Tensor]) -> float:
        """By the measured distance and the stated integers."""
        a = distance(self.case.operation, self.case.node, change).a
        square = sum(float(x.double().square().sum()) for x in h) if self.entropy.gain else 0.0
        allowed = a * math.sqrt(self.entropy.gain * square + self.entropy.positions)
        return float(self._difference(h, change).norm()) / allowed

    def _farthest(self, h: list[Tensor], support: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The unit change within the support that moves the value at h most."""

        def moved(flat: Tensor) -> Tensor:
            return self._difference(h, _placed(flat, support))

        sizes = sum(int(mask.sum()) for mask in support.values())
        matrix = jacobian(moved, torch.zeros(sizes, dtype=torch.float64))
        top: Tensor = torch.linalg.svd(matrix, full_matrices=False).Vh[0]
        return _placed(top, support)

    def _worst(self, h: list[Tensor], change: Mapping[str, Tensor]) -> Iterator[list[Tensor]]:
        """The inputs at which the change moves the value most: B h + c over sqrt(gain ||h||^2 + P)."""
        yield h
        matrix = jacobian(lambda x: self._difference([x], change), h[0]).reshape(-1, h[0].numel())
        root = math.sqrt(self.entropy.gain)
        if self.entropy.positions:
            offset = self._difference(h, change) - matrix @ h[0].reshape(-1)
            columns = torch.cat([matrix / root, offset[:, None] / math.sqrt(self.entropy.positions)], 1)
        else:
            columns = matrix
        top = torch.linalg.svd(columns, full_matrices=False).Vh[0]
        step = top[: h[0].numel()] / root
        if self.entropy.positions:
            last = float(top[-1]) / math.sqrt(self.entropy.positions)
            step = step / (last if abs(last) > 1e-6 else 1e-6)
        yield [step.reshape(h[0].shape)]
        yield [-step.reshape(h[0].shape)]

    def _jacobian(self, h: list[Tensor], change: Mapping[str, Tensor] | None) -> Tensor:
        return jacobian(lambda x: self._value([x], change), h[0]).reshape(self.case.node.size, -1)


def _placed(flat: Tensor, support: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Numbers at the support, zeros elsewhere."""
    parts = torch.split(flat, [int(mask.sum()) for mask in support.values()])
    return {
        role: torch.zeros(mask.shape, dtype=flat.dtype).masked_scatter(mask, part)
        for (role, mask), part in zip(support.items(), parts, strict=True)
    }


def _support(case: Case) -> dict[str, Tensor]:
    """Parameters on which the lemma's norm of the change is Euclidean: those of the first output, all scales."""
    return {role: _of_first_output(case.operation, role, value) for role, value in case.parameters}


def _of_first_output(operation: op.Operation, role: str, value: Tensor) -> Tensor:
    mask = torch.zeros(value.shape, dtype=torch.bool)
    match operation:
        case op.TransposedConvolution(groups=groups) if role == "weight":
            mask[: len(value) // groups, 0] = True
        case op.Embedding():
            mask[:, 0] = True
        case op.Linear() | op.Convolution() if role == "weight":
            mask[0] = True
        case _ if role in ("scale", "slope"):
            mask[...] = True
        case _:
            mask.view(-1)[0] = True
    return mask
