"""The command line: `covergraph demo`, `covergraph trace` and `covergraph report`."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
import torch
import typer
from rich.console import Console
from rich.markup import escape
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from covergraph.api import Analysis, analyze
from covergraph.bound.derive import Bound
from covergraph.errors import CovergraphError
from covergraph.graph.augmented import Mode
from covergraph.models.demo import NETWORKS, DemoNetwork
from covergraph.models.digits import load_digits
from covergraph.models.training import error, one_thread
from covergraph.passes.coarsen import coarsen, merge_chains
from covergraph.report.console import Row, comparison_table
from covergraph.report.drawing import draw
from covergraph.report.plots import plot_comparison
from covergraph.report.terminal import release_lipschitz_text
from covergraph.report.write import Report, write_report
from covergraph.tracers import as_module, trace_report

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
    data: Annotated[str, typer.Option(help="digits, or an .npz file with the arrays x and y.")] = "digits",
    weights: Annotated[Path | None, typer.Option(help="State dict that torch.save wrote.")] = None,
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
    pdf: Annotated[bool, typer.Option(help="Compile the report if TeX is installed.")] = True,
) -> None:
    """Write the report of a network of your own on its training sample."""
    console = _console()
    if mode not in get_args(Mode):
        raise typer.BadParameter(f"mode is {mode!r}, expected one of {', '.join(get_args(Mode))}")
    network, initial = load_model(model, weights)
    sample = load_sample(data)
    start = time.perf_counter()
    with _readable_errors():
        loader = DataLoader(sample, batch_size=BATCH)
        analysis = analyze(
            network, loader, init_model=initial, trust_init=trust_init, delta=delta, mode=cast(Mode, mode),
            exact=exact, fill=fill, width=width, memory=memory * 2**20, checkpoint=checkpoint, budget=budget,
        )
        row = Row(model, analysis.certificate, analysis.measurements.training_error, None, time.perf_counter() - start)
        _show_rows(console, [row])
        _show_files(console, [write_report(analysis.certificate, out, pdf, f"Certificate of {model}")], [])


@app.command("trace")
def trace_command(
    model: Annotated[str, typer.Argument(help="package.module:factory, which returns a model; or FILE.pt2")],
    data: Annotated[
        str, typer.Option(help="digits (images 1 x 8 x 8), or an .npz file whose arrays are the inputs, but for y.")
    ] = "digits",
    weights: Annotated[Path | None, typer.Option(help="State dict that torch.save wrote.")] = None,
    output: Annotated[str | None, typer.Option(help="Which output, if there are several.")] = None,
    block: Annotated[list[str] | None, typer.Option(help="Module path to show as one node; may be repeated.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge chains of operations without parameters.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Write a drawing to this file.")] = None,
) -> None:
    """Show the computational graph of a network of your own, and how it was traced."""
    console = _console()
    if picture is not None and picture.suffix.lstrip(".") not in FORMATS:
        raise typer.BadParameter(f"the picture is {str(picture)!r}, expected a name that ends in {', '.join(FORMATS)}")
    network, _ = load_model(model, weights)
    example = load_example(data)
    with _readable_errors():
        traced = trace_report(network, example, output=output)
        graph = coarsen(traced.graph, block) if block else traced.graph
        graph = merge_chains(graph) if merge else graph
        console.print(escape(graph.text()), soft_wrap=True)
        console.print(escape(str(traced)), style="dim", soft_wrap=True)
        for group in (group for group in traced.graph.groups if len(group) > 1):
            console.print(f"shared parameters: {escape(', '.join(group))}", soft_wrap=True)
        if picture is not None:
            draw(graph).savefig(picture, dpi=150)
            console.print(f"picture: {picture}", soft_wrap=True)


def load_model(source: str, weights: Path | None) -> tuple[nn.Module, nn.Module | None]:
    """The model and, if known, the model before training. Raises `typer.BadParameter` with what is wrong."""
    made = _load_exported(Path(source)) if source.endswith(".pt2") else _call_factory(source)
    network, initial = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(network, nn.Module) or not isinstance(initial, nn.Module | None):
        raise typer.BadParameter(f"{source} gave {type(made).__name__}, expected a torch module or a pair of them")
    if weights is not None:
        try:
            network.load_state_dict(torch.load(weights, weights_only=True))
        except Exception as reason:  # torch raises many types here
            raise typer.BadParameter(f"the weights {weights} do not fit {source}: {reason}") from None
    return network, initial


def _load_exported(path: Path) -> nn.Module:
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {path}")
    try:
        return as_module(torch.export.load(path))
    except Exception as reason:  # torch raises many types here
        raise typer.BadParameter(f"{path} is no file of torch.export.save: {reason}") from None


def _call_factory(source: str) -> Any:
    module, _, name = source.partition(":")
    if not module or not name:
        raise typer.BadParameter(f"the model is {source!r}, expected package.module:factory or a file .pt2")
    sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as reason:
        raise typer.BadParameter(f"cannot find {source}: {reason}") from None
    return factory()


def load_sample(source: str) -> TensorDataset:
    """The training sample: the digits, or x and y of an .npz file. Raises `typer.BadParameter`."""
    if source == "digits":
        return load_digits()[0]
    try:
        with np.load(source, allow_pickle=False) as arrays:
            x, y = torch.as_tensor(arrays["x"]), torch.as_tensor(arrays["y"])
    except (OSError, KeyError, ValueError, TypeError) as reason:
        expected = "expected 'digits' or an .npz file with the arrays x and y"
        raise typer.BadParameter(f"the data are {source!r} ({reason}), {expected}") from None
    if len(x) != len(y):
        raise typer.BadParameter(f"the data {source!r} have {len(x)} inputs and {len(y)} labels, expected as many")
    return TensorDataset(x.float() if x.is_floating_point() else x, y)


def load_example(source: str) -> tuple[torch.Tensor, ...]:
    """Two digits, or the first two rows of every array but y of an .npz file. Raises `typer.BadParameter`."""
    if source == "digits":
        return (load_digits()[0][:2][0],)
    try:
        with np.load(source, allow_pickle=False) as arrays:
            inputs = tuple(torch.as_tensor(arrays[name][:2]) for name in arrays.files if name != "y")
    except (OSError, ValueError, TypeError, IndexError) as reason:
        raise typer.BadParameter(f"the data are {source!r} ({reason}), expected 'digits' or an .npz file") from None
    if not inputs:
        raise typer.BadParameter(f"the data {source!r} have no array but y, expected the inputs of the model")
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


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
