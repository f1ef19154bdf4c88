"""How much does a value react to one slot at the sample's values? A certified bound for every edge (Lemma 19).

Unlike the norms of pairs these need no dense Jacobian: `filled_norms` multiplies and adds them along the paths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph import operations as op
from covergraph.graph import rearrange
from covergraph.graph.calls import CALLS, call_rule, tensors
from covergraph.graph.interpreter import Context, apply, identity_tangents, tangent
from covergraph.graph.node import Node
from covergraph.measure.edges_weights import weight_ends
from covergraph.measure.norms import euclidean, rounding, spectral_norms
from covergraph.measure.roundings import DOUBLE

ENTRIES = 2**25
"""So many entries of dense matrices are held at once."""
SIDE = 512
"""Up to this smaller side a factor of a matrix product gets its spectral norm, else its Frobenius norm."""
Slots = Sequence[Tensor]


def edge_bound(operation: op.Operation, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    """An upper bound of the spectral norm of the Jacobian of `node` in one slot, per sample: (batch,).

    0 where there is no derivative: between integers and reals. Raises `UnsupportedOperationError` for an operation
    without a rule whose dense Jacobian is too large.
    """
    value = slots[slot]
    if node.kind == "integer" or not (value.is_floating_point() or value.is_complex()):
        return torch.zeros(len(value), dtype=context.dtype, device=value.device)
    return slot_bound(operation, node, slot, slots, context) * (1 + rounding(value.dtype, 1, 8))


@singledispatch
def slot_bound(operation: op.Operation, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    """`edge_bound` for a slot of reals; without a rule of its own, the norm of the dense Jacobian."""
    value = slots[slot]
    columns = value[0].numel()
    per_sample = columns * max(columns, node.size)
    if per_sample > ENTRIES:
        raise UnsupportedOperationError(
            f"node {node.name!r} ({node.origin or 'top level'}): {operation.label!r} has no bound for its edges, and "
            f"its Jacobian has {node.size} x {columns} entries, expected at most {ENTRIES} with its tangents; write it "
            "in terms of other operations, or measure the pairs themselves (fill=False)"
        )
    parts = range(0, len(value), max(1, ENTRIES // max(per_sample, 1)))
    return torch.cat([_dense(node, slot, [s[i : i + parts.step] for s in slots], context) for i in parts])


@slot_bound.register
def _(operation: op.Call, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    """||J||^2 is at most the largest row sum times the largest column sum, if no entry is negative (Lemma 20)."""
    rule = call_rule(operation) if operation.target in CALLS else None
    filled = [] if rule is None else [i for i in rule.varying if tensors(operation)[i] == slot]
    if rule is None or not rule.increasing or not filled:
        return slot_bound.dispatch(op.Operation)(operation, node, slot, slots, context)
    with torch.enable_grad():
        value = slots[slot].detach().requires_grad_()
        total = apply(operation, node, [*slots[:slot], value, *slots[slot + 1 :]], context).sum()
        (columns,) = torch.autograd.grad(total, value)
    ones = [torch.ones_like(v).unsqueeze(1) if i == slot else None for i, v in enumerate(slots)]
    rows = tangent(operation, node, slots, ones, context)
    schur = (rows.reshape(len(value), -1).amax(1) * columns.reshape(len(value), -1).amax(1)).sqrt()
    worst = sum(float(rule.lipschitz.get(i, math.inf)) for i in filled)
    return schur.clamp_max(worst) * (1 + torch.finfo(value.dtype).eps * (node.size + value[0].numel()))


def _dense(node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    tangents = [identity_tangents(value) if i == slot else None for i, value in enumerate(slots)]
    jacobian = tangent(node.operation, node, slots, tangents, context).flatten(2)
    return spectral_norms(jacobian) * (1 + rounding(jacobian.dtype, *jacobian.shape[1:]))


def _constant(slots: Slots, slot: int, bound: float) -> Tensor:
    return slots[slot].new_full((len(slots[slot]),), bound)


def _largest(entries: Tensor) -> Tensor:
    return entries.abs().reshape(len(entries), -1).amax(1)


@slot_bound.register(op.Linear)
@slot_bound.register(op.Convolution)
@slot_bound.register(op.TransposedConvolution)
@slot_bound.register(op.AxisMap)
@slot_bound.register(op.Affine)
def _(operation: op.Operation, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    if isinstance(operation, op.Affine) and not operation.scale:
        return _constant(slots, slot, 1.0)
    return _constant(slots, slot, weight_ends(node, tuple(slots[slot].shape[1:]), context).upper)


@slot_bound.register(op.Add)
@slot_bound.register(op.Subtract)
@slot_bound.register(op.Concatenate)
@slot_bound.register(op.Reshape)
@slot_bound.register(op.Maximum)
@slot_bound.register(op.VectorNorm)
def _(operation: op.Operation, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    return _constant(slots, slot, 1.0)


@slot_bound.register
def _(operation: op.Sum, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    terms = slots[slot][0].numel() // max(node.size, 1)
    return _constant(slots, slot, terms ** (-0.5 if operation.mean else 0.5))


@slot_bound.register
def _(operation: op.Rearrange, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    return _constant(slots, slot, math.sqrt(rearrange.most_copies(operation.steps, tuple(slots[slot].shape[1:]))))


@slot_bound.register
def _(operation: op.AveragePool, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    sides = slots[slot].shape[-len(operation.kernel) :]
    axes = zip(operation.kernel, operation.stride, operation.padding, sides, strict=True)
    flags = (operation.ceil_mode, operation.count_include_pad)
    return _constant(slots, slot, math.prod(_pool_norm(*axis, *flags) for axis in axes))


@cache
def _pool_norm(kernel: int, stride: int, padding: int, side: int, ceil_mode: bool, include: bool) -> float:
    """The norm of average pooling along one axis; that along several is the Kronecker product (Lemma 7)."""
    if side**2 > ENTRIES:
        whole = include and not ceil_mode
        return math.sqrt(-(-kernel // stride) / (kernel if whole else 1))
    one = torch.eye(side, dtype=torch.float64)[:, None]
    matrix = F.avg_pool1d(one, kernel, stride, padding, ceil_mode, include).transpose(0, 1)
    return float(spectral_norms(matrix)[0]) * (1 + rounding(matrix.dtype, *matrix.shape))


@slot_bound.register
def _(operation: op.MaxPool, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    """An entry can be the largest in every window that holds it."""
    sides = zip(operation.kernel, operation.stride, operation.dilation, strict=True)
    return _constant(slots, slot, math.sqrt(math.prod(-(-k * math.gcd(s, d) // s) for k, s, d in sides)))


@slot_bound.register
def _(operation: op.Elementwise, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    slope = operation.function.derivative(slots[slot])
    return _largest(slope.abs() + operation.function.slope_error(slots[slot], slope))


@slot_bound.register
def _(operation: op.ParametricReLU, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    slope = context.parameter(node, "slope")
    return _largest(torch.where(slots[slot] > 0, torch.ones_like(slots[slot]), slope))


@slot_bound.register
def _(operation: op.Product, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    return _largest(slots[1 - slot])


@slot_bound.register
def _(operation: op.Divide, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    numerator, denominator = slots
    return _largest(1 / denominator if slot == 0 else numerator / denominator / denominator)


@slot_bound.register
def _(operation: op.MatrixProduct, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    """The largest norm among the other slot's matrices."""
    other = slots[1 - slot].flatten(1, -3) if slots[1 - slot].dim() > 3 else slots[1 - slot].unsqueeze(1)
    matrices = other.reshape(-1, *other.shape[-2:])
    if min(matrices.shape[1:]) <= SIDE:
        parts = torch.split(matrices, max(1, ENTRIES // matrices[0].numel()))
        norms = torch.cat([spectral_norms(part) for part in parts])
    else:
        norms = euclidean(matrices.flatten(1))
    return norms.reshape(len(other), -1).amax(1) * (1 + rounding(other.dtype, *other.shape[-2:]))


@slot_bound.register
def _(operation: op.Softmax, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    """||diag(p) - p p'|| <= min(1/2, max p, 2 max p_i (1 - p_i)); ||I - 1 p'|| = sqrt(d) ||p||."""
    value = apply(operation, node, slots, context)
    p, terms = (value.exp() if operation.log else value), value.shape[operation.axis + 1]
    if operation.log:
        norm = math.sqrt(terms) * _largest(p.norm(dim=operation.axis + 1))
    else:
        norm = torch.minimum(2 * _variance(p, operation.axis + 1), _largest(p)).clamp_max(0.5)
    copies = p[0].numel() / max(slots[slot][0].numel(), 1)  # a mask that is the same for all heads
    wrong = 4 * softmax_error(operation, node, slots, context) + rounding(p.dtype, 1, terms)
    return norm * math.sqrt(copies) * (1 + wrong)


def softmax_error(operation: op.Softmax, node: Node, slots: Slots, context: Context) -> Tensor:
    """Relative error of the entries of a softmax or of exp(log softmax), (batch,); those below 1e-300 count as 0.

    A score s = s_0 + s_1 + mask is off by 4 u (|s_0| + |s_1| + |mask|), and so is its difference to the largest one.
    Scores that are far below the largest, as those of masks, do not count.
    """
    terms = [*slots, context.parameter(node, "mask").double()] if "mask" in node.parameter else list(slots)
    scores, size = terms[0], terms[0].abs()
    for term in terms[1:]:
        scores, size = scores + term, size + term.abs()
    axis = operation.axis + 1
    near = scores + 4 * DOUBLE.unit * size >= scores.amax(axis, keepdim=True) - 1500
    top = _largest(torch.where(near, size, 0.0)).clamp_max(2.0**49)
    return torch.expm1(8 * DOUBLE.unit * (2 * top + (2 * top).clamp_max(750))) + DOUBLE.gamma(scores.shape[axis] + 16)


def _variance(p: Tensor, axis: int) -> Tensor:
    """max p_i (1 - p_i) of each sample; for the largest p_i the others are added, as 1 - p_i would cancel."""
    top, place = p.max(axis, keepdim=True)
    others = p.scatter(axis, place, 0.0)
    return torch.maximum(_largest(top * others.sum(axis, keepdim=True)), _largest(others * (1 - others)))


@slot_bound.register
def _(operation: op.Normalize, node: Node, slot: int, slots: Slots, context: Context) -> Tensor:
    """1 / r times a projection and a contraction, r = sqrt(var + eps)."""
    x = slots[slot].reshape(len(slots[slot]), -1, operation.group)
    y = x - x.mean(2, keepdim=True) if operation.center else x
    r = (y.square().mean(2) + operation.eps).sqrt()
    lost = 4 * operation.group * torch.finfo(x.dtype).eps * x.abs().amax(2)  # to cancellation
    r = (r - lost).clamp_min(math.sqrt(operation.eps)).amin(1)
    return (1 + rounding(x.dtype, 1, operation.group)) / r
