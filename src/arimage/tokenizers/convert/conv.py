"""What the layouts of published convolutional tokenizers share: levels by name -> our layers.

Our encoder and decoder are numbered lists of layers (conv.py); theirs are named by level.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from arimage.checkpoint import Layout, Weights
from arimage.tokenizers.conv import NETWORKS
from arimage.tokenizers.vq import VQTokenizer, VQTokenizerConfig

NORM_GROUPS = 32  # of every family, written into its code
IMAGE_SIZE = 256  # which all were trained on first; files do not say
PARTS = r"norm\d?|conv\d|nin_shortcut|q|k|v|qkv|proj_out|gamma|beta"
LEAF = re.compile(rf"(.+?)(?:\.({PARTS}))?\.(weight|bias)")
OURS = {"nin_shortcut": "shortcut", "proj_out": "project"}
OURS |= {part: f"qkv+{i}" for i, part in enumerate("qkv")}


@dataclass(frozen=True, kw_only=True)
class Names:
    """How a family calls the layers of a level; LDM's names unless told otherwise.

    ``low_first``: level 0 of the decoder has the lowest resolution, not the full one. ``middle``
    of networks with a deep middle is one name with a place for the number.
    """

    encoder: str = "down.{}"
    decoder: str = "up.{}"
    low_first: bool = False
    block: str = "block"
    attention: str = "attn"
    down: str = "downsample.conv"
    up: str = "upsample.conv"
    middle: tuple[str, ...] = ("mid.block_1", "mid.attn_1", "mid.block_2")
    style: str = "adaptive.{}"


class ConvLayout(Layout):
    """Sizes of the networks and names of their layers; subclasses know the quantizer.

    Class attributes: ``names``, and ``network``, a name in conv.py.
    """

    names: ClassVar[Names] = Names()
    network: ClassVar[str] = "ldm"
    anchors = ("encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight")
    renames = (
        (r"quant_conv\.(weight|bias)", r"pre_quant.\1"),
        (r"post_quant_conv\.(weight|bias)", r"post_quant.\1"),
        (r"quantize\.embedding\.weight", "quantizer.inner.weight"),
    )

    def sizes(self, weights: Weights) -> dict[str, Any]:
        """The fields of the config that the networks decide."""
        first = f"{re.escape(self.names.encoder)}".replace(r"\{\}", r"(\d+)")
        levels = count(weights, rf"encoder\.{first}\..*")
        top = f"encoder.{self.names.encoder}.{self.names.block}"
        blocks = count(weights, rf"{re.escape(top.format(0))}\.(\d+)\..*")
        channels = weights["encoder.conv_in.weight"].shape[0]
        widths = [weights[f"{top.format(i)}.0.conv1.weight"].shape[0] for i in range(levels)]
        return {
            "downsample_factor": 2 ** (levels - 1),
            "channels": channels,
            "channel_multipliers": tuple(width // channels for width in widths),
            "num_res_blocks": blocks,
            "latent_channels": weights["decoder.conv_in.weight"].shape[1],
            "norm_groups": NORM_GROUPS,
            "network": self.network,
        }

    def rename(self, key: str, config: Any) -> str | None:
        """As every layout's; q, k and v of an attention become one tensor."""
        match = LEAF.fullmatch(key)
        layer = match and layers(config, self.names).get(match[1])
        if match is None or layer is None:
            return super().rename(key, config)
        leaf, _, part = OURS.get(match[2], match[2] or "").partition("+")
        name = ".".join(filter(None, (layer, leaf, match[3])))
        return f"{name}+{part}" if part else name


class SingleScaleLayout(ConvLayout):
    """A tokenizer with one token map; the image size is a hint."""

    model = VQTokenizer
    droppable: ClassVar[dict[str, str]] = {}

    def config(self, weights: Weights, **hints: Any) -> VQTokenizerConfig:
        """From shapes; the hints are ``image_size``, or ``scales`` with the side of the one map.

        Raises:
            ValueError: several scales.
        """
        sizes = self.sizes(weights)
        quantizer, vocab_size, code_dim = self.codes(weights)
        size, scales = hints.get("image_size"), hints.get("scales")
        if scales is not None and len(scales) != 1:
            raise ValueError(
                f"got scales {', '.join(map(str, scales))} for a {self.name}, which has one token "
                "map; give its side alone"
            )
        if scales is not None:
            size = scales[0] * sizes["downsample_factor"]
        return VQTokenizerConfig(
            image_size=size or IMAGE_SIZE,
            vocab_size=vocab_size,
            code_dim=code_dim,
            quantizer=quantizer,
            **sizes,
        )

    def codes(self, weights: Weights) -> tuple[str, int, int]:
        """Our name of the quantizer, how many codes it has, and their dimension."""
        quantizer, codes = self.codebook(weights)
        return quantizer, *weights[codes].shape

    def codebook(self, weights: Weights) -> tuple[str, str]:
        """Our name of the quantizer, and the published name of its codes."""
        return "vq_learned", "quantize.embedding.weight"


def layers(config: VQTokenizerConfig, names: Names) -> dict[str, str]:
    """Published names of the layers that have weights -> ours."""
    network, levels = NETWORKS[config.network], len(config.channel_multipliers)
    middle = list(names.middle)
    if network.deep_middle:
        middle = [names.middle[0].format(i) for i in range(config.num_res_blocks)]
    encoder, decoder = ["conv_in"], ["conv_in", *middle]
    for level in range(levels):
        place = names.encoder.format(level)
        lowest = level == levels - 1
        encoder += _blocks(place, names, config.num_res_blocks, lowest and network.attention)
        encoder += [] if lowest else [f"{place}.{names.down}"]
    for level in reversed(range(levels)):
        place = names.decoder.format(levels - 1 - level if names.low_first else level)
        count = config.num_res_blocks + network.decoder_extra
        attention = level == levels - 1 and network.attention
        decoder += [names.style.format(level)] if network.styled else []
        decoder += _blocks(place, names, count, attention)
        decoder += [f"{place}.{names.up}"] if level else []
    end = ["norm_out", "", "conv_out"]  # "" has no weights
    sides = {"encoder": [*encoder, *middle, *end], "decoder": [*decoder, *end]}
    return {
        f"{side}.{name}": f"{side}.layers.{i}" + ".conv" * name.endswith((names.down, names.up))
        for side, found in sides.items()
        for i, name in enumerate(found)
    }


def _blocks(place: str, names: Names, blocks: int, attention: bool) -> list[str]:
    kinds = (names.block, names.attention) if attention else (names.block,)
    return [f"{place}.{kind}.{i}" for i in range(blocks) for kind in kinds]


def count(weights: Weights, pattern: str) -> int:
    """One more than the largest number that ``pattern`` captures in a key; 0 if none does."""
    found = (re.fullmatch(pattern, key) for key in weights)
    return max((int(match[1]) + 1 for match in found if match), default=0)
