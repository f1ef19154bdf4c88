"""Coarser graphs: which nodes become one, that they compute the same, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import sympy
import torch
from handmade import linear_node, unary
from torch import Tensor
from torch.nn import functional as F

from covergraph.errors import GraphError
from covergraph.graph import operations as op
from covergraph.graph.computation_graph import ComputationGraph
from covergraph.graph.fingerprint import fingerprint
from covergraph.graph.functions import TANH, ScalarFunction, T
from covergraph.graph.interpreter import Context, edge_jacobian
from covergraph.graph.node import Node
from covergraph.graph.weights import Instruction, Program, Source, Weights
from covergraph.passes.augment import augment
from covergraph.passes.coarsen import blocks, coarsen, merge_chains

State = Mapping[str, Tensor]
RELU = ScalarFunction("relu", sympy.Max(T, 0), torch.relu)


def at(origin: str, node: Node) -> Node:
    """The node, traced from a module path."""
    return Node(node.name, node.operation, node.inputs, node.shape, node.parameters, origin, node.constants, node.kind)


def names(graph: ComputationGraph) -> list[str]:
    return [node.name for node in graph.nodes]


def residual_blocks() -> ComputationGraph:
    """Two residual blocks, stage.0 and stage.1, on vectors of length 3, and a head."""
    nodes = [Node("x", op.Input(), (), (3,))]
    for i in range(2):
        path, source = f"stage.{i}", nodes[-1].name
        nodes += [
            at(f"{path}.fc", linear_node(f"{path}.fc", source, (3,))),
            at(f"{path}.act", unary(f"{path}.act", TANH, f"{path}.fc", (3,))),
            at(path, Node(f"{path}.add", op.Add(), (f"{path}.act", source), (3,))),
        ]
    nodes += [at("head", linear_node("head", "stage.1.add", (2,)))]
    return ComputationGraph(nodes, "head")


def state_of_blocks() -> dict[str, Tensor]:
    torch.manual_seed(1)
    shapes = {"stage.0.fc": (3, 3), "stage.1.fc": (3, 3), "head": (2, 3)}
    random = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    random |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    return {name: value.double() for name, value in random.items()}


def image_chain() -> ComputationGraph:
    """A convolution, then relu, max-pool and reshape (one chain), then a layer, then two single nodes."""
    convolution = op.Convolution((1, 1), (0, 0), (1, 1), 1, (2, 2), bias=False)
    nodes = [
        Node("x", op.Input(), (), (1, 5, 5)),
        Node("conv", convolution, ("x",), (2, 4, 4), (("weight", "conv.weight"),), "body.conv"),
        at("body.act", unary("relu", RELU, "conv", (2, 4, 4))),
        Node("pool", op.MaxPool((2, 2), (2, 2), (0, 0), (1, 1)), ("relu",), (2, 2, 2), origin="body.pool"),
        Node("flat", op.Reshape(), ("pool",), (8,), origin="body"),
        linear_node("fc", "flat", (3,), bias=False),
        unary("tanh", TANH, "fc", (3,)),
        Node("sum", op.Add(), ("tanh", "fc"), (3,)),
    ]
    return ComputationGraph(nodes, "sum")


def image_state() -> dict[str, Tensor]:
    torch.manual_seed(2)
    return {"conv.weight": torch.randn(2, 1, 2, 2).double(), "fc.weight": torch.randn(3, 8).double()}


def assert_same_values(coarse: ComputationGraph, fine: ComputationGraph, state: State, *inputs: Tensor) -> None:
    """Every node of the coarser graph has exactly the value of its namesake."""
    found, expected = coarse.run(state, *inputs), fine.run(state, *inputs)
    assert coarse.output == fine.output
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_a_chain_becomes_one_node_with_its_operations_in_its_label() -> None:
    merged = merge_chains(image_chain())
    assert merged.text().splitlines() == [
        "x = input() : 1x5x5",
        "conv = conv2d(x; 2x2) : 2x4x4 {weight=conv.weight} @ body.conv",
        "flat = relu·maxpool2d·reshape(conv; 3 nodes) : 8 @ body",
        "fc = linear(flat) : 3 {weight=fc.weight}",
        "tanh = tanh(fc) : 3",
        "sum = add(tanh, fc) : 3",
        "return sum",
    ]


def test_a_merged_chain_computes_what_torch_computes() -> None:
    state, x = image_state(), torch.randn(4, 1, 5, 5).double()
    pooled = F.max_pool2d(F.relu(F.conv2d(x, state["conv.weight"])), 2)
    values = merge_chains(image_chain()).run(state, x)
    assert torch.allclose(values["flat"], pooled.flatten(1), rtol=0, atol=1e-12)
    assert_same_values(merge_chains(image_chain()), image_chain(), state, x)


def test_merging_twice_changes_nothing() -> None:
    once = merge_chains(image_chain())
    assert merge_chains(once) == once


def test_chains_stop_at_the_output_at_forks_and_at_parameters() -> None:
    nodes = [
        Node("x", op.Input(), (), (2,)),
        unary("a", TANH, "x", (2,)),
        unary("fork", TANH, "a", (2,)),
        unary("left", TANH, "fork", (2,)),
        Node("square", op.Product(), ("left", "left"), (2,)),
        Node("shift", op.Affine(False, True), ("fork",), (2,), (("shift", "b"),)),
        Node("out", op.Add(), ("square", "shift"), (2,)),
        unary("after", TANH, "out", (2,)),
        unary("last", TANH, "after", (2,)),
    ]
    merged = merge_chains(ComputationGraph(nodes, "after"))
    assert names(merged) == ["x", "fork", "square", "shift", "out", "after", "last"]
    assert [merged[name].operation.label for name in ("fork", "square")] == ["tanh·tanh", "tanh·product"]
    assert merged["square"].inputs == ("fork",)


def test_a_long_chain_has_a_short_name() -> None:
    chain = [unary(f"t{i}", TANH, f"t{i - 1}" if i else "x", (2,)) for i in range(9)]
    nodes = [Node("x", op.Input(), (), (2,)), *chain]
    merged = merge_chains(ComputationGraph(nodes, "t8"))
    assert merged["t8"].operation.label == "tanh·…·tanh (9)"
    assert len(merged) == 2


def test_blocks_become_single_nodes_that_list_their_parameters() -> None:
    coarse = coarsen(residual_blocks(), ["stage.*"])
    assert coarse.text().splitlines() == [
        "x = input() : 3",
        "stage.0.add = stage.0(x; 3 nodes) : 3 "
        "{stage.0.fc.weight=stage.0.fc.weight, stage.0.fc.bias=stage.0.fc.bias} @ stage.0",
        "stage.1.add = stage.1(stage.0.add; 3 nodes) : 3 "
        "{stage.1.fc.weight=stage.1.fc.weight, stage.1.fc.bias=stage.1.fc.bias} @ stage.1",
        "head = linear(stage.1.add) : 2 {weight=head.weight, bias=head.bias} @ head",
        "return head",
    ]
    inner = coarse["stage.0.add"].operation
    assert isinstance(inner, op.Composite)
    assert inner.nodes == residual_blocks().nodes[1:4]
    assert (inner.inputs, inner.output) == (("x",), "stage.0.add")


@pytest.mark.parametrize("chosen", [["stage.*"], ["stage"], ["stage.1", "head"], ["stage.?.fc"], "stage.0"])
def test_coarsened_graphs_compute_the_same(chosen: list[str]) -> None:
    fine, state = residual_blocks(), state_of_blocks()
    assert_same_values(coarsen(fine, chosen), fine, state, torch.randn(5, 3).double())


def test_the_value_of_a_block_is_the_one_of_torch() -> None:
    state, x = state_of_blocks(), torch.randn(5, 3).double()
    h = x
    for i in range(2):
        h = h + torch.tanh(F.linear(h, state[f"stage.{i}.fc.weight"], state[f"stage.{i}.fc.bias"]))
    found = coarsen(residual_blocks(), "stage").run(state, x)["stage.1.add"]
    assert torch.allclose(found, h, rtol=0, atol=1e-12)


def test_outer_blocks_win_and_single_nodes_stay_as_they_are() -> None:
    graph = residual_blocks()
    assert coarsen(graph, ["stage", "stage.0", "stage.1.fc"]) == coarsen(graph, ["stage"])
    assert coarsen(graph, ["head", "stage.0.fc"]) == graph
    assert coarsen(graph, []) == graph


def test_coarsening_again_nests() -> None:
    graph, state = residual_blocks(), state_of_blocks()
    nested = coarsen(coarsen(graph, "stage.*"), "stage")
    assert names(nested) == ["x", "stage.1.add", "head"]
    operation = nested["stage.1.add"].operation
    assert isinstance(operation, op.Composite)
    assert [node.operation.label for node in operation.nodes] == ["stage.0", "stage.1"]
    assert dict(nested["stage.1.add"].parameters)["stage.0.add.stage.0.fc.weight"] == "stage.0.fc.weight"
    assert_same_values(nested, graph, state, torch.randn(5, 3).double())


def test_composites_stay_covered_grouped_and_fingerprinted() -> None:
    tied = Node("head", op.Linear(False), ("stage.1.add",), (3,), (("weight", "stage.0.fc.weight"),), "head")
    graph = residual_blocks().replaced([*residual_blocks().nodes[:-1], tied])
    coarse = coarsen(graph, "stage.*")
    assert coarse.covered == ("stage.0.add", "stage.1.add", "head")
    assert coarse.groups == (("stage.0.add", "head"), ("stage.1.add",))
    state = state_of_blocks()
    before = fingerprint(coarse.nodes, state)
    assert before == fingerprint(graph.nodes, state) == fingerprint(coarsen(coarse, "stage").nodes, state)
    state["stage.1.fc.weight"] = 2 * state["stage.1.fc.weight"]
    assert fingerprint(coarse.nodes, state) != before


def test_effective_parameters_and_constants_reach_the_inside() -> None:
    """scale = exp(gamma), as an effective parameter, then a fixed map along the axis, in one block."""
    doubled = Program((Instruction("aten.exp.default", (Source("gamma"),)),))
    weights = Weights({"scale": doubled}, {"mix": torch.tensor([[1.0, 2.0], [0.0, 1.0]])})
    nodes = [
        Node("x", op.Input(), (), (2,)),
        Node("norm", op.Affine(True, False), ("x",), (2,), (("scale", "scale"),), "b"),
        Node("mix", op.AxisMap(0, "mix"), ("norm",), (2,), (), "b", (("weight", "mix"),)),
    ]
    coarse = coarsen(ComputationGraph(nodes, "mix", weights=weights), "b")
    assert (coarse["mix"].parameters, coarse["mix"].constants) == ((("norm.scale", "scale"),), (("mix.weight", "mix"),))
    assert coarse.state_names == ("gamma",)
    gamma = torch.tensor([0.0, 1.0]).double()
    value = coarse.run({"gamma": gamma}, torch.tensor([[1.0, 1.0]]).double())["mix"]
    assert torch.allclose(value, torch.tensor([[1 + 2 * torch.e, torch.e]], dtype=gamma.dtype), rtol=1e-12)


def fork() -> ComputationGraph:
    """Block b yields two values: its first node is read outside, by g, whose value comes back into b."""
    nodes = [
        Node("x", op.Input(), (), (2,)),
        at("b.first", unary("b.first", TANH, "x", (2,))),
        at("g", unary("g", TANH, "b.first", (2,))),
        at("b.side", unary("b.side", TANH, "b.first", (2,))),
        at("b", Node("b.add", op.Add(), ("b.side", "g"), (2,))),
        unary("end", TANH, "b.add", (2,)),
    ]
    return ComputationGraph(nodes, "end")


def test_a_block_that_a_path_leaves_and_enters_again_is_refused_with_a_remedy() -> None:
    with pytest.raises(GraphError) as caught:
        coarsen(fork(), ["b"])
    assert str(caught.value) == (
        "coarsen: 2 values of the block 'b' are used outside it, expected one: 'b.first' (read by 'g', 'b.side'); "
        "'b.add' (read by 'end'); name smaller blocks ('b.first', 'b.side'), or pass split=True, which makes 2 nodes "
        "of it"
    )


def test_split_cuts_such_a_block_into_convex_parts() -> None:
    coarse = coarsen(fork(), "b", split=True)
    assert [f"{node.name} = {node.operation.label}{node.inputs}" for node in coarse.nodes[1:]] == [
        "b.first = tanh('x',)",
        "g = tanh('b.first',)",
        "b.add = b('b.first', 'g')",
        "end = tanh('b.add',)",
    ]
    assert_same_values(coarse, fork(), {}, torch.randn(3, 2).double())


def test_a_block_that_holds_the_output_and_feeds_others_is_refused() -> None:
    nodes = [
        Node("x", op.Input(), (), (2,)),
        at("b", unary("one", TANH, "x", (2,))),
        at("b", unary("two", TANH, "one", (2,))),
        Node("out", op.Add(), ("one", "two"), (2,), origin="b"),
        unary("unused", TANH, "out", (2,)),
    ]
    assert names(coarsen(ComputationGraph(nodes, "out"), "b")) == ["x", "out"]
    with pytest.raises(GraphError, match=r"'two' \(the output\).*; leave it out, or pass split=True"):
        coarsen(ComputationGraph([*nodes[:2], unary("y", TANH, "one", (2,)), Node(
            "two", op.Add(), ("one", "y"), (2,), origin="b")], "two"), "b")


def test_two_calls_of_a_shared_module_are_two_nodes() -> None:
    """b(g(b(x))), where both calls also read one parameter as a value."""
    bias = Node("b.bias", op.Parameter(), (), (2,), (("value", "b.bias"),), "b")
    nodes = [Node("x", op.Input(), (), (2,)), bias]
    for name, source in (("one", "x"), ("two", "g")):
        nodes += [
            at("b", linear_node(f"{name}.fc", source, (2,), bias=False, of="b.fc")),
            at("b", Node(name, op.Product(), (f"{name}.fc", "b.bias"), (2,))),
        ]
        nodes += [unary("g", TANH, "one", (2,))] if name == "one" else []
    graph = ComputationGraph(nodes, "two")
    coarse = coarsen(graph, "b")
    assert names(coarse) == ["x", "b.bias", "one", "g", "two"]
    assert [coarse[name].operation.label for name in ("one", "two")] == ["b", "b"]
    assert coarse["two"].inputs == ("g", "b.bias")
    assert coarse.groups == (("b.bias",), ("one", "two"))
    state = {"b.fc.weight": torch.randn(2, 2).double(), "b.bias": torch.randn(2).double()}
    assert_same_values(coarse, graph, state, torch.randn(3, 2).double())


def test_two_blocks_that_feed_each_other_crosswise_do_not_make_a_cycle() -> None:
    """a1 -> b1 and b2 -> a2: each block alone is convex, both as one node each would be a cycle."""
    nodes = [
        Node("x", op.Input(), (), (2,)),
        at("a", unary("a1", TANH, "x", (2,))),
        at("b", unary("b2", TANH, "x", (2,))),
        at("b", Node("b1", op.Add(), ("a1", "b2"), (2,))),
        at("a", Node("a2", op.Add(), ("a1", "b2"), (2,))),
        Node("out", op.Add(), ("a2", "b1"), (2,)),
    ]
    graph = ComputationGraph(nodes, "out")
    with pytest.raises(GraphError, match="2 values of the block 'a' are used outside it"):
        coarsen(graph, ["a", "b"])
    assert_same_values(coarsen(graph, ["a", "b"], split=True), graph, {}, torch.randn(3, 2).double())


def test_a_pattern_that_matches_nothing_is_refused_with_some_paths() -> None:
    with pytest.raises(GraphError, match=r"the block 'layer\*' matches no module path; .* 'stage', 'stage.0'"):
        coarsen(residual_blocks(), ["stage.0", "layer*"])
    with pytest.raises(GraphError, match="matches no module path"):
        coarsen(residual_blocks(), ["*.*.*.*"])


def test_blocks_lists_the_paths_of_a_depth() -> None:
    graph = residual_blocks()
    assert blocks(graph, 1) == ("stage", "head")
    assert blocks(graph, 2) == ("stage.0", "stage.1")
    assert blocks(graph, 3) == ("stage.0.fc", "stage.0.act", "stage.1.fc", "stage.1.act")
    assert names(coarsen(graph, blocks(graph, 2))) == ["x", "stage.0.add", "stage.1.add", "head"]
    for depth in (0, 4):
        with pytest.raises(GraphError, match=f"no module path has depth {depth}; choose a depth from 1 to 3"):
            blocks(graph, depth)


def two_slots() -> tuple[ComputationGraph, State]:
    """A block of two slots that mixes an attention, a norm, a learned layer and a product."""
    attention = Node("att", op.Attention(0.5), ("q", "k", "k"), (3, 2), origin="b")
    nodes = [
        Node("q", op.Input(), (), (3, 2)),
        Node("k", op.Input(), (), (4, 2)),
        attention,
        at("b", linear_node("fc", "att", (3, 2), of="fc")),
        Node("norm", op.Normalize(2, 0.1), ("fc",), (3, 2), origin="b"),
        Node("gate", op.Product(), ("norm", "q"), (3, 2), origin="b"),
    ]
    torch.manual_seed(3)
    state = {"fc.weight": torch.randn(2, 2).double(), "fc.bias": torch.randn(2).double()}
    return coarsen(ComputationGraph(nodes, "gate"), "b"), state


@pytest.mark.parametrize("slot", [0, 1])
def test_the_derivative_of_a_block_is_the_one_of_the_composed_function(slot: int) -> None:
    graph, state = two_slots()
    block = graph["gate"]

    def composed(q: Tensor, k: Tensor) -> Tensor:
        weights = torch.softmax(0.5 * q @ k.mT, -1)
        h = weights @ k @ state["fc.weight"].mT + state["fc.bias"]
        centered = h - h.mean(-1, keepdim=True)
        return q * centered / ((centered**2).mean(-1, keepdim=True) + 0.1).sqrt()

    q, k = torch.randn(5, 3, 2).double(), torch.randn(5, 4, 2).double()
    assert torch.allclose(graph.run(state, q, k)["gate"], composed(q, k), rtol=0, atol=1e-12)
    found = edge_jacobian(block, ("q", "k")[slot], (q, k), Context.of(state, graph))
    expected = torch.vmap(torch.func.jacrev(composed, argnums=slot))(q, k).reshape(found.shape)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_the_derivative_of_a_chain_passes_through_max_pooling() -> None:
    graph, x = merge_chains(image_chain()), torch.randn(3, 2, 4, 4).double()
    found = edge_jacobian(graph["flat"], "conv", (x,), Context({}))
    expected = torch.vmap(torch.func.jacrev(lambda h: F.max_pool2d(F.relu(h), 2).flatten()))(x)
    assert torch.equal(found, expected.reshape(found.shape))


def test_bounds_open_a_block_with_weights() -> None:
    fine = residual_blocks()
    assert augment(coarsen(fine, "stage.1")).base.by_name.keys() == augment(fine).base.by_name.keys()
