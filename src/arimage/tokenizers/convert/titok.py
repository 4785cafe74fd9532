"""TiTok's tokenizer files: ``tokenizer_titok_l32.bin`` and relatives, also as safetensors.

Keys and shapes: bytedance/1d-tokenizer@942a96f modeling/titok.py, modeling/modules/blocks.py.
Heads are in no file; all published sizes have 64 numbers per head.
"""

import math
from typing import Any, ClassVar

import torch

from arimage.checkpoint import Layout, Weights
from arimage.tokenizers.convert.conv import count
from arimage.tokenizers.convert.maskgit import MaskGITTokenizerLayout
from arimage.tokenizers.titok import TiTokConfig, TiTokTokenizer
from arimage.tokenizers.vq import VQTokenizerConfig

HEAD_DIM = 64  # blocks.py: 512 and 8 heads, 768 and 12, 1024 and 16
NORMALISED_DIM = 12  # dimension of the codes of the models with use_l2_norm, configs/infer/TiTok
PARTS = ("encoder", "decoder")
PIXELS, MASKGIT = "pixel_decoder.", MaskGITTokenizerLayout()


class TiTokTokenizerLayout(Layout):
    """One-stage and two-stage models; tables that are only ever added up become one."""

    name = "TiTok tokenizer"
    model = TiTokTokenizer
    anchors = ("latent_tokens", "encoder.transformer.0.ln_1.weight", "quantize.embedding.weight")
    renames = (
        (r"quantize\.embedding\.weight", "quantizer.inner.weight"),
        (r"encoder\.patch_embed\.(weight|bias)", r"encoder.patches.\1"),
        (r"encoder\.conv_out\.(weight|bias)", r"pre_quant.\1"),
        (r"decoder\.decoder_embed\.(weight|bias)", r"post_quant.\1"),
        (r"(encoder|decoder)\.(summary|positions|latents|queries)", r"\1.\2"),
        (r"(encoder|decoder)\.ln_pre\.(weight|bias)", r"\1.norm_in.\2"),
        (r"(encoder|decoder)\.ln_post\.(weight|bias)", r"\1.norm_out.\2"),
        (r"(\w+)\.transformer\.(\d+)\.ln_1\.(weight|bias)", r"\1.layers.\2.attention_norm.\3"),
        (r"(\w+)\.transformer\.(\d+)\.ln_2\.(weight|bias)", r"\1.layers.\2.mlp_norm.\3"),
        (r"(\w+)\.transformer\.(\d+)\.attn\.in_proj_(weight|bias)", r"\1.layers.\2.qkv.\3"),
        (r"(\w+)\.transformer\.(\d+)\.attn\.out_proj\.(weight|bias)", r"\1.layers.\2.project.\3"),
        (r"(\w+)\.transformer\.(\d+)\.mlp\.c_fc\.(weight|bias)", r"\1.layers.\2.up.\3"),
        (r"(\w+)\.transformer\.(\d+)\.mlp\.c_proj\.(weight|bias)", r"\1.layers.\2.down.\3"),
        (r"decoder\.ffn\.(\d)\.(weight|bias)", r"decoder.head.\1.\2"),
        (r"decoder\.conv_out\.(weight|bias)", r"decoder.pixels.\1"),
        (r"pixel_quantize\.embedding\.weight", "decoder.codes"),
    )
    droppable: ClassVar[dict[str, str]] = {}

    def config(self, weights: Weights, **hints: Any) -> TiTokConfig:
        """From keys and shapes; ``image_size`` must agree with the file, ``num_heads`` is told for
        widths that were not published.

        Raises:
            ValueError: another image size, or a width whose heads are not known.
        """
        vocab_size, code_dim = weights["quantize.embedding.weight"].shape
        factor = weights["encoder.patch_embed.weight"].shape[-1]
        side = math.isqrt(weights["encoder.positional_embedding"].shape[0] - 1)
        size = hints.get("image_size") or side * factor
        if size != side * factor:
            raise ValueError(
                f"got image_size {size}; the file holds a {self.name} for {side * factor} pixels: "
                "leave it out"
            )
        fields: dict[str, Any] = {
            "image_size": size,
            "downsample_factor": factor,
            "vocab_size": vocab_size,
            "code_dim": code_dim,
            "num_tokens": weights["latent_tokens"].shape[0],
            "quantizer": "vq_learned_cosine" if code_dim == NORMALISED_DIM else "vq_learned",
        }
        for part in ("encoder", "decoder"):
            width = weights[f"{part}.class_embedding"].shape[-1]
            fields |= {
                f"{part}_width": width,
                f"{part}_layers": count(weights, rf"{part}\.transformer\.(\d+)\..*"),
                f"{part}_heads": hints.get("num_heads") or heads_of(width),
            }
        return TiTokConfig(**fields | pixel_fields(weights))

    def split(self, weights: Weights, config: Any) -> Weights:
        """Adds up what the published code adds up in every pass: tokens and their positions."""
        whole = dict(weights)
        latents = whole.pop("latent_tokens")
        whole["encoder.latents"] = latents + whole.pop("encoder.latent_token_positional_embedding")
        whole["decoder.positions"] = whole.pop("decoder.latent_token_positional_embedding")
        places = {part: whole.pop(f"{part}.positional_embedding") for part in PARTS}
        first = {part: whole.pop(f"{part}.class_embedding") + places[part][:1] for part in PARTS}
        whole["encoder.summary"] = first["encoder"]
        whole["encoder.positions"] = places["encoder"][1:].clone()
        masks = whole.pop("decoder.mask_token").flatten(0, -2) + places["decoder"][1:]
        whole["decoder.queries"] = torch.cat([first["decoder"], masks])
        return whole

    def rename(self, key: str, config: Any) -> str | None:
        """As every layout's; the pixel decoder's layers as MaskGIT's tokenizer has them."""
        if not key.startswith(PIXELS):
            return super().rename(key, config)
        if not config.pixel_codes:
            return None
        name = MASKGIT.rename(f"decoder.{key.removeprefix(PIXELS)}", maskgit_config(config))
        return name and f"decoder.pixels.{name.removeprefix('decoder.')}"


def heads_of(width: int) -> int:
    """Heads of a transformer of that width.

    Raises:
        ValueError: no whole number.
    """
    if width % HEAD_DIM:
        raise ValueError(
            f"the file holds a TiTok of width {width}, which is no published size, and no key says "
            "how many heads it has: give num_heads to the layout's convert"
        )
    return width // HEAD_DIM


def maskgit_config(config: TiTokConfig) -> VQTokenizerConfig:
    """A tokenizer with the pixel decoder as its decoder."""
    names = ("image_size", "downsample_factor", "channels", "channel_multipliers", "num_res_blocks")
    fields: dict[str, Any] = {name: getattr(config, name) for name in names}
    dim = config.pixel_code_dim
    return VQTokenizerConfig(network="maskgit", code_dim=dim, latent_channels=dim, **fields)


def pixel_fields(weights: Weights) -> dict[str, Any]:
    """The fields of the convolutional decoder; none where the transformer draws pixels itself."""
    if "decoder.ffn.2.weight" not in weights:
        return {}
    codes, dim = weights["pixel_quantize.embedding.weight"].shape
    channels = weights[f"{PIXELS}conv_out.weight"].shape[1]
    level = PIXELS + "up.{}.block.0.conv1.weight"
    levels = count(weights, rf"{PIXELS}up\.(\d+)\..*")
    widths = [weights[level.format(i)].shape[0] for i in range(levels)]
    return {
        "pixel_codes": codes,
        "pixel_code_dim": dim,
        "channels": channels,
        "channel_multipliers": tuple(width // channels for width in widths),
        "num_res_blocks": count(weights, rf"{PIXELS}up\.0\.block\.(\d+)\..*"),
    }
