"""The command line: `covergraph demo`, `covergraph trace` and `covergraph report`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from covergraph.api import Analysis, analyze
from covergraph.bound.derive import Bound
from covergraph.errors import CovergraphError
from covergraph.graph.augmented import Mode
from covergraph.graph.binding import fits, inner_signature
from covergraph.loading import load_model, require_file, require_folder
from covergraph.measure.reading import LABELS
from covergraph.models.demo import NETWORKS, DemoNetwork
from covergraph.models.digits import load_digits
from covergraph.models.training import error, one_thread
from covergraph.passes.coarsen import coarsen, merge_chains
from covergraph.report.console import Row, comparison_table
from covergraph.report.drawing import draw
from covergraph.report.plots import plot_comparison
from covergraph.report.terminal import release_lipschitz_text
from covergraph.report.write import Report, write_report
from covergraph.tracers import trace_report

BATCH = 256
COLUMNS = 3
"""So many networks stand side by side in a terminal."""
FORMATS = ("png", "pdf", "svg")
LEGEND = """κ̃h[v], κ̃J[v]: how much the augmented loss reacts to node v and to its Jacobian (Theorem 2).
Nodes have the positions of the graph above, from 0; κ̄[w←a] is 2 κ[w←a] on the pairs of P,
1 if w = a, 0 if a does not reach w; ϱ = 1/κ on P and ς = 1/s on S, else 0; ϑ[w] sums 2 Lip/ρ over
the conditions that read w; τ̄[x;u,u'] says how fast the Jacobian of x in u changes with u'."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Data-dependent generalization bounds of trained networks, derived on their computation graphs.",
)


def main() -> None:
    """The program `covergraph`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()


def _version(show: bool) -> None:
    if show:
        from covergraph import __version__

        typer.echo(f"covergraph {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options that stand before a command."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and reports.")] = Path("covergraph-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Few epochs and samples: shows the path only.")] = False,
    pdf: Annotated[bool, typer.Option(help="Compile the reports if TeX is installed.")] = True,
    network: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(NETWORKS)}; may be repeated. By default all.")
    ] = None,
) -> None:
    """Train small networks on real digits, and show what can be certified about each."""
    console = _console()
    unknown = [name for name in network or [] if name not in NETWORKS]
    if unknown:
        raise typer.BadParameter(f"the network is {unknown[0]!r}, expected one of {', '.join(NETWORKS)}")
    chosen = [NETWORKS[name] for name in dict.fromkeys(network or NETWORKS)]
    require_folder(out)
    train, test = load_digits()
    if quick:
        train = TensorDataset(*(tensor[:200] for tensor in train.tensors))
    console.print(f"digits: {len(train)} training images, {len(test)} test images")
    rows: list[Row] = []
    written: list[Report] = []
    with _readable_errors():
        for one in chosen:
            row, analysis = _demo_row(replace(one, epochs=3) if quick else one, train, test, console)
            if not rows:
                _show_first(console, one.name, analysis.bound)
            rows.append(row)
            title = f"Certificate of the network {one.name} on digits"
            written.append(write_report(analysis.certificate, out / _folder_name(one.name), pdf, title))
        _show_rows(console, rows)
        _show_files(console, written, [_write_comparison(rows, out)])


def _demo_row(
    network: DemoNetwork, train: TensorDataset, test: TensorDataset, console: Console
) -> tuple[Row, Analysis]:
    """Train and analyze one network."""
    start = time.perf_counter()
    with one_thread():
        model = network.trained(train, progress=console.is_terminal)
        loader = DataLoader(train, batch_size=BATCH)
        analysis = analyze(model, loader, init_model=network.initial(), fill=network.fill)
    seconds = time.perf_counter() - start
    return Row(network.name, analysis.certificate, error(model, train), error(model, test), seconds), analysis


@app.command()
def report(
    model: Annotated[
        str, typer.Argument(help="package.module:factory, which returns a model or (model, initial model); or FILE.pt2")
    ],
    data: Annotated[str, typer.Option(help="digits, or an .npz file of arrays: y or labels, and inputs.")] = "digits",
    weights: Annotated[Path | None, typer.Option(help="State dict or checkpoint that torch.save wrote.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("covergraph-report"),
    delta: Annotated[float, typer.Option(help="The certificate may fail with this probability.")] = 0.05,
    mode: Annotated[str, typer.Option(help="minimal or paper.")] = "minimal",
    trust_init: Annotated[
        bool,
        typer.Option("--trust-init", help="The initial model does not depend on the sample, whatever it looks like."),
    ] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Form all Jacobians: no random starts.")] = False,
    fill: Annotated[bool, typer.Option("--fill", help="Bound Jacobian norms along edges: cheap, but larger.")] = False,
    width: Annotated[float, typer.Option(help="The largest upper/lower end of a Jacobian norm.")] = 1.01,
    memory: Annotated[int, typer.Option(help="MiB that a block of samples may take.")] = 1024,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of finished work, from which a run that was stopped goes on.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Seconds for measuring: those norms first that move the bound most.")
    ] = None,
    duplicates: Annotated[
        str, typer.Option(help="iid: samples that come again were drawn independently.")
    ] = "refuse",
    pdf: Annotated[bool, typer.Option(help="Compile the report if TeX is installed.")] = True,
) -> None:
    """Write the report of a network of your own on its training sample."""
    console = _console()
    if mode not in get_args(Mode):
        raise typer.BadParameter(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    require_folder(out)
    network, initial = load_model(model, weights)
    sample = load_sample(data, network)
    start = time.perf_counter()
    with _readable_errors():
        loader = DataLoader(sample, batch_size=BATCH)
        analysis = analyze(
            network, loader, init_model=initial, trust_init=trust_init, delta=delta, mode=cast(Mode, mode),
            exact=exact, fill=fill, width=width, memory=memory * 2**20, checkpoint=checkpoint, budget=budget,
            duplicates=cast(Any, duplicates),
        )
        row = Row(model, analysis.certificate, analysis.measurements.training_error, None, time.perf_counter() - start)
        _show_rows(console, [row])
        _show_files(console, [write_report(analysis.certificate, out, pdf, f"Certificate of {model}")], [])


@app.command("trace")
def trace_command(
    model: Annotated[str, typer.Argument(help="package.module:factory, which returns a model; or FILE.pt2")],
    data: Annotated[
        str, typer.Option(help="digits (images 1 x 8 x 8), or an .npz file of arrays: the inputs, and perhaps labels.")
    ] = "digits",
    weights: Annotated[Path | None, typer.Option(help="State dict or checkpoint that torch.save wrote.")] = None,
    output: Annotated[str | None, typer.Option(help="Which output, if there are several.")] = None,
    block: Annotated[list[str] | None, typer.Option(help="Module path to show as one node; may be repeated.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge chains of operations without parameters.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Write a drawing to this file.")] = None,
) -> None:
    """Show the computational graph of a network of your own, and how it was traced."""
    console = _console()
    if picture is not None and picture.suffix.lstrip(".") not in FORMATS:
        raise typer.BadParameter(f"the picture is {str(picture)!r}, expected a name that ends in {', '.join(FORMATS)}")
    if picture is not None:
        require_file(picture)
    network, _ = load_model(model, weights)
    args, kwargs = load_example(data, network)
    with _readable_errors():
        traced = trace_report(network, args, kwargs, output=output)
        graph = coarsen(traced.graph, block) if block else traced.graph
        graph = merge_chains(graph) if merge else graph
        console.print(escape(graph.text()), soft_wrap=True)
        console.print(escape(str(traced)), style="dim", soft_wrap=True)
        for group in (group for group in traced.graph.groups if len(group) > 1):
            console.print(f"shared parameters: {escape(', '.join(group))}", soft_wrap=True)
        if picture is not None:
            draw(graph).savefig(picture, dpi=150)
            console.print(f"picture: {picture}", soft_wrap=True)


def load_sample(source: str, network: nn.Module | None = None) -> Dataset[Any]:
    """The training sample: the digits, or the arrays of an .npz file, by the names that forward has or in order.

    Raises `typer.BadParameter`.
    """
    if source == "digits":
        return load_digits()[0]
    arrays = _arrays(source)
    label = next((name for name in LABELS if name in arrays), None)
    if label is None or len(arrays) < 2:
        raise typer.BadParameter(
            f"the data {source!r} have the arrays {', '.join(arrays) or 'none'}, expected labels under one of the "
            f"names {', '.join(LABELS)}, and at least one input"
        )
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise typer.BadParameter(f"the data {source!r} have arrays of {rows} rows, expected as many in each")
    inputs = {name: array for name, array in arrays.items() if name != label}
    return Rows(inputs, arrays[label]) if _by_name(inputs, network) else TensorDataset(*inputs.values(), arrays[label])


@dataclass(frozen=True)
class Rows(Dataset[Any]):
    """Samples (inputs by name, label) of whole arrays."""

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return {name: array[i] for name, array in self.inputs.items()}, self.labels[i]


def _by_name(inputs: Mapping[str, Any], network: nn.Module | None) -> bool:
    return network is not None and fits(inner_signature(network), (), inputs)


def load_example(source: str, network: nn.Module | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of forward: two digits, or two rows of an .npz file's arrays. Raises `typer.BadParameter`."""
    if source == "digits":
        return (load_digits()[0][:2][0],), {}
    inputs = {name: array[:2] for name, array in _arrays(source).items() if name not in LABELS}
    if not inputs:
        raise typer.BadParameter(f"the data {source!r} have no array but labels, expected the inputs of the model")
    return ((), inputs) if _by_name(inputs, network) else (tuple(inputs.values()), {})


def _arrays(source: str) -> dict[str, torch.Tensor]:
    try:
        with np.load(source, allow_pickle=False) as arrays:
            found = {name: torch.as_tensor(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, AttributeError) as reason:
        raise typer.BadParameter(
            f"the data are {source!r} ({reason}), expected 'digits' or an .npz file of arrays, such as x and y"
        ) from None
    if any(array.dim() == 0 for array in found.values()):
        raise typer.BadParameter(f"the data {source!r} have an array that is one number, expected a row a sample")
    return {name: array.float() if array.is_floating_point() else array for name, array in found.items()}


def _console() -> Console:
    """As wide as the terminal, and 100 columns in a file."""
    return Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def _show_first(console: Console, name: str, bound: Bound) -> None:
    """The graph and the formulas of the demo's first network."""
    console.rule(f"the graph of the {name}", align="left")
    console.print(escape(bound.graph.text()))
    console.rule("its constants", align="left")
    console.print(escape(release_lipschitz_text(bound)))
    console.print(escape(LEGEND), style="dim")


def _show_rows(console: Console, rows: list[Row]) -> None:
    console.print()
    for first in range(0, len(rows), COLUMNS):
        console.print(comparison_table(rows[first : first + COLUMNS]))
    for row in rows:
        console.print(f"\n[bold]{escape(row.name)}.[/bold] {escape(row.certificate.explain())}")


def _show_files(console: Console, reports: list[Report], pictures: list[Path]) -> None:
    console.print()
    for written in reports:
        main_file = written.pdf or written.files[0]
        console.print(f"report: {main_file}  (with its pictures and tables in {main_file.parent})", soft_wrap=True)
    for picture in pictures:
        console.print(f"picture: {picture}", soft_wrap=True)
    for note in dict.fromkeys(written.note for written in reports if written.note):
        console.print(f"note: {escape(note)}", soft_wrap=True)


def _write_comparison(rows: list[Row], folder: Path) -> Path:
    target = folder / "comparison.png"
    plot_comparison({row.name: row.certificate for row in rows}).savefig(target, dpi=120)
    return target


def _folder_name(name: str) -> str:
    return name.lower().replace(" ", "-")


@contextmanager
def _readable_errors() -> Iterator[None]:
    """An error of covergraph becomes one message and the exit code 2."""
    try:
        yield
    except CovergraphError as reason:
        typer.echo(f"{type(reason).__name__}: {reason}", err=True)
        raise typer.Exit(2) from None
