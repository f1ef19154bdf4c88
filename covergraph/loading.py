"""Models, weights and folders that the command line names: everything is checked before any work begins."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn

from covergraph.errors import CovergraphError
from covergraph.graph.evaluation import as_module

NESTED = ("state_dict", "model_state_dict", "model", "weights", "net")
"""The keys under which checkpoints keep a state dict among other things."""
PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers put before every name: DataParallel and DDP, torch.compile, Lightning."""


def load_model(source: str, weights: Path | None) -> tuple[nn.Module, nn.Module | None]:
    """The model and, if known, the model before training. Raises `typer.BadParameter` with what is wrong."""
    made = _exported(Path(source)) if source.endswith(".pt2") else _made(source)
    network, initial = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(network, nn.Module) or not isinstance(initial, nn.Module | None):
        raise typer.BadParameter(f"{source} gave {type(made).__name__}, expected a torch module or a pair of them")
    if weights is not None:
        load_weights(network, weights, source)
    return network, initial


def _exported(path: Path) -> nn.Module:
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {path}")
    try:
        program = torch.export.load(path)
    except Exception as reason:  # torch raises many types here
        raise typer.BadParameter(f"{path} is no file of torch.export.save: {reason}") from None
    try:
        return as_module(program)
    except CovergraphError as reason:
        raise typer.BadParameter(f"{path} cannot be read: {reason}") from None


def _made(source: str) -> Any:
    """What a factory returns, or the module that the name stands for."""
    package, _, name = source.partition(":")
    if not package or not name:
        raise typer.BadParameter(f"the model is {source!r}, expected package.module:factory or a file .pt2")
    sys.path.insert(0, "")
    try:
        factory = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as reason:
        raise typer.BadParameter(f"cannot find {source}: {reason}") from None
    except Exception as reason:  # the user's code
        raise typer.BadParameter(f"{package} cannot be imported: {_line(reason)}") from None
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        kind = type(factory).__name__
        raise typer.BadParameter(f"{source} is of type {kind}, expected a function that returns a model")
    try:
        return factory()
    except Exception as reason:  # the user's code
        raise typer.BadParameter(
            f"{source}() fails: {_line(reason)}; expected a function without arguments that returns a model"
        ) from None


def _line(reason: Exception) -> str:
    return f"{type(reason).__name__}: {(str(reason).splitlines() or [''])[0]}"


def load_weights(network: nn.Module, path: Path, source: str) -> None:
    """Load a state dict, or a checkpoint that holds one, saved on any device and of a wrapped model or not.

    Raises `typer.BadParameter` with the names that are missing and those that are too many.
    """
    if not path.is_file():
        raise typer.BadParameter(f"the weights are {path}, where there is no file; expected what torch.save wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as reason:  # torch raises many types here
        raise typer.BadParameter(
            f"the weights {path} cannot be read ({_line(reason)}); expected a state dict: "
            "torch.save(model.state_dict(), path)"
        ) from None
    wanted = network.state_dict()
    state = unwrapped(state_dict_in(content, path), set(wanted))
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or extra:
        parts = [f"{what} {_some(names)}" for what, names in (("lack", missing), ("have besides", extra)) if names]
        raise typer.BadParameter(f"the weights {path} do not fit {source}: they {', and '.join(parts)}")
    wrong = [name for name, value in state.items() if value.shape != wanted[name].shape]
    if wrong:
        shapes = f"{wrong[0]!r} has the shape {tuple(state[wrong[0]].shape)}, expected {tuple(wanted[wrong[0]].shape)}"
        raise typer.BadParameter(f"the weights {path} do not fit {source}: {shapes}")
    network.load_state_dict(state)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def state_dict_in(content: Any, path: Path) -> Mapping[str, Tensor]:
    """The state dict in what torch.save wrote. Raises `typer.BadParameter` if there is none, or more than one."""
    if not isinstance(content, Mapping):
        raise typer.BadParameter(f"the weights {path} hold a {type(content).__name__}, expected a state dict")
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    found = [key for key in NESTED if _is_state(content.get(key))]
    if len(found) > 1:
        raise typer.BadParameter(
            f"the weights {path} hold a state dict under each of {_some(found)}, expected one; save that which is meant"
        )
    if not found:
        raise typer.BadParameter(
            f"the weights {path} hold {_some(list(map(str, content)))}, expected a state dict, or one under "
            f"{' or '.join(NESTED)}"
        )
    return content[found[0]]


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def unwrapped(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The state under the model's names: prefixes of wrappers are dropped, or added, if that makes all names fit."""
    found = dict(state)
    for _ in PREFIXES:
        if set(found) == wanted:
            break
        for prefix in PREFIXES:
            if found and all(name.startswith(prefix) or name == "n_averaged" for name in found):
                found = {name.removeprefix(prefix): value for name, value in found.items() if name != "n_averaged"}
    for prefix in PREFIXES:
        if {f"{prefix}{name}" for name in found} == wanted:
            return {f"{prefix}{name}": value for name, value in found.items()}
    return found if set(found) == wanted else dict(state)


def require_folder(path: Path) -> None:
    """Make a folder that files can be written to. Raises `typer.BadParameter`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        said = f"the folder {path} cannot be made ({reason.strerror})"
        raise typer.BadParameter(f"{said}; choose another with --out") from None
    if not os.access(path, os.W_OK):
        raise typer.BadParameter(f"the folder {path} cannot be written to; choose another with --out")


def require_file(path: Path) -> None:
    """Raise `typer.BadParameter` unless a file can be written there."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "is a folder" if path.is_dir() else f"lies in {folder}, which is no folder that can be written to"
        raise typer.BadParameter(f"the picture {path} {reason}; choose another file with --picture")
