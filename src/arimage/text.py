"""Prompts -> features: what a text-conditional transformer reads, and T5, which makes it.

The encoder is transformers' own and is loaded when the first prompt is encoded; features that were
made elsewhere need none of it.
"""

import html
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from arimage.pretrained import quiet_transformers

T = TypeVar("T")
FILES = "config.json, tokenizer.json, tokenizer_config.json and model*.safetensors"


@dataclass(frozen=True)
class TextFeatures:
    """What a text encoder says of prompts, a row each.

    features: (r, n, width), float; mask: (r, n), true or 1 where there is a token. Tokens may lie
    anywhere in a row (encoders put them first, LlamaGen's scripts last); only their order counts.

    Raises:
        ValueError: shapes that do not belong together, or a row without a token.
    """

    features: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        if self.features.ndim != 3 or self.mask.shape != self.features.shape[:2]:
            raise ValueError(
                f"got text features of shape {tuple(self.features.shape)} with a mask of shape "
                f"{tuple(self.mask.shape)}; expected (prompts, tokens, width) and (prompts, tokens)"
            )
        object.__setattr__(self, "mask", self.mask.bool())
        if not len(self.mask) or not bool(self.mask.any(1).all()):
            raise ValueError(
                "got text features of a prompt without a token; give each row at least one token "
                "in its mask"
            )

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice) -> "TextFeatures":
        return TextFeatures(self.features[rows], self.mask[rows])

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextFeatures":
        """The same elsewhere."""
        return TextFeatures(self.features.to(device, dtype), self.mask.to(device))

    def right_aligned(self) -> "TextFeatures":
        """Tokens moved to the end of each row, and no more columns than the longest row needs."""
        tokens = int(self.mask.sum(1).max())
        order = self.mask.to(torch.uint8).argsort(dim=1, stable=True)[:, -tokens:]
        index = order.unsqueeze(-1).expand(-1, -1, self.features.shape[-1])
        return TextFeatures(self.features.gather(1, index), self.mask.gather(1, order))


class TextEncoder:
    """T5's encoder by folder or hub id; its files are read on first use.

    Args:
        source: folder or hub id.
        max_tokens: of a prompt, the end mark included.
    """

    def __init__(self, source: str | Path, max_tokens: int) -> None:
        self.source, self.max_tokens = str(source), max_tokens
        self._model: Any = None

    def check(self, prompts: Sequence[str]) -> None:
        """Raises ValueError for a prompt of too many tokens; FileNotFoundError without the files"""
        for prompt in prompts:
            count = len(self._tokenizer(clean(prompt))["input_ids"])
            if count > self.max_tokens:
                start = textwrap.shorten(prompt, 40, placeholder="...")
                raise ValueError(
                    f"got a prompt of {count} tokens, {start!r}; this model reads at most "
                    f"{self.max_tokens}: shorten it"
                )

    @torch.no_grad()
    def encode(
        self, prompts: Sequence[str], device: torch.device, dtype: torch.dtype
    ) -> TextFeatures:
        """Features of the prompts, padded to the longest of them.

        Raises:
            ValueError: a prompt that is too long. FileNotFoundError: the files are not there.
        """
        self.check(prompts)
        made = self._tokenizer([clean(p) for p in prompts], padding=True, return_tensors="pt")
        ids, mask = made["input_ids"].to(device), made["attention_mask"].to(device)
        if self._model is None:
            from transformers import T5EncoderModel

            options = {"dtype": dtype, "use_safetensors": True}
            self._model = self._load(T5EncoderModel.from_pretrained, **options).eval()
        model = self._model.to(device)
        return TextFeatures(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._load(AutoTokenizer.from_pretrained)

    def _load(self, load: Callable[..., T], **options: Any) -> T:
        try:
            with quiet_transformers():
                return load(self.source, **options)
        except (OSError, ValueError, KeyError) as error:
            raise FileNotFoundError(
                f"cannot load the text encoder {self.source} ({type(error).__name__}): it is not "
                f"in the cache and the hub did not give it; download {FILES} of it elsewhere, put "
                "them in one folder and give from_pretrained text_encoder=FOLDER, or give features "
                "instead of prompts"
            ) from error


# What LlamaGen's captions went through before T5, as far as it touches text that people type:
# FoundationVision/LlamaGen@ce98ec4 language/t5.py. Its rules for captions from the web (file names,
# article numbers, words of shops) are not repeated.
_RULES = (
    (r"<[^<>]*>", ""),  # tags
    (r"\b(?:https?:|www\.)\S*", ""),
    (r"@\w+\b", ""),
    (r"[\u2010-\u2015\u2212\u301c\u3030]+|-{2,}", "-"),
    (r"[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    (r"[\u2018\u2019]", "'"),
    (r"['\"]{2,}", '"'),
    (r"\.{2,}", " "),
    (
        r"[#&@~()\[\]{}|\\/*\u00ae\u00a9\u2122\u2022\u00b7\u00a1\u00bf\u00a7\u00ba\u00bd\u00be]+",
        " ",
    ),
    (r"(\D[,.])\b", r"\1 "),
    (r"\s+", " "),
    (r"^['\"](.+)['\"]$", r"\1"),
    (r"^[\s'_,\-:;]|['_,\-:+]$", ""),
)


def clean(prompt: str) -> str:
    """A prompt as the encoder saw captions while the model was trained: plain, lower-case."""
    text = html.unescape(prompt).strip().lower()
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    if len(re.findall(r"[-_]", text)) > 3:
        text = re.sub(r"[-_]", " ", text)
    return text.strip()
