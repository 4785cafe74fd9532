"""VAR's tokenizer file ``vae_ch160v4096z32.pth`` and what others trained in its layout.

Keys and shapes: FoundationVision/VAR@78b9539 models/vqvae.py, basic_vae.py, quant.py.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from arimage.checkpoint import Layout, Weights
from arimage.tokenizers.multiscale_vq import MultiScaleVQConfig, MultiScaleVQTokenizer
from arimage.zoo import VAR_SCHEDULES

NORM_GROUPS, PHI_RATIO = 32, 0.5  # models/basic_vae.py Normalize; models/vqvae.py quant_resi
MIDDLE = ("mid.block_1", "mid.attn_1", "mid.block_2")
LAST = ("norm_out", "", "conv_out")
LAYER = re.compile(
    r"(encoder|decoder)\.(conv_in|conv_out|norm_out|mid\.\w+|(?:down|up)\.\d+\."
    r"(?:downsample|upsample|(?:block|attn)\.\d+))\.(.+)"
)


class VARTokenizerLayout(Layout):
    """Channels, levels, blocks, codes and phi from the keys; the schedule is the transformer's."""

    name = "VAR tokenizer"
    model = MultiScaleVQTokenizer
    anchors = (
        "encoder.conv_in.weight",
        "decoder.conv_out.weight",
        "quant_conv.weight",
        "post_quant_conv.weight",
        "quantize.embedding.weight",
    )
    renames = (
        (r"quant_conv\.(weight|bias)", r"pre_quant.\1"),
        (r"post_quant_conv\.(weight|bias)", r"post_quant.\1"),
        (r"quantize\.embedding\.weight", "quantizer.inner.weight"),
        (r"quantize\.quant_resi\.qresi_ls\.(\d+)\.(weight|bias)", r"phi.\1.conv.\2"),
        (r"quantize\.quant_resi\.qresi\.(weight|bias)", r"phi.0.conv.\1"),
        (r"quantize\.quant_resi\.(\d+)\.(weight|bias)", r"phi.\1.conv.\2"),
    )
    droppable: ClassVar[dict[str, str]] = {
        r"quantize\.ema_vocab_hit_SV": "how often codes were used while training",
    }

    def config(self, weights: Weights, **hints: Any) -> MultiScaleVQConfig:
        """From shapes; the hint ``scales`` is the schedule, 256 px if left out."""
        levels = count(weights, r"encoder\.down\.(\d+)\..*")
        blocks = count(weights, r"encoder\.down\.0\.block\.(\d+)\..*")
        channels = weights["encoder.conv_in.weight"].shape[0]
        widths = [weights[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
        vocab_size, code_dim = weights["quantize.embedding.weight"].shape
        scales: Sequence[int] = hints.get("scales") or VAR_SCHEDULES[256]
        factor = 2 ** (levels - 1)
        return MultiScaleVQConfig(
            image_size=scales[-1] * factor,
            downsample_factor=factor,
            vocab_size=vocab_size,
            code_dim=code_dim,
            channels=channels,
            channel_multipliers=tuple(width // channels for width in widths),
            num_res_blocks=blocks,
            latent_channels=weights["quant_conv.weight"].shape[1],
            norm_groups=NORM_GROUPS,
            quantizer="vq_learned",
            scales=tuple(scales),
            num_phi=count(weights, r"quantize\.quant_resi\.(?:\w+\.)?(\d+)\.weight") or 1,
            phi_ratio=PHI_RATIO,
        )

    def rename(self, key: str, config: Any) -> str | None:
        """Our encoder and decoder are numbered lists of layers; theirs are named by level."""
        match = LAYER.fullmatch(key)
        if match is None:
            return super().rename(key, config)
        layers = {"encoder": encoder_layers, "decoder": decoder_layers}[match[1]](config)
        if match[2] not in layers:
            return None
        inner = match[3].replace("nin_shortcut", "shortcut").replace("proj_out", "project")
        return f"{match[1]}.layers.{layers.index(match[2])}.{inner}"


def encoder_layers(config: MultiScaleVQConfig) -> list[str]:
    """Published names of the layers of our encoder, in order; "" has no weights."""
    levels, names = len(config.channel_multipliers), ["conv_in"]
    for level in range(levels):
        lowest = level == levels - 1
        names += _blocks(f"down.{level}", config.num_res_blocks, lowest)
        names += [] if lowest else [f"down.{level}.downsample"]
    return [*names, *MIDDLE, *LAST]


def decoder_layers(config: MultiScaleVQConfig) -> list[str]:
    """Published names of the layers of our decoder, in order; "" has no weights."""
    levels, names = len(config.channel_multipliers), ["conv_in", *MIDDLE]
    for level in reversed(range(levels)):
        names += _blocks(f"up.{level}", config.num_res_blocks + 1, level == levels - 1)
        names += [f"up.{level}.upsample"] if level else []
    return [*names, *LAST]


def _blocks(level: str, blocks: int, attention: bool) -> list[str]:
    kinds = ("block", "attn") if attention else ("block",)
    return [f"{level}.{kind}.{i}" for i in range(blocks) for kind in kinds]


def count(weights: Weights, pattern: str) -> int:
    """One more than the largest number that ``pattern`` captures in a key; 0 if none does."""
    found = (re.fullmatch(pattern, key) for key in weights)
    return max((int(match[1]) + 1 for match in found if match), default=0)
