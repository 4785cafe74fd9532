"""The network behind FID: Inception v3 as a TensorFlow graph of December 2015 computes it.

Names of modules and tensors are those of the published state dict (toshas/torch-fidelity release
v0.2.0, mseitzer/pytorch-fid release fid_weights), so a file loads without renaming. It differs from
torchvision's Inception v3 in four points: 1,008 classes, no auxiliary head, average pools that do
not count the padding, and a maximum pool in the last block, which that graph has instead.

Source: Szegedy et al. 2016, "Rethinking the Inception Architecture"; behaviour of
toshas/torch-fidelity@5e211a9 feature_extractor_inceptionv3.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from arimage.shapes import Float

CLASSES = 1008
WIDTH = 2048
SPATIAL_CHANNELS = 7  # of sFID, openai/guided-diffusion@22e0df8 evaluations/evaluator.py
NORM_EPS = 1e-3  # of the graph's batch norms, as in torch-fidelity


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) -> (b, outputs, h', w')."""
        return self.bn(self.conv(x)).relu_()

    def fold(self) -> None:
        """Moves the norm into the convolution: the same function in one pass over memory."""
        self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.bn)
        self.bn = nn.Identity()


@dataclass(frozen=True)
class Conv:
    """A ``ConvNorm`` of a block: stride 1 keeps the size, stride 2 pads nothing."""

    name: str
    outputs: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1

    def build(self, inputs: int) -> ConvNorm:
        """The module."""
        size = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        padding = (size[0] // 2, size[1] // 2) if self.stride == 1 else 0
        return ConvNorm(inputs, self.outputs, size, stride=self.stride, padding=padding)


# A branch is a chain of convolutions and pools; a tuple in it is a fork, its ends concatenated.
Chain = tuple["Conv | str | tuple[Conv, Conv]", ...]

POOLS = {
    "average": lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "max": lambda x: functional.max_pool2d(x, 3, 1, 1),
    "halve": lambda x: functional.max_pool2d(x, 3, 2),
}


class Mixed(nn.Module):
    """A block of branches that read the same input and are concatenated, in their order."""

    def __init__(self, inputs: int, *branches: Chain) -> None:
        super().__init__()
        self.branches = branches
        for chain in branches:
            width = inputs
            for step in chain:
                if isinstance(step, str):
                    continue
                convs = step if isinstance(step, tuple) else (step,)
                for conv in convs:
                    self.add_module(conv.name, conv.build(width))
                width = sum(conv.outputs for conv in convs)

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, h, w) -> (b, outputs, h', w')."""
        return torch.cat([self._run(chain, x) for chain in self.branches], 1)

    def _run(self, chain: Chain, x: Tensor) -> Tensor:
        for step in chain:
            if isinstance(step, str):
                x = POOLS[step](x)
            elif isinstance(step, tuple):
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], 1)
            else:
                x = self.get_submodule(step.name)(x)
        return x


def _block_a(inputs: int, pool: int) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5)),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, 3),
            Conv("branch3x3dbl_3", 96, 3),
        ),
        ("average", Conv("branch_pool", pool)),
    )


def _block_b(inputs: int) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch3x3", 384, 3, 2),),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, 3),
            Conv("branch3x3dbl_3", 96, 3, 2),
        ),
        ("halve",),
    )


def _block_c(inputs: int, middle: int) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", middle),
            Conv("branch7x7_2", middle, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", middle),
            Conv("branch7x7dbl_2", middle, (7, 1)),
            Conv("branch7x7dbl_3", middle, (1, 7)),
            Conv("branch7x7dbl_4", middle, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        ("average", Conv("branch_pool", 192)),
    )


def _block_d(inputs: int) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, 2)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, 3, 2),
        ),
        ("halve",),
    )


def _block_e(inputs: int, pool: str) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch1x1", 320),),
        (
            Conv("branch3x3_1", 384),
            (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, 3),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Conv("branch_pool", 192)),
    )


class Taps(NamedTuple):
    """What metrics read of the network."""

    pool: Float[Tensor, "b 2048"]  # the average of the last map
    spatial: Float[Tensor, "b 2023"]  # a corner of channels of Mixed_6d, position by position


class InceptionV3(nn.Module):
    """Images of 299 px to features; ``logits`` to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "average")
        self.Mixed_7c = _block_e(2048, "max")
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Float[Tensor, "b 3 299 299"]) -> Taps:
        """The taps of images in about [-1, 1]."""
        halve = POOLS["halve"]
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(halve(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(halve(x))))  # (b, 288, 35, 35)
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))  # (b, 768, 17, 17)
        # Channels last, as TensorFlow lays them out: stored statistics are in this order.
        spatial = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))  # (b, 2048, 8, 8)
        return Taps(x.mean((2, 3)), spatial)

    def logits(self, pool: Float[Tensor, "b 2048"], *, bias: bool) -> Float[Tensor, "b 1008"]:
        """Class logits; the Inception Score is defined without the bias."""
        return functional.linear(pool, self.fc.weight, self.fc.bias if bias else None)

    def fold(self) -> "InceptionV3":
        """Folds every norm and lays the weights out for fast inference; returns itself.

        The function stays, within rounding; the state dict is no longer the published one.
        """
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self.to(memory_format=torch.channels_last)
