"""The embedded data set: 1,797 real images of handwritten digits, which need no download."""

from __future__ import annotations

import sklearn.datasets
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import TensorDataset

TEST_SHARE = 0.2
SPLIT_SEED = 0


def load_digits() -> tuple[TensorDataset, TensorDataset]:
    """Return scikit-learn's digits as (train, test): 1,437 and 360 images.

    Images are float32 of shape (n, 1, 8, 8) in [0, 1], labels int64 of shape (n,). The split never
    changes and does not look at the labels (a stratified sample is not independent), and the scale is the fixed
    factor 1/16: neither depends on the sample, as certificates assume.
    """
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)  # (1797, 64) in 0..16, (1797,)
    images = torch.as_tensor(pixels / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    targets = torch.as_tensor(labels, dtype=torch.int64)
    train, test = train_test_split(range(len(targets)), test_size=TEST_SHARE, random_state=SPLIT_SEED)
    return TensorDataset(images[train], targets[train]), TensorDataset(images[test], targets[test])
