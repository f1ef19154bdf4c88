"""torchvision's architectures with random weights, at image sizes that keep them quick."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from zoo.entry import BATCH, Case, images
from zoo.shim import load

# 64 pixels where the architecture lets us; what is fixed, or too small for its own strides, has its own size.
CLASSIFIERS: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (96, {}),
    "convnext_tiny": (64, {}),
    "densenet121": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "googlenet": (64, {"init_weights": False}),
    "inception_v3": (96, {"init_weights": False}),
    "maxvit_t": (224, {}),
    "mnasnet1_0": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_large": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "regnet_x_400mf": (64, {}),
    "regnet_y_400mf": (64, {}),
    "resnet18": (64, {}),
    "resnet50": (64, {}),
    "resnet152": (64, {}),
    "resnext50_32x4d": (64, {}),
    "shufflenet_v2_x1_0": (64, {}),
    "squeezenet1_1": (64, {}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "vgg11": (32, {}),
    "vgg16_bn": (32, {}),
    "vit_b_16": (64, {"image_size": 64}),
    "wide_resnet50_2": (64, {}),
}

SEGMENTERS = ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large")

# frames, pixels
VIDEOS = {"mc3_18": (4, 32), "r2plus1d_18": (4, 32), "r3d_18": (4, 32), "swin3d_t": (4, 64)}


def classifier(name: str, size: int, options: dict[str, Any]) -> Case:
    """A model of torchvision.models."""
    return Case(load("torchvision.models").get_model(name, weights=None, **options), images(size))


def segmenter(name: str) -> Case:
    """A model of torchvision.models.segmentation, which returns a dict."""
    model = load("torchvision.models").get_model(name, weights=None, weights_backbone=None, num_classes=5)
    return Case(model, images(64), output="out")


def video(name: str, frames: int, size: int) -> Case:
    """A model of torchvision.models.video, on (channels, frames, height, width)."""
    return Case(load("torchvision.models").get_model(name, weights=None), (torch.randn(BATCH, 3, frames, size, size),))


CASES: dict[str, Callable[[], Case]] = {
    **{name: partial(classifier, name, size, options) for name, (size, options) in CLASSIFIERS.items()},
    **{name: partial(segmenter, name) for name in SEGMENTERS},
    **{name: partial(video, name, *sizes) for name, sizes in VIDEOS.items()},
}
"""Builders by name."""
