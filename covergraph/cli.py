"""The command line: `covergraph demo`, `covergraph trace` and `covergraph report`."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
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
from covergraph.measure.reading import LABELS, advice
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
WIDTH, NAMES, CELL = 100, 38, 20
"""Columns of a table in a file, of the names in it, and of a network, several of which stand side by side."""
SPELLINGS: Mapping[str, str] = {
    r"(pass |for instance )?batch_to\b.*": "write the arrays as forward takes them, and as they were in training: "
    "np.savez('data.npz', x=x.astype('float32') / 255, y=y) for bytes",
    r"\bthe loader's batch was": "the data were",
    r"\b(trust_init|exact|fill)=True": r"--\1",
    r"\b(output|checkpoint|budget|duplicates)= ?('?)(\w*)\2": r"--\1 \3",
    r"(--\w+) (?=\W)": r"\1",
    "--trust_init": "--trust-init",
}
"""What messages say in Python, and how the command line says it."""
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
    if not sys.stderr.isatty():
        app.rich_markup_mode = None  # errors without a box, whose lines would be broken
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
    output: Annotated[str | None, typer.Option(help="Which output, if there are several.")] = None,
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
            output=output, exact=exact, fill=fill, width=width, memory=memory * 2**20, checkpoint=checkpoint,
            budget=budget, duplicates=cast(Any, duplicates),
        )
        row = Row(model, analysis.certificate, analysis.measurements.training_error, None, time.perf_counter() - start)
        _show_rows(console, [row])
        _show_files(console, [write_report(analysis.certificate, out, pdf, f"Certificate of {model}")], [])


@app.command("trace")
def trace_command(
    model: Annotated[str, typer.Argument(help="package.module:factory, which returns a model; or FILE.pt2")],
    data: Annotated[
        str,
        typer.Option(help="digits (images 1 x 8 x 8), or arrays: .npz (the inputs, and perhaps labels) or .npy (one)."),
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
        with advice((args, kwargs), network):
            traced = trace_report(network, args, kwargs, output=output)
        graph = coarsen(traced.graph, block) if block else traced.graph
        graph = merge_chains(graph) if merge else graph
        console.print(escape(graph.text()), soft_wrap=True)
        _say(console, escape(str(traced)), style="dim")
        for group in (group for group in traced.graph.groups if len(group) > 1):
            _say(console, f"shared parameters: {escape(', '.join(group))}")
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
            f"names {', '.join(LABELS)}, and at least one input; write them together: np.savez('data.npz', x=x, y=y)"
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
        loaded = np.load(source, allow_pickle=False)
        with loaded if isinstance(loaded, np.lib.npyio.NpzFile) else nullcontext({"x": loaded}) as arrays:
            found = {name: torch.as_tensor(np.asarray(arrays[name])) for name in arrays}
    except (OSError, ValueError, TypeError, AttributeError) as reason:
        said = reason if isinstance(reason, OSError) else "which numpy cannot read as arrays of numbers"
        raise typer.BadParameter(
            f"the data are {source!r} ({said}), expected 'digits' or an .npz file of arrays, such as x and y (an "
            ".npy file has inputs alone); write one: np.savez('data.npz', x=x, y=y), for a table x = "
            "frame.drop(columns='y').to_numpy('float32') and y = frame['y'].to_numpy()"
        ) from None
    if any(array.dim() == 0 for array in found.values()):
        raise typer.BadParameter(f"the data {source!r} have an array that is one number, expected a row a sample")
    return {name: array.float() if array.is_floating_point() else array for name, array in found.items()}


def _console(stderr: bool = False) -> Console:
    """As wide as the terminal or as COLUMNS says, and 100 columns in a file."""
    stream = sys.stderr if stderr else sys.stdout
    known = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(width=None if known else WIDTH, highlight=False, stderr=stderr)


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Prose, in lines that fit a terminal; elsewhere each paragraph is one line, as grep wants it."""
    console.print(text, style=style, soft_wrap=not console.file.isatty())


def _show_first(console: Console, name: str, bound: Bound) -> None:
    """The graph and the formulas of the demo's first network."""
    console.rule(f"the graph of the {name}", align="left")
    _say(console, escape(bound.graph.text()))
    console.rule("its constants", align="left")
    console.print(escape(release_lipschitz_text(bound, console.width - 4)))
    _say(console, escape(LEGEND if console.width >= WIDTH else " ".join(LEGEND.split())), style="dim")


def _show_rows(console: Console, rows: list[Row]) -> None:
    console.print()
    side_by_side = max(1, (console.width - NAMES) // CELL)
    for first in range(0, len(rows), side_by_side):
        console.print(comparison_table(rows[first : first + side_by_side]))
    for row in rows:
        console.print()
        _say(console, f"[bold]{escape(row.name)}.[/bold] {escape(row.certificate.explain())}")


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
        _say(_console(stderr=True), escape(f"{type(reason).__name__}: {spelled(str(reason))}"))
        raise typer.Exit(2) from None


def spelled(message: str) -> str:
    """A message whose remedies are options of the command line."""
    for python, command in SPELLINGS.items():
        message = re.sub(python, command, message)
    return message
