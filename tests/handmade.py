"""Networks written twice, as modules and as graphs, so that one can be tested against the other.

A module's `forward` is plain torch. `Marked.mark` lets a test read each intermediate value, or replace it,
without covergraph's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covergraph.bound.derive import Bound, derive
from covergraph.graph import operations as op
from covergraph.graph.augmented import Mode
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.functions import GELU, SIN, SOFTPLUS, TANH, ScalarFunction
from covergraph.graph.losses import Loss
from covergraph.graph.node import Node
from covergraph.passes.augment import augment


class Marked(nn.Module):
    """A module whose named intermediate values can be read, or replaced by given ones."""

    def __init__(self) -> None:
        super().__init__()
        self.cut: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}

    def mark(self, name: str, value: Tensor) -> Tensor:
        value = self.cut.get(name, value)
        self.seen[name] = value
        return value


@dataclass(frozen=True)
class Network:
    """A module, the same network as a graph, and a generator of inputs (one tensor per input node)."""

    module: Marked
    graph: ComputationGraph
    inputs: Callable[[int], tuple[Tensor, ...]]

    def sample(self, n: int, seed: int = 0) -> tuple[tuple[Tensor, ...], Tensor]:
        """n inputs, and the labels that the network itself predicts for most of them."""
        torch.manual_seed(seed)
        inputs = self.inputs(n)
        with torch.no_grad():
            logits = self.module(*inputs).reshape(n, -1)
        labels = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
        return inputs, labels

    def loader(self, n: int, batch: int, seed: int = 0) -> list[tuple[Tensor, ...]]:
        """Batches (x1, ..., y), the last one possibly smaller."""
        inputs, labels = self.sample(n, seed)
        return [tuple(t[i : i + batch] for t in (*inputs, labels)) for i in range(0, n, batch)]

    def bound(self, mode: Mode = "minimal", loss: Loss | None = None) -> Bound:
        return derive(augment(self.graph, loss, mode))


def network(
    module: Marked,
    nodes: Sequence[Node],
    inputs: Callable[[int], tuple[Tensor, ...]],
    output: str | None = None,
) -> Network:
    """Ties the nodes to the module, which becomes double."""
    module.double().eval()
    graph = ComputationGraph(nodes, output or nodes[-1].name, fingerprint(nodes, module))
    return Network(module, graph, inputs)


def normal(*shapes: tuple[int, ...]) -> Callable[[int], tuple[Tensor, ...]]:
    """Standard normal inputs of these shapes, in double."""
    return lambda n: tuple(torch.randn(n, *shape, dtype=torch.float64) for shape in shapes)


def weights(*roles: str, of: str) -> tuple[tuple[str, str], ...]:
    return tuple((role, f"{of}.{role}") for role in roles)


def linear_node(
    name: str, source: str, shape: tuple[int, ...], bias: bool = True, of: str | None = None
) -> Node:
    roles = ("weight", "bias") if bias else ("weight",)
    return Node(name, op.Linear(bias), (source,), shape, weights(*roles, of=of or name))


def unary(name: str, function: ScalarFunction, source: str, shape: tuple[int, ...]) -> Node:
    return Node(name, op.Elementwise(function), (source,), shape)


class MLP(Marked):
    """x -> f1 -> t1 -> f2 -> t2 -> ... -> fr with one activation."""

    def __init__(self, widths: Sequence[int], bias: bool, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.depth = len(widths) - 1
        for i in range(1, len(widths)):
            self.add_module(f"f{i}", nn.Linear(widths[i - 1], widths[i], bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        h = self.mark("x", x)
        for i in range(1, self.depth + 1):
            h = self.mark(f"f{i}", self.get_submodule(f"f{i}")(h))
            if i < self.depth:
                h = self.mark(f"t{i}", self.activation(h))
        return h


def mlp(
    widths: Sequence[int] = (5, 6, 4, 3),
    bias: bool = False,
    function: ScalarFunction = TANH,
    seed: int = 0,
    scale: float = 1.0,
) -> Network:
    """A sequential network with the given widths; its weights are multiplied by `scale`."""
    torch.manual_seed(seed)
    module = MLP(widths, bias, function.evaluate).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    nodes = [Node("x", op.Input(), (), (widths[0],))]
    for i in range(1, len(widths)):
        nodes.append(linear_node(f"f{i}", nodes[-1].name, (widths[i],), bias))
        if i < len(widths) - 1:
            nodes.append(unary(f"t{i}", function, f"f{i}", (widths[i],)))
    return network(module, nodes, normal((widths[0],)))


class Residual(Marked):
    """Adds, subtracts, multiplies and joins, some nodes with themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5, bias=False), nn.Linear(15, 3)

    def forward(self, x: Tensor) -> Tensor:
        mark = self.mark
        x = mark("x", x)
        a = mark("a", self.a(x))
        t = mark("t", torch.tanh(a))
        b = mark("b", self.b(t))
        plus = mark("plus", b + t)
        square = mark("square", plus * plus)
        gate = mark("gate", square * t)
        minus = mark("minus", gate - b)
        joined = mark("joined", torch.cat([minus, plus, minus], 1))
        bent = mark("bent", F.gelu(joined))
        return mark("c", self.c(bent))


def residual(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    five = (5,)
    nodes = [
        Node("x", op.Input(), (), (4,)),
        linear_node("a", "x", five),
        unary("t", TANH, "a", five),
        linear_node("b", "t", five, bias=False),
        Node("plus", op.Add(), ("b", "t"), five),
        Node("square", op.Product(), ("plus", "plus"), five),
        Node("gate", op.Product(), ("square", "t"), five),
        Node("minus", op.Subtract(), ("gate", "b"), five),
        Node("joined", op.Concatenate(0), ("minus", "plus", "minus"), (15,)),
        unary("bent", GELU, "joined", (15,)),
        linear_node("c", "bent", (3,)),
    ]
    return network(Residual(), nodes, normal((4,)))


class TwoInputs(Marked):
    """Two inputs, one of them squared before anything is learned; one logit without an axis of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.q, self.r = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(8, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        mark = self.mark
        left, right = mark("left", left), mark("right", right)
        squared = mark("squared", left * left)
        p = mark("p", self.p(squared))
        q = mark("q", self.q(right))
        s = mark("s", torch.sin(p))
        product = mark("product", s * q)
        twice = mark("twice", product + product)
        joined = mark("joined", torch.cat([twice, p], 1))
        r = mark("r", self.r(joined))
        return mark("out", r.squeeze(-1))


def two_inputs(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    four = (4,)
    nodes = [
        Node("left", op.Input(), (), (3,)),
        Node("right", op.Input(), (), (2,)),
        Node("squared", op.Product(), ("left", "left"), (3,)),
        linear_node("p", "squared", four),
        linear_node("q", "right", four),
        unary("s", SIN, "p", four),
        Node("product", op.Product(), ("s", "q"), four),
        Node("twice", op.Add(), ("product", "product"), four),
        Node("joined", op.Concatenate(0), ("twice", "p"), (8,)),
        linear_node("r", "joined", (1,)),
        Node("out", op.Reshape(), ("r",), ()),
    ]
    return network(TwoInputs(), nodes, normal((3,), (2,)))


class Recurrent(nn.Module):
    """A recurrent layer with one weight for all times, the last of them read by a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.rnn(x)[0][:, -1])
        return result


class Convolutional(Marked):
    """A strided, dilated, grouped convolution, a pool with padding, a second convolution, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.k1 = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3), groups=2)
        self.k2 = nn.Conv2d(4, 2, 2, bias=False)
        self.f = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        mark = self.mark
        k1 = mark("k1", self.k1(mark("x", x)))
        s = mark("s", F.softplus(k1))
        pool = mark("pool", F.avg_pool2d(s, 2, (1, 2), 1))
        k2 = mark("k2", self.k2(pool))
        flat = mark("flat", k2.flatten(1))
        return mark("f", self.f(flat))


def convolutional(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    first = op.Convolution((2, 1), (2, 1), (2, 3), 2, (3, 2), bias=True)
    second = op.Convolution((1, 1), (0, 0), (1, 1), 1, (2, 2), bias=False)
    nodes = [
        Node("x", op.Input(), (), (2, 5, 5)),
        Node("k1", first, ("x",), (4, 3, 4), weights("weight", "bias", of="k1")),
        unary("s", SOFTPLUS, "k1", (4, 3, 4)),
        Node("pool", op.AveragePool((2, 2), (1, 2), (1, 1)), ("s",), (4, 4, 3)),
        Node("k2", second, ("pool",), (2, 3, 2), weights("weight", of="k2")),
        Node("flat", op.Reshape(), ("k2",), (12,)),
        linear_node("f", "flat", (3,)),
    ]
    return network(Convolutional(), nodes, normal((2, 5, 5)))


class Positions(Marked):
    """One linear layer at every position of a sequence, shared by two nodes, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(3, 3), nn.Linear(12, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        mark = self.mark
        one = mark("one", self.shared(mark("x", x)))
        t = mark("t", torch.tanh(one))
        two = mark("two", self.shared(t))
        return mark("head", self.head(mark("flat", two.flatten(1))))


def positions(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    nodes = [
        Node("x", op.Input(), (), (4, 3)),
        linear_node("one", "x", (4, 3), of="shared"),
        unary("t", TANH, "one", (4, 3)),
        linear_node("two", "t", (4, 3), of="shared"),
        Node("flat", op.Reshape(), ("two",), (12,)),
        linear_node("head", "flat", (2,), bias=False),
    ]
    return network(Positions(), nodes, normal((4, 3)))


NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": mlp,
    "residual": residual,
    "two inputs": two_inputs,
    "convolutional": convolutional,
    "positions": positions,
}
