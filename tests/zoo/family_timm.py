"""timm's architectures with random weights: the smallest of each family, at image sizes that keep them quick."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from zoo.entry import Case, images
from zoo.shim import load

MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "beit_base_patch16_224": (64, {"img_size": 64}),
    "cait_xxs24_224": (64, {"img_size": 64}),
    "coat_lite_tiny": (64, {"img_size": 64}),
    "coatnet_0_rw_224": (224, {}),
    "convit_tiny": (64, {"img_size": 64}),
    "convmixer_768_32": (56, {}),
    "convnextv2_atto": (64, {}),
    "crossvit_9_240": (240, {}),
    "cspdarknet53": (64, {}),
    "davit_tiny": (64, {}),
    "deit3_small_patch16_224": (64, {"img_size": 64}),
    "dla34": (64, {}),
    "dm_nfnet_f0": (64, {}),
    "eca_halonext26ts": (256, {}),
    "edgenext_xx_small": (64, {}),
    "efficientformer_l1": (224, {}),
    "efficientvit_b0": (64, {}),
    "ese_vovnet19b_dw": (64, {}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56}),
    "fastvit_t8": (64, {}),
    "focalnet_tiny_srf": (64, {}),
    "gcvit_xxtiny": (224, {}),
    "ghostnet_100": (64, {}),
    "gmlp_s16_224": (224, {}),
    "hrnet_w18_small": (64, {}),
    "inception_next_atto": (64, {}),
    "lambda_resnet26t": (64, {}),
    "lcnet_050": (64, {}),
    "levit_128s": (224, {}),
    "mambaout_femto": (64, {}),
    "mixer_s16_224": (64, {"img_size": 64}),
    "mobilenetv4_conv_small": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "nest_tiny": (64, {"img_size": 64}),
    "pit_ti_224": (224, {}),
    "poolformer_s12": (64, {}),
    "pvt_v2_b0": (64, {}),
    "regnetz_b16": (64, {}),
    "repvgg_a0": (64, {}),
    "res2net50_26w_4s": (64, {}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "resnest26d": (64, {}),
    "rexnet_100": (64, {}),
    "sequencer2d_s": (64, {"img_size": 64}),
    "skresnet18": (64, {}),
    "swiftformer_xs": (64, {}),
    "tiny_vit_5m_224": (224, {}),
    "tnt_s_patch16_224": (64, {"img_size": 64}),
    "tresnet_m": (64, {}),
    "twins_svt_small": (64, {"img_size": 64}),
    "visformer_tiny": (224, {}),
    "vit_tiny_patch16_224": (64, {"img_size": 64}),
    "volo_d1_224": (224, {}),
    "xcit_nano_12_p16_224": (64, {}),
}


def build(name: str, size: int, options: dict[str, Any]) -> Case:
    """A model of timm, without the network."""
    return Case(load("timm").create_model(name, pretrained=False, **options), images(size))


CASES: dict[str, Callable[[], Case]] = {name: partial(build, name, *rest) for name, rest in MODELS.items()}
"""Builders by name."""
