"""Open-MAGVIT2's tokenizer files: ``imagenet_256_L.ckpt``, ``imagenet_128_L.ckpt``.

Keys and shapes: TencentARC/SEED-Voken@b9a17ea src/Open_MAGVIT2/models/lfqgan.py and
modules/diffusionmodules/improved_model.py. There is no codebook: a code is the signs of as many
channels as the latents have. Theirs counts the first channel as the lowest bit of an id, ours as
the highest, so the channels are reversed here; ids are then the same.
"""

from typing import Any, ClassVar

import torch

from arimage.checkpoint import Weights
from arimage.tokenizers.convert.conv import Names, SingleScaleLayout
from arimage.tokenizers.convert.ibq import averaged

OUT = ("encoder.conv_out.weight", "encoder.conv_out.bias")  # rows are latent channels
MASK = "quantizer.inner.mask"  # a buffer of the library's, the value of each bit
IN = ("decoder.conv_in.weight", "decoder.adaptive.")  # columns are


class OpenMAGVIT2TokenizerLayout(SingleScaleLayout):
    """No attention, no codebook; averaged weights where the file has them."""

    name = "Open-MAGVIT2 tokenizer"
    network = "magvit2"
    anchors = (*SingleScaleLayout.anchors, "decoder.adaptive.0.gamma.weight")
    names = Names(down="downsample", up="upsample_conv", middle=("mid_block.{}",))
    renames = (*SingleScaleLayout.renames, (MASK, MASK))
    droppable: ClassVar[dict[str, str]] = {
        r"model_ema\.(decay|num_updates)": "how weights were averaged",
        r"(model_ema\.)?loss.*": "LPIPS and the discriminator, for training alone",
    }

    def rename(self, key: str, config: Any) -> str | None:
        """As every tokenizer's."""
        return super().rename(key.replace("upsample.conv1.", "upsample_conv."), config)

    def codes(self, weights: Weights) -> tuple[str, int, int]:
        """As many bits as latent channels."""
        bits = weights["decoder.conv_in.weight"].shape[1]
        return "lfq", 2**bits, bits

    def split(self, weights: Weights, config: Any) -> Weights:
        """The averaged weights, latent channels reversed; and the bits' values, which are ours."""
        found = {key: reversed_bits(key, value) for key, value in averaged(weights).items()}
        return found | {MASK: 2 ** torch.arange(config.code_dim - 1, -1, -1)}


def reversed_bits(key: str, value: Any) -> Any:
    """A weight with the latent channels that it has reversed."""
    if key in OUT:
        return value.flip(0)
    return value.flip(1) if key.startswith(IN) and value.ndim > 1 else value
