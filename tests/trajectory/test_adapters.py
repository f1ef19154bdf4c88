"""Callbacks for other packages' loops record what a plain loop records. They need their packages: `make adapters`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import covergraph as cg

X = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
Y = X[:, :1].sin()
SHOWN = ("loss", "epsilon", "pull", "gradient", "move", "distance", "alpha", "samples")


def working(name: str) -> Any:
    """The module; the test is skipped where it is not installed, or does not import (as beside another torchvision)."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))


def plain(batch: int, epochs: int) -> cg.Trajectory:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with cg.TrajectoryRecorder(net, optimizer) as recorder:
        for _ in range(epochs):
            for x, y in zip(X.split(batch), Y.split(batch), strict=True):
                optimizer.zero_grad()
                nn.functional.mse_loss(net(x), y).backward()
                optimizer.step()
            recorder.flush()
    return recorder.trajectory


def assert_same(found: cg.Trajectory, expected: cg.Trajectory) -> None:
    assert len(found) == len(expected) > 0
    for name in SHOWN:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-7, err_msg=name)
    assert found.variance() == pytest.approx(expected.variance(), rel=1e-4)


def test_a_step_with_a_closure_is_recorded_as_one_without() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        return loss

    with cg.TrajectoryRecorder(net, optimizer) as recorder:
        for x, y in zip(X.split(1), Y.split(1), strict=True):  # noqa: B007 (the closure reads them)
            optimizer.step(closure)
    found, expected = recorder.trajectory, plain(1, 1)
    assert_same(found, expected)
    for name in ("top_lower", "top_upper", "frobenius"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    assert found.setting.identity == pytest.approx(0, abs=1e-6)


def fit(path: Path, epochs: int, checkpoint: Path | None = None) -> cg.Trajectory:
    lightning = working("lightning.pytorch")
    from covergraph.adapters.lightning import TrajectoryCallback

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05)

    callback = TrajectoryCallback(path, model="net")
    trainer = lightning.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], accelerator="cpu",
    )
    trainer.fit(Module(), DataLoader(TensorDataset(X, Y), batch_size=4), ckpt_path=checkpoint and str(checkpoint))
    trainer.save_checkpoint(path.with_suffix(".ckpt"))
    return callback.trajectory


@pytest.mark.filterwarnings("ignore")
def test_lightning_records_what_a_plain_loop_does_and_resumes(tmp_path: Path) -> None:
    assert_same(fit(tmp_path / "whole", 3), plain(4, 3))
    fit(tmp_path / "parts", 2)
    (tmp_path / "parts.ckpt").rename(tmp_path / "second.ckpt")
    assert_same(fit(tmp_path / "parts", 3, tmp_path / "second.ckpt"), plain(4, 3))


@pytest.mark.filterwarnings("ignore")
def test_transformers_records_what_a_plain_loop_does_and_resumes(tmp_path: Path) -> None:
    working("transformers.trainer"), working("accelerate")
    transformers = working("transformers")
    from covergraph.adapters.transformers import TrajectoryCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.net(x)
            return {"loss": nn.functional.mse_loss(logits, labels), "logits": logits}

    def run(name: str, epochs: int, resume: bool = False) -> cg.Trajectory:
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / name), num_train_epochs=epochs, per_device_train_batch_size=4, learning_rate=0.05,
            lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, report_to=[], use_cpu=True,
            save_strategy="epoch", disable_tqdm=True, train_sampling_strategy="sequential",
        )
        callback = TrajectoryCallback(tmp_path / f"{name}.trajectory", layer="net.0")
        data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
        trainer = transformers.Trainer(model=Model(), args=arguments, train_dataset=data, callbacks=[callback])
        trainer.train(resume_from_checkpoint=resume)
        return callback.trajectory

    assert_same(run("whole", 3), plain(4, 3))
    run("parts", 2)
    assert_same(run("parts", 3, resume=True), plain(4, 3))
