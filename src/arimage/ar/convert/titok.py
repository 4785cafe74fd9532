"""TiTok's generator files: ``generator_titok_l32.bin``, ``_b64.bin``, ``_s128.bin``.

Keys and shapes: bytedance/1d-tokenizer@942a96f modeling/maskgit.py. Heads are in no file: 16 in all
published sizes (configs/infer/TiTok/*.yaml).
"""

from typing import Any, ClassVar

from arimage.ar.titok import TiTokConfig, TiTokModel, TiTokUViTConfig, TiTokUViTModel
from arimage.checkpoint import Layout, Weights
from arimage.zoo_titok import TITOK_SAMPLING

HEADS = 16
BERT = r"model\.encoder\.layer\.(\d+)\."
TYPES = "model.embeddings.token_type_embeddings.weight"
WORDS, WIDER = "model.embeddings.word_embeddings.weight", "embeddings.weight"


class TiTokLayout(Layout):
    """ImageBert: depth, width, tokens and classes from the keys; ``num_heads`` is a hint."""

    name = "TiTok transformer"
    model = TiTokModel
    sampling = TITOK_SAMPLING
    anchors = (WORDS, "model.lm_head.weight", "model.embeddings.position_embeddings.weight")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        ("words", "token_embedding.weight"),
        ("classes", "class_embedding.weight"),
        ("positions", "position_embedding.weight"),
        (r"model\.embeddings\.LayerNorm\.(weight|bias)", r"norm.\1"),
        (BERT + r"attention\.self\.query\.(weight|bias)", r"blocks.\1.qkv.\2+0"),
        (BERT + r"attention\.self\.key\.(weight|bias)", r"blocks.\1.qkv.\2+1"),
        (BERT + r"attention\.self\.value\.(weight|bias)", r"blocks.\1.qkv.\2+2"),
        (BERT + r"attention\.output\.dense\.(weight|bias)", r"blocks.\1.project.\2"),
        (BERT + r"attention\.output\.LayerNorm\.(weight|bias)", r"blocks.\1.attention_norm.\2"),
        (BERT + r"intermediate\.dense\.(weight|bias)", r"blocks.\1.mlp.up.\2"),
        (BERT + r"output\.dense\.(weight|bias)", r"blocks.\1.mlp.down.\2"),
        (BERT + r"output\.LayerNorm\.(weight|bias)", r"blocks.\1.mlp_norm.\2"),
        (r"model\.lm_head\.(weight|bias)", r"output.\1"),
    )
    droppable: ClassVar[dict[str, str]] = {
        r"model\.embeddings\.position_ids": "0, 1, 2, ...",
    }

    def config(self, weights: Weights, **hints: Any) -> TiTokConfig:
        """From shapes; ``depth`` is a hint that must agree with the file.

        Raises:
            ValueError: another depth. KeyError: a table that is not there.
        """
        assert weights[TYPES] is not None  # which ``split`` adds to the positions
        blocks = {key.split(".")[3] for key in weights if key.startswith("model.encoder.layer.")}
        fields = self.sizes(weights, WORDS, "model.lm_head.weight", hints)
        tokens = len(weights["model.embeddings.position_embeddings.weight"]) - 1
        hidden = len(weights["model.encoder.layer.0.intermediate.dense.weight"])
        self.check_depth(len(blocks), hints.get("depth"))
        return TiTokConfig(grid=(1, tokens), depth=len(blocks), mlp_hidden=hidden, **fields)

    def check_depth(self, found: int, wanted: int | None) -> None:
        """Raises ValueError for another depth than a hint says."""
        if wanted not in (None, found):
            raise ValueError(
                f"the file holds a {self.name} of depth {found}, not {wanted}; give the file or "
                "the variant of that depth"
            )

    def sizes(
        self, weights: Weights, words: str, head: str, hints: dict[str, Any]
    ) -> dict[str, Any]:
        """Fields that both kinds have: words are tokens, the mask, classes, "no class"."""
        vocab_size, width = weights[head].shape
        return {
            "vocab_size": vocab_size,
            "width": width,
            "num_heads": hints.get("num_heads") or HEADS,
            "num_classes": len(weights[words]) - vocab_size - 2,
        }

    def split(self, weights: Weights, config: Any) -> Weights:
        """Words fall into tokens with the mask, and classes; every token is of the first type."""
        whole = dict(weights)
        words = whole.pop(WORDS)
        whole["words"], whole["classes"] = words_and_classes(words, config)
        types = whole.pop(TYPES)
        positions = whole.pop("model.embeddings.position_embeddings.weight")
        whole["positions"] = positions + types[:1]
        return whole


class TiTokUViTLayout(TiTokLayout):
    """UViTBert."""

    name = "TiTok U-ViT transformer"
    model = TiTokUViTModel
    anchors = ("pos_embed", WIDER, "in_blocks.0.norm1.weight", "out_blocks.0.skip_linear.weight")
    renames = (
        *TiTokLayout.renames[:3],
        (r"norm\.(weight|bias)", r"norm.\1"),
        (r"lm_head\.(weight|bias)", r"output.\1"),
        (r"blocks\.(\d+)\.norm1\.(weight|bias)", r"blocks.\1.attention_norm.\2"),
        (r"blocks\.(\d+)\.norm2\.(weight|bias)", r"blocks.\1.mlp_norm.\2"),
        (r"blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)", r"blocks.\1.\2.\3"),
        (r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)", r"blocks.\1.mlp.up.\2"),
        (r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)", r"blocks.\1.mlp.down.\2"),
        (r"blocks\.(\d+)\.skip_linear\.(weight|bias)", r"blocks.\1.join.\2"),
    )
    droppable: ClassVar[dict[str, str]] = {}

    def config(self, weights: Weights, **hints: Any) -> TiTokUViTConfig:
        """From shapes; ``depth`` is a hint that must agree with the file."""
        half = len({key.split(".")[1] for key in weights if key.startswith("in_blocks.")})
        fields = self.sizes(weights, WIDER, "lm_head.weight", hints)
        self.check_depth(2 * half + 1, hints.get("depth"))
        return TiTokUViTConfig(
            grid=(1, weights["pos_embed"].shape[1] - 1),
            depth=2 * half + 1,
            mlp_hidden=len(weights["in_blocks.0.mlp.fc1.weight"]),
            **fields,
        )

    def split(self, weights: Weights, config: Any) -> Weights:
        """As for ImageBert."""
        whole = dict(weights)
        whole["words"], whole["classes"] = words_and_classes(whole.pop(WIDER), config)
        whole["positions"] = whole.pop("pos_embed")
        return whole

    def rename(self, key: str, config: Any) -> str | None:
        """Blocks of both halves and the middle are numbered in a row."""
        half = config.depth // 2
        place, _, rest = key.partition(".")
        number, _, leaf = rest.partition(".")
        if place == "mid_block":
            key = f"blocks.{half}.{rest}"
        elif place == "in_blocks":
            key = f"blocks.{number}.{leaf}"
        elif place == "out_blocks" and number.isdigit():
            key = f"blocks.{half + 1 + int(number)}.{leaf}"
        name = super().rename(key, config)
        return name and name.replace(".proj.", ".project.")


def words_and_classes(words: Any, config: TiTokConfig) -> tuple[Any, Any]:
    """Rows of tokens and the mask; rows of the classes and "no class"."""
    tokens, classes = words.tensor_split((config.vocab_size + 1,))
    return tokens.clone(), classes.clone()
