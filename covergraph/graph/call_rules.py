"""The rules of torch's own operations that stay calls (Lemma 20).

Most are affine for fixed indices and masks; the others are maxima, linear off their ties. None of them falls when an
entry grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import sympy
import torch
from torch import Tensor

from covergraph.errors import UnsupportedOperationError
from covergraph.graph.calls import CALLS, CallRule, Table, argument, shape, tensors
from covergraph.graph.operations import Call

ONE = sympy.Integer(1)
SOURCE = "Lemma 20 (calls)"


def _linear(varying: tuple[int, ...], lipschitz: Table) -> CallRule:
    return CallRule(varying, lipschitz=lipschitz, increasing=True, source=SOURCE)


def _root(entries: int) -> sympy.Expr:
    return sympy.sqrt(max(entries, 1))


def _refusal(operation: Call, found: str, remedy: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(f"rules: the call of {operation.target} {found}, which has no rule; {remedy}")


def _axis_size(operation: Call, tensor: int) -> int:
    """The size of a tensor along the call's `dim`."""
    sides = shape(operation, tensor) or (1,)
    return sides[argument(operation, "dim")]


def scatter_add(operation: Call) -> CallRule:
    """self, plus each entry of src added at one place, at most index.shape[dim] at the same one."""
    return _linear((0, 2), {0: ONE, 2: _root(_axis_size(operation, 1))})


def index_put(operation: Call) -> CallRule:
    """self, plus the values added at places; values broadcast, and places may repeat."""
    if argument(operation, "accumulate", False) is not True:
        raise _refusal(
            operation,
            "without accumulate=True is undefined where indices repeat",
            "accumulate into zeros, or select by a mask with torch.where",
        )
    last = len(tensors(operation)) - 1
    places = math.prod(math.prod(shape(operation, i)) for i in range(1, last))
    chosen = argument(operation, "indices")
    kept = [side for i, side in enumerate(shape(operation, 0)) if i >= len(chosen) or chosen[i] is None]
    copies = -(-places * math.prod(kept) // max(math.prod(shape(operation, last)), 1))
    return _linear((0, last), {0: ONE, last: _root(places * copies)})


def gather(operation: Call) -> CallRule:
    """Entries of self, each at most index.shape[dim] times."""
    return _linear((0,), {0: _root(_axis_size(operation, 1))})


def index(operation: Call) -> CallRule:
    """Entries of self, each at most once per index."""
    places = math.prod(math.prod(shape(operation, i)) for i in range(1, len(tensors(operation))))
    return _linear((0,), {0: _root(places)})


def cumsum(operation: Call) -> CallRule:
    """The lower triangular matrix of n ones, whose inverse is a difference: its norm is 1 / (2 sin(pi / (4n + 2)))."""
    return _linear((0,), {0: 1 / (2 * sympy.sin(sympy.pi / (4 * _axis_size(operation, 0) + 2)))})


def select(mask: int, *values: int) -> Callable[[Call], CallRule]:
    """Entries of the values where the mask says so; what broadcasts is copied."""

    def rule(operation: Call) -> CallRule:
        return _linear(values, _copies(operation, (mask, *values), values))

    return rule


def _copies(operation: Call, joined: tuple[int, ...], values: tuple[int, ...]) -> Table:
    """The square root of how often an entry of each value occurs when the joined tensors broadcast."""
    sides = [shape(operation, i) for i in joined]
    made = math.prod(torch.broadcast_shapes(*sides))  # type: ignore[no-untyped-call]
    return {i: _root(made // max(math.prod(shape(operation, i)), 1)) for i in values}


def embedding_bag(operation: Call) -> CallRule:
    """Sums or means of rows of a table; a bag holds at most n of the n indices, a row lies in at most n."""
    mode = argument(operation, "mode", 0)
    if mode not in (0, 1) or operation.output != 0:
        raise _refusal(operation, f"with mode {mode}, result {operation.output}", "take the sum or mean of the bags")
    if len(tensors(operation)) > 3:  # weights of the rows, of any sign and size
        return CallRule((0,), source=SOURCE)
    return _linear((0,), {0: sympy.Integer(max(math.prod(shape(operation, 1)), 1))})


def extremum(sign: int) -> Callable[[Call], CallRule]:
    """max(a, b), or min, entry by entry: linear while no difference a_i - b_i changes its sign."""

    def rule(operation: Call) -> CallRule:
        copies = _copies(operation, (0, 1), (0, 1))
        return CallRule(
            (0, 1),
            slopes={0: ONE, 1: ONE},
            quantity=lambda a, b: _smallest((a - b).abs()),
            text="distance of the two arguments of the maximum" if sign > 0 else "distance of the minimum's arguments",
            latex=r"\min_i |h_{0,i} - h_{1,i}|",
            lipschitz=copies,
            increasing=True,
            source=SOURCE,
        )

    return rule


def _smallest(values: Tensor) -> Tensor:
    return values.amin() if values.numel() else values.new_full((), torch.inf)


def scatter_reduce(operation: Call) -> CallRule:
    """Sums, means, maxima and minima of segments: of self and of the entries of src that go to one place."""
    reduce, dim = argument(operation, "reduce"), argument(operation, "dim")
    own = argument(operation, "include_self", True)
    if reduce in ("sum", "mean"):
        return _linear((0, 2), {0: ONE, 2: _root(_axis_size(operation, 1))})
    if reduce not in ("amax", "amin"):
        raise _refusal(operation, f"with reduce={reduce!r}", "reduce by sum, mean, amax or amin")
    sign = 1 if reduce == "amax" else -1
    return CallRule(
        (0, 2),
        slopes={2: sympy.sqrt(2)} | ({0: ONE} if own else {}),
        quantity=lambda start, places, src: segment_gap(sign * start, dim, places, sign * src, own),
        text=f"gap of the two {'largest' if sign > 0 else 'smallest'} entries of the segments",
        latex=r"\min_i |M_i - M_{2,i}|",
        lipschitz={0: ONE, 2: ONE},
        increasing=True,
        source=SOURCE,
    )


def segment_gap(start: Tensor, dim: int, places: Tensor, src: Tensor, own: bool) -> Tensor:
    """The smallest difference of the two largest entries of a segment; infinite if all have one entry at most."""
    if not places.dim():
        start, places, src = (t.reshape(1) for t in (start, places, src))
    src = src[tuple(slice(side) for side in places.shape)]  # the rest enters no segment
    sides = [None if axis == dim % start.dim() else side for axis, side in enumerate(places.shape)]
    start = start[tuple(slice(side) for side in sides)]
    if own:  # self is one entry more of each segment
        rows = torch.ones_like(start, dtype=places.dtype).cumsum(dim) - 1
        places, src = torch.cat([places, rows], dim), torch.cat([src, start], dim)
    empty = torch.full_like(start, -torch.inf)

    def largest(values: Tensor) -> Tensor:
        return empty.scatter_reduce(dim, places, values, "amax")

    top = largest(src)
    winner = src == top.gather(dim, places)
    winners = torch.zeros_like(start).scatter_add(dim, places, winner.to(start.dtype))
    second = torch.where(winners > 1, top, largest(torch.where(winner, -torch.inf, src)))
    alone = (winners <= 1) & (second == -torch.inf)
    return _smallest(torch.where(alone, torch.inf, torch.where(winners > 1, 0.0, top - second)))


CALLS.update(
    {
        "aten.scatter_add.default": scatter_add,
        "aten.index_put.default": index_put,
        "aten.gather.default": gather,
        "aten.index.Tensor": index,
        "aten.index_select.default": index,
        "aten.cumsum.default": cumsum,
        "aten.masked_fill.Scalar": select(1, 0),
        "aten.masked_fill.Tensor": select(1, 0, 2),
        "aten.where.ScalarOther": select(0, 1),
        "aten.where.ScalarSelf": select(0, 1),
        "aten.where.self": select(0, 1, 2),
        "aten._embedding_bag.default": embedding_bag,
        "aten.maximum.default": extremum(1),
        "aten.minimum.default": extremum(-1),
        "aten.scatter_reduce.two": scatter_reduce,
    }
)
