"""ARPG's transformer files: ``arpg_300m.pt``, ``arpg_700m.pt``, ``arpg_1b.pt``.

Keys and shapes: hp-l33/ARPG@1a1758c models/arpg.py.
"""

from typing import Any, ClassVar

from arimage.ar.arpg import ARPGConfig, ARPGModel
from arimage.ar.convert.llamagen import HEADS, side_of
from arimage.checkpoint import Layout, Weights
from arimage.zoo_groups import ARPG_SAMPLING

SELF, CROSS = r"layers\.self_dec\.(\d+)\.", r"layers\.cross_dec\.(\d+)\."
SPARE = 3  # rows of the vocabulary besides tokens and classes: mask, "no class", one not used


def block_renames(stack: str, name: str) -> tuple[tuple[str, str], ...]:
    """What both kinds of blocks have."""
    return (
        (stack + r"attn\.proj\.weight", name + r".\1.project.weight"),
        (stack + r"ffn\.w1\.weight", name + r".\1.mlp.gate_up.weight+0"),
        (stack + r"ffn\.w3\.weight", name + r".\1.mlp.gate_up.weight+1"),
        (stack + r"ffn\.w2\.weight", name + r".\1.mlp.down.weight"),
        (stack + r"attn_norm\.weight", name + r".\1.attention_norm.weight"),
        (stack + r"ffn_norm\.weight", name + r".\1.mlp_norm.weight"),
    )


class ARPGLayout(Layout):
    """Depth, width, feed-forward and classes from the keys; grid and heads as LlamaGen's."""

    name = "ARPG transformer"
    model = ARPGModel
    sampling = ARPG_SAMPLING
    anchors = ("embeddings.weight", "layers.self_dec.0.attn.to_q.weight", "layers.to_k.weight")
    renames = (
        (r"embeddings\.weight\.tokens", "token_embedding.weight"),
        (r"embeddings\.weight\.mask", "mask_token"),
        (r"embeddings\.weight\.classes", "class_embedding.weight"),
        (SELF + r"attn\.to_q\.weight", r"blocks.\1.qkv.weight+0"),
        (SELF + r"attn\.to_k\.weight", r"blocks.\1.qkv.weight+1"),
        (SELF + r"attn\.to_v\.weight", r"blocks.\1.qkv.weight+2"),
        (CROSS + r"attn\.to_q\.weight", r"cross_blocks.\1.query.weight"),
        *block_renames(SELF, "blocks"),
        *block_renames(CROSS, "cross_blocks"),
        (r"layers\.norm\.weight", "memory_norm.weight"),
        (r"layers\.to_k\.weight", "key_value.weight+0"),
        (r"layers\.to_v\.weight", "key_value.weight+1"),
        (r"norm\.weight", "norm.weight"),
        (r"head\.weight", "output.weight"),
    )
    droppable: ClassVar[dict[str, str]] = {
        r"embeddings\.weight\.after": "a row for dropped tokens, which sampling never reads",
        "freqs_cis": "rotary positions, which follow from the grid",
    }

    def config(self, weights: Weights, **hints: Any) -> ARPGConfig:
        """From shapes; ``scales`` (the side of the grid), ``num_heads`` and ``depth`` are hints.

        Raises:
            ValueError: another depth than a hint says, several token maps, or a width whose heads
                are not known.
        """
        vocab_size, width = weights["head.weight"].shape
        heads, depth = hints.get("num_heads") or HEADS.get(width), hints.get("depth")
        if heads is None:
            raise ValueError(
                f"the file holds an ARPG of width {width}, which is no published size, and no key "
                "says how many heads it has; convert it with num_heads (arimage convert "
                "--num-heads)"
            )
        half = {key.split(".")[2] for key in weights if key.startswith("layers.self_dec.")}
        if depth not in (None, 2 * len(half)):
            raise ValueError(
                f"the file holds an ARPG of depth {2 * len(half)}, not {depth}; give the depth of "
                "the file, or leave it out"
            )
        side = side_of(hints.get("scales"))
        return ARPGConfig(
            grid=(side, side),
            vocab_size=vocab_size,
            num_classes=weights["embeddings.weight"].shape[0] - vocab_size - SPARE,
            depth=2 * len(half),
            width=width,
            num_heads=heads,
            mlp_hidden=weights["layers.self_dec.0.ffn.w1.weight"].shape[0],
        )

    def split(self, weights: Weights, config: Any) -> Weights:
        """The vocabulary is tokens, mask token, classes, "no class", a row that is not used."""
        vocab, classes = config.vocab_size, config.num_classes
        whole = dict(weights)
        parts = whole.pop("embeddings.weight").tensor_split((vocab, vocab + 1, vocab + classes + 2))
        names = ("tokens", "mask", "classes", "after")
        named = {f"embeddings.weight.{n}": p.clone() for n, p in zip(names, parts, strict=True)}
        return whole | named
