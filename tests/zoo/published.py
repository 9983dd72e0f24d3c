"""Published networks of torchvision and timm, their weights random, their images as small as they allow."""

from __future__ import annotations

import torchvision
from torch import Tensor, nn

from .registry import CLASSES, Animal, images

IMAGE_SIDE = 64
TORCHVISION = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "regnet_y_400mf",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
)
TIMM = (
    "convnext_atto", "vit_tiny_patch16_224", "mobilenetv4_conv_small", "efficientvit_b0", "fastvit_t8", "resnet18d",
    "regnety_002", "swin_tiny_patch4_window7_224",
)  # fmt: skip


def _images(count: int) -> Tensor:
    return images(count, side=IMAGE_SIDE)


def _torchvision(name: str) -> nn.Module:
    settings: dict[str, object] = {"weights": None, "num_classes": CLASSES}
    if name == "googlenet":
        settings |= {"init_weights": False, "aux_logits": False}
    network: nn.Module = torchvision.models.get_model(name, **settings)
    return network


def _timm(name: str) -> nn.Module:
    import timm

    settings: dict[str, object] = {"img_size": IMAGE_SIDE} if name.startswith(("vit", "swin")) else {}
    if name.startswith("swin"):
        settings |= {"window_size": 4, "depths": (1, 1, 2, 1)}
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **settings)
    return network


def _animal(name: str, library: str) -> Animal:
    make = _torchvision if library == "torchvision" else _timm
    return Animal(f"{library}_{name}", lambda: make(name), _images, rounding="nearest")


def _small_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(IMAGE_SIDE, 8, 4, 4, 64, 128, num_classes=CLASSES)


def _small_dense() -> nn.Module:
    return torchvision.models.DenseNet(16, (3, 4, 3), 32, num_classes=CLASSES)


PUBLISHED = {
    animal.name: animal
    for animal in (
        *(_animal(name, "torchvision") for name in TORCHVISION),
        *(_animal(name, "timm") for name in TIMM),
        Animal("torchvision_small_vit", _small_transformer, _images, rounding="nearest"),
        Animal("torchvision_small_densenet", _small_dense, _images, rounding="nearest"),
    )
}
