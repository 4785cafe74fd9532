"""VAR's tokenizer file ``vae_ch160v4096z32.pth`` and what others trained in its layout.

Keys and shapes: FoundationVision/VAR@78b9539 models/vqvae.py, basic_vae.py, quant.py.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from arimage.checkpoint import Weights
from arimage.tokenizers.convert.conv import IMAGE_SIZE, ConvLayout, count
from arimage.tokenizers.multiscale_vq import MultiScaleVQConfig, MultiScaleVQTokenizer
from arimage.zoo import VAR_SCHEDULES

PHI_RATIO = 0.5  # models/vqvae.py quant_resi


class VARTokenizerLayout(ConvLayout):
    """Channels, levels, blocks, codes and phi from the keys; the schedule is the transformer's."""

    name = "VAR tokenizer"
    model = MultiScaleVQTokenizer
    renames = (
        *ConvLayout.renames,
        (r"quantize\.quant_resi\.qresi_ls\.(\d+)\.(weight|bias)", r"phi.\1.conv.\2"),
        (r"quantize\.quant_resi\.qresi\.(weight|bias)", r"phi.0.conv.\1"),
        (r"quantize\.quant_resi\.(\d+)\.(weight|bias)", r"phi.\1.conv.\2"),
    )
    droppable: ClassVar[dict[str, str]] = {
        r"quantize\.ema_vocab_hit_SV": "how often codes were used while training",
    }

    def recognizes(self, weights: Weights) -> bool:
        """By phi, which taming's VQGAN does not have."""
        phi = any(key.startswith("quantize.quant_resi.") for key in weights)
        return super().recognizes(weights) and phi

    def config(self, weights: Weights, **hints: Any) -> MultiScaleVQConfig:
        """From shapes; the hint ``scales`` is the schedule, ``image_size`` the side whose published
        schedule is meant, 256 px if both are left out.

        Raises:
            ValueError: a size without a published schedule.
        """
        sizes = self.sizes(weights)
        vocab_size, code_dim = weights["quantize.embedding.weight"].shape
        scales = hints.get("scales") or schedule(hints.get("image_size") or IMAGE_SIZE)
        return MultiScaleVQConfig(
            image_size=scales[-1] * sizes["downsample_factor"],
            vocab_size=vocab_size,
            code_dim=code_dim,
            quantizer="vq_learned",
            scales=tuple(scales),
            num_phi=count(weights, r"quantize\.quant_resi\.(?:\w+\.)?(\d+)\.weight") or 1,
            phi_ratio=PHI_RATIO,
            **sizes,
        )


def schedule(image_size: int) -> Sequence[int]:
    """Sides of the token maps of VAR's models for a size.

    Raises:
        ValueError: it has none.
    """
    if image_size not in VAR_SCHEDULES:
        raise ValueError(
            f"got image_size {image_size}; VAR's schedules are for "
            f"{', '.join(map(str, VAR_SCHEDULES))}: give scales"
        )
    return VAR_SCHEDULES[image_size]
