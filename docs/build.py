"""Makes the pictures that the documentation shows: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

import covergraph as cg
from covergraph.graph.functions import TANH
from covergraph.graph.operations import Elementwise, Input, Linear
from covergraph.models import DEMO, load_digits
from covergraph.report.drawing import draw
from covergraph.report.formulas import equation, release_lipschitz_expressions

FIGURES = Path(__file__).parent / "figures"


def figure_2() -> Figure:
    """The paper's Figure 2: a network of two layers, augmented with all pairs."""
    nodes = [
        cg.Node("x", Input(), (), (2,)),
        cg.Node("V1", Linear(bias=False), ("x",), (2,), (("weight", "W"),)),
        cg.Node("V2", Elementwise(TANH), ("V1",), (2,)),
    ]
    return draw(cg.augment(cg.ComputationGraph(nodes, "V2"), mode="paper"))


def formulas(bound: cg.Bound) -> Figure:
    """The release-Lipschitz constants of a bound, typeset by matplotlib from the LaTeX that sympy prints."""
    equations = [equation(left, right) for left, right in release_lipschitz_expressions(bound)]
    rows = [f"${left} = {' + '.join(terms)}$" for left, terms in equations]
    figure = Figure(figsize=(9, 0.75 * len(rows)))
    for i, row in enumerate(rows):
        figure.text(0.02, 1 - (i + 0.6) / len(rows), row, fontsize=13)
    return figure


def encoder() -> Figure:
    """A transformer encoder layer of torch."""
    model = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return draw(cg.trace(model, torch.randn(2, 9, 32)))


def resnet() -> dict[str, Figure]:
    """torchvision's ResNet-18, whole and with its blocks as nodes; nothing without the packages of the zoo."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    try:
        from zoo import shim

        torchvision = shim.load("torchvision")
    except ImportError:
        print("resnet18: torchvision is not installed (it comes with make zoo), skipped")
        return {}
    graph = cg.trace(torchvision.models.resnet18(), torch.randn(2, 3, 64, 64))
    return {"resnet18": draw(graph), "resnet18-blocks": draw(cg.coarsen(graph, ["layer*.*"]))}


def main() -> None:
    """Train the demo's first network and write every picture."""
    FIGURES.mkdir(exist_ok=True)
    training, _ = load_digits()
    row = DEMO[0]
    model = row.trained(training, progress=False)
    analysis = cg.analyze(model, DataLoader(training, batch_size=256), init_model=row.initial())
    pictures = {
        "figure2": figure_2(),
        "mlp-graph": draw(analysis.graph),
        "mlp-certificate": analysis.certificate.plot(),
        "mlp-formulas": formulas(analysis.bound),
        "encoder": encoder(),
        **resnet(),
    }
    for name, figure in pictures.items():
        figure.savefig(FIGURES / f"{name}.png", dpi=130)
        print(FIGURES / f"{name}.png")


if __name__ == "__main__":
    main()
