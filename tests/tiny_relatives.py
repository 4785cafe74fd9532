"""Tiny relatives of VAR for tests/tiny.py: name -> (tokenizer, sizes of the transformer)."""

from typing import Any

RELATIVES: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "flexvar": (
        "flexible_vq",
        (
            {"scales": (1, 2, 4), "vocab_size": 32, "code_dim": 6, "depth": 2, "width": 32},
            {
                "scales": (1, 2, 3, 5, 6),
                "vocab_size": 9,
                "code_dim": 3,
                "depth": 1,
                "width": 16,
                "table": 7,
                "shared_adaln": True,
            },
        ),
    ),
    "hmar": (
        "multiscale_vq",
        (
            {"scales": (1, 2, 4), "vocab_size": 32, "code_dim": 6, "depth": 2, "width": 32},
            {
                "scales": (1, 2, 3),
                "vocab_size": 9,
                "code_dim": 3,
                "depth": 2,
                "width": 16,
                "refine_depth": 2,
                "shared_adaln": True,
            },
        ),
    ),
}
