"""The command line: what it prints fits a hundred columns, what it writes exists, what is wrong is said once."""

from __future__ import annotations

import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from covergraph import __version__
from covergraph.api import Analysis, analyze
from covergraph.cli import app, load_sample
from covergraph.loading import load_model, load_weights
from covergraph.report.write import FILES

FACTORIES = """
import torch
from torch import nn

def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))

def pair():
    start = plain()
    with torch.no_grad():
        start[0].weight.mul_(0.5)
    return plain(), start

def same():
    return plain(), plain()

def relu():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 3), nn.ReLU())

    def forward(self, image, bias):
        return {"sum": self.body(image) + bias, "body": self.body(image)}

def double():
    return Double()

class Floor(nn.Module):
    def forward(self, h):
        return torch.floor(h)

def steps():
    return nn.Sequential(nn.Linear(6, 5), Floor(), nn.Linear(5, 3))

def nothing():
    return 3

def sized(width):
    return nn.Linear(6, width)

def broken():
    raise ValueError("no weights")

class Two(nn.Linear):
    def forward(self, x):
        return super().forward(x), x

def two():
    return Two(6, 3)

number = 3
made = plain()
"""


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models and data, on the path of imports."""
    (tmp_path / "own_networks.py").write_text(FACTORIES)
    (tmp_path / "own_networks.pt2").write_text("no archive")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(30, 6))
    np.savez(tmp_path / "data.npz", x=x, y=generator.integers(0, 3, 30))
    np.savez(tmp_path / "two.npz", image=x, bias=x[:, :3])
    np.savez(tmp_path / "labels.npz", x=x, y=np.full(30, 7))
    np.savez(tmp_path / "short.npz", x=x, y=np.zeros(29, dtype=int))
    np.savez(tmp_path / "copies.npz", x=np.concatenate([x, x]), y=np.zeros(60, dtype=int))
    np.savez(tmp_path / "scalar.npz", x=x, y=np.float64(1))
    (tmp_path / "faulty.py").write_text("1 / 0")
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save({"0.weight": torch.zeros(5, 7), "0.bias": torch.zeros(5), "2.weight": torch.zeros(3, 5),
                "2.bias": torch.zeros(3)}, tmp_path / "wide.pt")
    torch.save("weights", tmp_path / "text.pt")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the quick demo prints and where it writes."""
    out = tmp_path_factory.mktemp("demo")
    result = invoke("demo", "--quick", "--no-pdf", "--out", out)
    assert result.exit_code == 0, result.output
    return result.output, out


def test_version() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.strip() == f"covergraph {__version__}"


def test_demo_fits_a_hundred_columns(demo: tuple[str, Path]) -> None:
    """Paths and sentences, which stay whole in a pipe, excepted."""
    whole = re.compile("report: |picture: |.*With probability at least")
    lines = [line for line in demo[0].splitlines() if not whole.match(line)]
    assert max(len(line.replace("\u0303", "").replace("\u0304", "").rstrip()) for line in lines) <= 100


def test_demo_shows_graph_formulas_table_and_sentences(demo: tuple[str, Path]) -> None:
    text = demo[0]
    assert "layers.0 = linear(flatten) : 32 {weight=layers.0.weight} @ layers.0" in text
    assert "κ̃h[2] = 2·√2·κ[6←2]/γ + Σ[w=2..6] κ̄[w←2]·ς[w]" in text
    heads = [line.split() for line in text.splitlines() if line.split()[:1] == ["network"]]
    assert heads == [["network", "MLP", "residual", "MLP", "convolutional"], ["network", "CNN", "ViT", "GRU"]]
    for quantity in ("train error", "test error", "samples n", "mean of z̃", "C/√n (log10)", "Theorem 5.1", "seconds"):
        assert any(line.strip().startswith(quantity) for line in text.splitlines()), quantity
    certified = [line for line in text.splitlines() if line.strip().startswith("certificate")]
    assert [line.count("vacuous") for line in certified] == [3, 3]
    assert "— (the graph is" in text
    assert text.count("With probability at least 95 %") == 6 and "each with probability at least 95 %" in text


def test_demo_writes_reports_and_pictures(demo: tuple[str, Path]) -> None:
    text, out = demo
    for name in ("mlp", "residual-mlp", "convolutional", "cnn", "vit", "gru"):
        assert {path.name for path in (out / name).iterdir()} == set(FILES)
        assert str(out / name / "report.tex") in text
    assert (out / "comparison.png").stat().st_size > 0


def test_report_of_a_network_of_one_s_own(folder: Path) -> None:
    result = invoke("report", "own_networks:pair", "--data", "data.npz", "--out", "own", "--no-pdf", "--delta", "0.01")
    assert result.exit_code == 0, result.output
    assert "99 %" in result.output and "own_networks:pair" in result.output
    text = (folder / "own" / "report.tex").read_text()
    assert "weights before training" in text and r"own\_networks:pair" in text


def test_report_takes_the_user_s_word_for_the_initial_weights(folder: Path) -> None:
    start = ("report", "own_networks:same", "--data", "data.npz", "--out", "own", "--no-pdf")
    result = invoke(*start)
    assert result.exit_code == 2 and "--trust-init" in result.output
    result = invoke(*start, "--trust-init")
    assert result.exit_code == 0 and "This supposes that the reference" in " ".join(result.output.split())


def test_report_in_paper_mode_without_initial_weights(folder: Path) -> None:
    result = invoke("report", "own_networks:plain", "--data", "data.npz", "--out", "own", "--no-pdf", "--mode", "paper")
    assert result.exit_code == 0, result.output
    text = (folder / "own" / "report.tex").read_text()
    assert "paper mode" in text and "reference weights: zero" in text


def test_report_passes_on_how_to_measure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def spy(*arguments: Any, **options: Any) -> Analysis:
        seen.append(options)
        return analyze(*arguments, **options)

    monkeypatch.setattr("covergraph.cli.analyze", spy)
    start = ("report", "own_networks:plain", "--data", "data.npz", "--out", "own", "--no-pdf")
    how = ("--exact", "--width", "1.5", "--memory", "64", "--checkpoint", "work")
    for arguments in (start, (*start, *how)):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
    names = ("exact", "fill", "width", "memory", "checkpoint")
    assert [seen[0][name] for name in names] == [False, False, 1.01, 2**30, None]
    assert [seen[1][name] for name in names] == [True, False, 1.5, 2**26, Path("work")]
    assert any((folder / "work").iterdir())


def test_weights_are_loaded(folder: Path) -> None:
    network, _ = load_model("own_networks:plain", None)
    state = {name: value + 1 for name, value in network.state_dict().items()}
    torch.save(state, folder / "weights.pt")
    loaded, initial = load_model("own_networks:pair", folder / "weights.pt")
    assert initial is not None
    assert torch.equal(loaded.state_dict()["0.weight"], state["0.weight"])
    assert not torch.equal(initial.state_dict()["0.weight"], state["0.weight"])


def test_report_of_an_exported_program(folder: Path) -> None:
    network, _ = load_model("own_networks:plain", None)
    batch = torch.export.Dim("batch")
    program = torch.export.export(network.eval(), (torch.zeros(4, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    result = invoke("report", "model.pt2", "--data", "data.npz", "--out", "own", "--no-pdf")
    assert result.exit_code == 0, result.output


def test_trace_shows_the_graph_and_draws_it(folder: Path) -> None:
    """A network without rules for bounds, too; coarse where a block is named."""
    result = invoke("trace", "own_networks:relu", "--data", "data.npz", "--picture", "graph.png")
    assert result.exit_code == 0, result.output
    assert "1 = relu(0) : 5 @ 1\n2 = linear(1) : 3 {weight=2.weight, bias=2.bias} @ 2\nreturn 2" in result.output
    assert "traced by export: 3 torch calls -> 4 nodes" in result.output
    assert (folder / "graph.png").stat().st_size > 1000
    merged = invoke("trace", "own_networks:double", "--data", "two.npz", "--block", "body", "--output", "sum")
    assert merged.exit_code == 0, merged.output
    assert "body(image; 2 nodes) : 3" in merged.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own_networks:relu", "--picture", "a.xyz"], "ends in png, pdf, svg"),
        (["own_networks:relu", "--data", "missing.npz"], "expected 'digits' or an .npz file"),
        (["missing.pt2"], "there is no file"),
        (["own_networks:plain", "--picture", "missing/g.png"], "lies in missing, which is no folder"),
        (["own_networks:relu"], "fails on the example"),
    ],
)
def test_trace_says_what_is_wrong(folder: Path, arguments: list[str], message: str) -> None:
    result = invoke("trace", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_samples_keep_integers_and_take_floats_in_the_models_precision(folder: Path) -> None:
    assert load_sample("data.npz").tensors[0].dtype == torch.float32
    np.savez("tokens.npz", x=np.zeros((3, 2), dtype=np.int64), y=np.zeros(3, dtype=np.int64))
    assert load_sample("tokens.npz").tensors[0].dtype == torch.int64
    assert len(load_sample("digits")) == 1437


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own_networks"], "expected package.module:factory"),
        (["own_networks:missing"], "cannot find own_networks:missing"),
        (["no_such_module:f"], "No module named"),
        (["own_networks:nothing"], "gave int, expected a torch module"),
        (["nothing.pt2"], "there is no file nothing.pt2"),
        (["own_networks.pt2"], "no file of torch.export.save"),
        (["own_networks:plain", "--data", "nothing.npz"], "expected 'digits' or an .npz file"),
        (["own_networks:plain", "--data", "short.npz"], "arrays of {'x': 30, 'y': 29} rows"),
        (["own_networks:plain", "--data", "data.npz", "--mode", "fast"], "expected one of minimal, paper"),
        (["own_networks:plain", "--weights", "data.npz"], "cannot be read"),
        (["own_networks:plain", "--weights", "missing.pt"], "where there is no file"),
        (["own_networks:plain", "--weights", "other.pt"], "they lack '0.bias', '0.weight'"),
        (["own_networks:plain", "--weights", "wide.pt"], "'0.weight' has the shape (5, 7), expected (5, 6)"),
        (["own_networks:plain", "--weights", "text.pt"], "hold a str, expected a state dict"),
        (["own_networks:plain", "--weights", "epoch.pt"], "hold 'epoch', expected a state dict"),
        (["own_networks:sized"], "expected a function without arguments"),
        (["own_networks:broken"], "own_networks:broken() fails: ValueError: no weights"),
        (["own_networks:number"], "is of type int, expected a function that returns a model"),
        (["faulty:net"], "faulty cannot be imported: ZeroDivisionError"),
        (["own_networks:plain", "--data", "data.npz", "--out", "data.npz"], "the folder data.npz cannot be made"),
        (["own_networks:plain", "--data", "data.npz", "--out", "/proc/x"], "the folder /proc/x cannot be made"),
        (["own_networks:plain", "--data", "two.npz"], "expected labels under one of the names labels, label"),
        (["own_networks:plain", "--data", "scalar.npz"], "an array that is one number, expected a row a sample"),
        (["own_networks:plain", "--data", "copies.npz"], "30 of the 60 samples are exact copies"),
    ],
)
def test_what_is_wrong_with_the_command_is_said(folder: Path, arguments: list[str], message: str) -> None:
    result = invoke("report", *arguments, "--no-pdf")
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", "").split())


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["own_networks:steps", "--data", "data.npz"], "UnsupportedOperationError: "),
        (["own_networks:plain", "--data", "labels.npz"], "LabelError: "),
        (["own_networks:plain", "--data", "data.npz", "--delta", "2"], "ParameterError: "),
        (["own_networks:plain", "--data", "data.npz", "--width", "1"], "ParameterError: "),
        (["own_networks:plain", "--data", "data.npz", "--memory", "0"], "ParameterError: "),
    ],
)
def test_an_error_of_covergraph_is_one_message(folder: Path, arguments: list[str], start: str) -> None:
    result = invoke("report", *arguments, "--no-pdf")
    assert result.exit_code == 2
    assert result.stderr.startswith(start) and "Traceback" not in result.output


def wrapped(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in state.items()}


CHECKPOINTS: dict[str, Any] = {
    "plain": lambda state: state,
    "parallel": lambda state: wrapped(state, "module."),
    "compiled and parallel": lambda state: wrapped(state, "_orig_mod.module."),
    "averaged": lambda state: wrapped(state, "module.") | {"n_averaged": torch.tensor(3)},
    "nested": lambda state: {"epoch": 3, "model_state_dict": state, "optimizer": {"lr": 0.1}},
    "of a module around it": lambda state: {"epoch": 3, "state_dict": wrapped(state, "model.")},
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_weights_of_wrappers_and_checkpoints_are_understood(folder: Path, kind: str) -> None:
    own, _ = load_model("own_networks:plain", None)
    state = {name: value + 1 for name, value in own.state_dict().items()}
    torch.save(CHECKPOINTS[kind](state), "weights.pt")
    loaded, _ = load_model("own_networks:plain", Path("weights.pt"))
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_a_wrapped_model_takes_plain_weights(folder: Path) -> None:
    own, _ = load_model("own_networks:plain", None)
    torch.save(own.state_dict(), "weights.pt")
    around = torch.nn.DataParallel(load_model("own_networks:plain", None)[0])
    load_weights(around, Path("weights.pt"), "around")
    assert torch.equal(around.module[0].weight, own[0].weight)


def test_a_model_that_is_there_needs_no_factory(folder: Path) -> None:
    result = invoke("trace", "own_networks:made", "--data", "data.npz")
    assert result.exit_code == 0 and "linear" in result.output


def test_arrays_go_to_the_arguments_of_their_names(folder: Path) -> None:
    with np.load("two.npz") as arrays:
        np.savez("named.npz", labels=np.arange(30) % 3, bias=arrays["bias"], image=arrays["image"])
    shown = invoke("trace", "own_networks:double", "--data", "named.npz", "--output", "sum")
    assert shown.exit_code == 0 and "image = input() : 6" in shown.output and "bias = input() : 3" in shown.output


def test_an_array_alone_is_the_inputs(folder: Path) -> None:
    np.save("x.npy", np.zeros((4, 6), dtype=np.float32))
    shown = invoke("trace", "own_networks:plain", "--data", "x.npy")
    assert shown.exit_code == 0 and "input = input() : 6" in shown.output
    refused = invoke("report", "own_networks:plain", "--data", "x.npy", "--no-pdf")
    said = " ".join(refused.output.replace("│", "").split())
    assert "the arrays x, expected labels" in said and "np.savez('data.npz', x=x, y=y)" in said


def test_a_table_is_to_be_written_as_arrays(folder: Path) -> None:
    Path("x.csv").write_text("a,b\n1,2\n")
    said = " ".join(invoke("report", "own_networks:plain", "--data", "x.csv").output.replace("│", "").split())
    assert "expected 'digits' or an .npz file" in said and "to_numpy" in said and "pickle" not in said


@pytest.mark.parametrize("command", ["report", "trace"])
def test_what_to_do_about_bytes_can_be_done_on_the_command_line(folder: Path, command: str) -> None:
    np.savez("bytes.npz", x=np.arange(180, dtype=np.uint8).reshape(30, 6), y=np.arange(30) % 3)
    said = invoke(command, "own_networks:plain", "--data", "bytes.npz").stderr
    assert "np.savez('data.npz', x=x.astype('float32') / 255, y=y) for bytes" in said
    assert "lambda" not in said and "torch.uint8" in said


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["own_networks:plain", "--data", "copies.npz"], "pass --duplicates iid"),
        (["own_networks:same", "--data", "data.npz"], "pass --trust-init"),
        (["own_networks:two", "--data", "data.npz"], "pass --output one of ['0', '1']"),
    ],
)
def test_remedies_are_options_of_the_command_line(folder: Path, arguments: list[str], remedy: str) -> None:
    assert remedy in invoke("report", *arguments, "--no-pdf").stderr


def test_an_output_is_chosen(folder: Path) -> None:
    report = invoke("report", "own_networks:two", "--data", "data.npz", "--no-pdf", "--fill", "--output", "0")
    assert report.exit_code == 0, report.output


class Terminal(StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def plain(shown: StringIO) -> str:
    """What was printed, without colors and progress."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).rsplit("\r", 1)[-1]


@pytest.mark.parametrize("columns", [60, 100])
def test_lines_fit_a_terminal_and_stay_whole_elsewhere(
    folder: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["report", "own_networks:plain", "--data", "data.npz", "--no-pdf", "--fill"]
    monkeypatch.setenv("COLUMNS", str(columns))
    piped = invoke(*arguments).output
    (sentence,) = [line for line in piped.splitlines() if line.startswith("own_networks:plain.")]
    assert "With probability at least 95 %" in sentence and sentence.endswith("samples.")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", shown := Terminal())
    app(arguments, standalone_mode=False)
    lines = [line for line in plain(shown).splitlines() if not line.startswith("report: ")]
    assert max(map(len, lines)) <= columns
    assert sentence in " ".join(" ".join(lines).split())


def test_errors_fit_a_terminal_and_stay_whole_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["report", "own_networks:plain", "--data", "labels.npz", "--no-pdf"]
    monkeypatch.setenv("COLUMNS", "60")
    (whole,) = invoke(*arguments).stderr.splitlines()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    assert app(arguments, standalone_mode=False) == 2
    lines = plain(shown).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 60
    assert whole in " ".join(" ".join(lines).split())


def test_errors_have_no_box_in_a_pipe(folder: Path) -> None:
    command = [sys.executable, "-c", "from covergraph.cli import main; main()", "report", "own_networks"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "│" not in done.stderr
    assert any(line.endswith("expected package.module:factory or a file .pt2") for line in done.stderr.splitlines())
