"""The residual network that the bundled tasks make light."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes.

    Source: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), section 4.2, with option B shortcuts.

    Args:
        input_channels: Channels of the input.
        output_channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
    """

    def __init__(self, input_channels: int, output_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(input_channels, output_channels, 3, stride=stride, padding=1, bias=False)
        self.normalization1 = nn.BatchNorm2d(output_channels)
        self.activation1 = nn.ReLU()
        self.convolution2 = nn.Conv2d(output_channels, output_channels, 3, padding=1, bias=False)
        self.normalization2 = nn.BatchNorm2d(output_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or input_channels != output_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(input_channels, output_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(output_channels),
            )
        self.activation2 = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (batch, input_channels, height, width) to (batch, output_channels, height / stride, width / stride)."""
        inner = self.activation1(self.normalization1(self.convolution1(inputs)))
        inner = self.normalization2(self.convolution2(inner))
        outputs: Tensor = self.activation2(inner + self.shortcut(inputs))
        return outputs


class ResNet(nn.Module):
    """A residual network for small images: one 3x3 convolution, stages of basic blocks, pooling, one linear layer.

    Every stage but the first halves height and width. With three blocks in each of three stages it is ResNet-20 of
    He et al. (CVPR 2016), section 4.2.

    Args:
        input_channels: Channels of the images.
        outputs: Classes.
        widths: Channels of each stage.
        blocks_per_stage: Basic blocks of each stage, as many entries as ``widths``.

    Raises:
        ValueError: Where the two differ in length or hold numbers below 1.
    """

    def __init__(
        self,
        input_channels: int,
        outputs: int,
        widths: Sequence[int] = (16, 32, 64),
        blocks_per_stage: Sequence[int] = (2, 2, 2),
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks_per_stage) or not widths or min(*widths, *blocks_per_stage) < 1:
            raise ValueError(f"one width and one number of blocks per stage expected, got {widths}, {blocks_per_stage}")
        self.stem = nn.Sequential(
            nn.Conv2d(input_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages = []
        previous = widths[0]
        for index, (width, blocks) in enumerate(zip(widths, blocks_per_stage, strict=True)):
            first = BasicBlock(previous, width, stride=1 if index == 0 else 2)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1))))
            previous = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(previous, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (batch, input_channels, height, width) to logits (batch, outputs)."""
        logits: Tensor = self.classifier(self.flatten(self.pool(self.stages(self.stem(images)))))
        return logits
