"""LlamaGen's transformer files: ``c2i_*.pt``, ``t2i_*.pt``, CCA's, and trainers' files.

Keys and shapes: FoundationVision/LlamaGen@ce98ec4 autoregressive/models/gpt.py. Neither the grid
nor the number of heads is in a file; the grid is a hint, the heads follow from published sizes.
"""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

from arimage.ar.llama import LlamaConfig, LlamaModel
from arimage.ar.llama_text import LlamaTextConfig, LlamaTextModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo_llamagen import LLAMAGEN_SAMPLING, LLAMAGEN_TEXT_SAMPLING

# width -> heads: gpt.py GPT_B to GPT_7B
HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32, 4096: 32}
# keys of models on the same graph, which have layouts of their own
RELATIVES = ("spe_tok_embeddings.special_embeddings.weight", "pos_instruct_embeddings")
SIDE = 16  # of the grid of 256 px models, where nothing says otherwise


def block_renames(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Renames of the blocks, where a file calls them ``theirs`` (a pattern)."""
    names = {
        r"attention\.wqkv": "qkv.weight",
        r"attention\.wo": "project.weight",
        r"feed_forward\.w1": "mlp.gate_up.weight+0",
        r"feed_forward\.w3": "mlp.gate_up.weight+1",
        r"feed_forward\.w2": "mlp.down.weight",
        "attention_norm": "attention_norm.weight",
        "ffn_norm": "mlp_norm.weight",
    }
    return tuple(
        (rf"{theirs}\.(\d+)\.{part}\.weight", rf"{ours}.\1.{name}") for part, name in names.items()
    )


class LlamaGenLayout(Layout):
    """Depth, width, feed-forward and classes from the keys; grid and heads as above."""

    name = "LlamaGen transformer"
    model = LlamaModel
    sampling = LLAMAGEN_SAMPLING
    anchors = (
        "cls_embedding.embedding_table.weight",
        "tok_embeddings.weight",
        "layers.0.attention.wqkv.weight",
    )
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"cls_embedding\.embedding_table\.weight", "class_embedding.weight"),
        (r"tok_embeddings\.weight", "token_embedding.weight"),
        *block_renames("layers", "blocks"),
        (r"(norm|output)\.weight", r"\1.weight"),
    )
    droppable: ClassVar[dict[str, str]] = {
        "freqs_cis": "rotary positions, which follow from the grid",
        "causal_mask": "the mask of a cache, made from the order",
        r"layers\.\d+\.attention\.kv_cache\.[kv]_cache": "a cache that was saved with the model",
    }

    def recognizes(self, weights: Weights) -> bool:
        """The anchors, and no key of a relative that is none of them."""
        others = (key for key in RELATIVES if key not in self.anchors)
        return super().recognizes(weights) and not any(key in weights for key in others)

    def config(self, weights: Weights, **hints: Any) -> LlamaConfig:
        """From shapes; ``scales`` (the side of the grid), ``num_heads`` and ``depth`` are hints."""
        classes = weights["cls_embedding.embedding_table.weight"].shape[0] - 1
        return LlamaConfig(num_classes=classes, **self.sizes(weights, hints))

    def sizes(self, weights: Weights, hints: dict[str, Any]) -> dict[str, Any]:
        """Fields of a config that both kinds have.

        Raises:
            ValueError: another depth than a hint says, several token maps, or a width whose heads
                are not known.
        """
        vocab_size, width = weights["tok_embeddings.weight"].shape
        heads = hints.get("num_heads") or HEADS.get(width)
        if heads is None:
            raise ValueError(
                f"the file holds a LlamaGen of width {width}, which is no published size, and no "
                "key says how many heads it has; convert it with num_heads (arimage convert "
                "--num-heads)"
            )
        side = side_of(hints.get("scales"))
        return {
            "grid": (side, side),
            "vocab_size": vocab_size,
            "depth": self.count_blocks(weights, hints.get("depth"), "layers"),
            "width": width,
            "num_heads": heads,
            "mlp_hidden": weights["layers.0.feed_forward.w1.weight"].shape[0],
        }


class LlamaGenTextLayout(LlamaGenLayout):
    """The same with a projection of text in place of classes."""

    name = "LlamaGen transformer of text"
    model = LlamaTextModel
    sampling = LLAMAGEN_TEXT_SAMPLING
    anchors = (
        "cls_embedding.uncond_embedding",
        "tok_embeddings.weight",
        "layers.0.attention.wqkv.weight",
    )
    renames = (
        ("cls_embedding.uncond_embedding", "null_text"),
        (r"cls_embedding\.cap_proj\.fc1\.weight", "text_projection.up.weight"),
        (r"cls_embedding\.cap_proj\.fc2\.weight", "text_projection.down.weight"),
        *LlamaGenLayout.renames[1:],
    )

    def config(self, weights: Weights, **hints: Any) -> LlamaTextConfig:
        """As for classes; the width and number of text features from the shapes."""
        tokens, width = weights["cls_embedding.uncond_embedding"].shape
        return LlamaTextConfig(text_tokens=tokens, text_width=width, **self.sizes(weights, hints))


def side_of(scales: Sequence[int] | None) -> int:
    """The side of the one token map; a warning where nothing says it.

    Raises:
        ValueError: several token maps.
    """
    if not scales:
        warnings.warn(
            f"the file does not say its grid: {SIDE} x {SIDE} tokens, 256 px, are taken; for "
            "another give variant, for example c2i-B-384, or convert it with scales (arimage "
            "convert --scales 24)",
            stacklevel=2,
        )
        return SIDE
    if len(scales) != 1:
        raise ValueError(
            f"got scales {', '.join(map(str, scales))}; a LlamaGen has one token map: give one "
            "side, for example 16 (256 px) or 24 (384 px)"
        )
    return scales[0]
