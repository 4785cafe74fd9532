"""The same networks with another quantizer: to train a tokenizer on with codes of a new kind."""

import math
from typing import Any, TypeVar

import torch

from arimage.tokenizers.quantizers_lattice import LatticeQuantizer
from arimage.tokenizers.vq import ConvTokenizer

T = TypeVar("T", bound=ConvTokenizer)
MOST_BITS = 24  # of a quantizer of signs: tables of its codes are kept


@torch.no_grad()
def with_quantizer(tokenizer: T, quantizer: str, **fields: Any) -> T:
    """A copy of a tokenizer that quantizes otherwise; its codebook starts as the old codes.

    Codes on a fixed lattice (lfq, bsq, fsq) have nowhere to start from and are taken as they are.

    Args:
        tokenizer: any with a quantizer; it stays as it is.
        quantizer: a name of ``QUANTIZERS``.
        fields: of the config, where they change: ``levels``, ``depth``. The vocab_size of a lattice
            follows.

    Raises:
        ValueError: codes of another size than the old ones, or fields that do not go together.
        KeyError: an unknown quantizer.
    """
    old = tokenizer.config
    kept = {name: getattr(old, name) for name in old.own_fields()}
    if quantizer != old.quantizer:
        kept |= {"levels": None, "depth": 1}
    if "vocab_size" not in fields:
        kept |= lattice_size(quantizer, old.code_dim, fields.get("levels"))
    config = type(old)(**kept | {"quantizer": quantizer} | fields)
    if config.code_dim != old.code_dim:
        raise ValueError(
            f"got code_dim {config.code_dim}; the networks of this tokenizer take {old.code_dim}"
        )
    made = type(tokenizer)(config).to(tokenizer.device, tokenizer.dtype)
    state = made.state_dict()
    for name, tensor in tokenizer.state_dict().items():
        if not name.startswith("quantizer."):
            state[name] = tensor
    made.load_state_dict(state)
    if not isinstance(made.quantizer, LatticeQuantizer):
        ids = torch.arange(old.vocab_size, device=tokenizer.device)
        made.quantizer.load_codebook(tokenizer.quantizer.lookup(ids[None])[0])
    return made.train(tokenizer.training)


def lattice_size(quantizer: str, code_dim: int, levels: list[int] | None) -> dict[str, int]:
    """The vocab_size of a quantizer on a fixed lattice; nothing for others.

    Raises:
        ValueError: more codes than can be had.
    """
    if quantizer in ("lfq", "bsq"):
        if code_dim > MOST_BITS:
            raise ValueError(
                f"got the quantizer {quantizer!r} for latents of {code_dim} numbers: 2 ** "
                f"{code_dim} codes; at most 2 ** {MOST_BITS} can be had: use another quantizer"
            )
        return {"vocab_size": 2**code_dim}
    return {"vocab_size": math.prod(levels)} if quantizer == "fsq" and levels else {}
