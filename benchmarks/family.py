"""How long do the systems of the family take beside raster decoding, and beside their own code?

    python benchmarks/family.py --system par [--peer PATH] [--batch 4] [--runs 3]

One size for all: width 256, depth 6, a grid of 16 x 16 (VAR's ten token maps for those that have
several), LlamaGen's vocabulary, guidance on, random weights, float32; tokens alone, no pixels.
Raster decoding of LlamaGen's blocks at that size is timed in turn; ``speedup`` should be at least
half of ``steps_ratio``. ``--peer`` is a checkout of the system's repository, whose loop runs with a
model of the same size. Last line: one JSON object.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from arimage.ar.registry import MODELS
from arimage.parts import make_order
from arimage.sampling.loop import Branch, generate
from arimage.sampling.settings import Settings
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS
from arimage.zoo_relatives import HMAR_SAMPLING

VOCAB, CODE_DIM, WIDTH, DEPTH, HEADS, SIDE, HIDDEN = 16384, 8, 256, 6, 4, 16, 768
SCALE = 2.0  # of guidance
Call = Callable[[], object]

# model -> settings besides the scale
SYSTEMS: dict[str, dict[str, Any]] = {
    "llama": {},
    "par": {},
    "randar": {"guidance_schedule": "linear_before"},
    "flexvar": {"guidance_schedule": "linear_by_map"},
    "hmar": {"guidance_schedule": "linear_by_map", "passes": HMAR_SAMPLING["passes"]},
}
SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, SIDE)
BY_SCALE = {
    "flexvar": "flexible_vq",
    "hmar": "multiscale_vq",
}  # model -> tokenizer, where there are several token maps


def tokenizer_of(name: str) -> ImageTokenizer:
    """An untrained tokenizer of the kind that a model needs."""
    fields = {"image_size": 16 * SIDE, "downsample_factor": 16, "channels": 8, "norm_groups": 4}
    fields |= {"channel_multipliers": [1, 1, 1, 1, 1], "vocab_size": VOCAB, "code_dim": CODE_DIM}
    if name in BY_SCALE:
        fields |= {"scales": SCALES, "quantizer": "vq_learned"}
    cls = TOKENIZERS[BY_SCALE.get(name, "vq")]
    return cls(cls.config_class(**fields)).eval()


def ours(name: str, labels: torch.Tensor) -> tuple[Call, int]:
    """A call that makes the tokens of ``labels``, and how many steps it takes."""
    cls, tokenizer = MODELS[name], tokenizer_of(name)
    fields = {"vocab_size": VOCAB, "width": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    fields |= {"num_classes": 1000}
    maps = {"scales": SCALES, "code_dim": CODE_DIM}
    fields |= maps if name in BY_SCALE else {"grid": [SIDE, SIDE], "mlp_hidden": HIDDEN}
    model = cls(cls.config_class(**fields)).eval()
    torch.nn.init.normal_(model.output.weight, std=0.02)
    settings = Settings(guidance_scale=SCALE, **SYSTEMS[name])
    order = make_order(tokenizer, model, passes=settings.passes)

    @torch.no_grad()
    def call() -> object:
        branch = Branch.of(model, order, labels, settings.guidance())
        noise = settings.make_noise(list(range(len(labels))), "cpu")
        *_, state = generate([branch], order, settings.make_sampler(), noise)
        return state.ids

    return call, order.num_steps


def par_peer(path: str, labels: torch.Tensor) -> Call:
    """Epiphqny/PAR@d96acea: ``generate`` over its own model."""
    sys.path.insert(0, path)
    from autoregressive.models.generate import generate as theirs
    from autoregressive.models.gpt import ModelArgs, Transformer

    sizes = {"dim": WIDTH, "n_layer": DEPTH, "n_head": HEADS, "vocab_size": VOCAB}
    model = Transformer(ModelArgs(block_size=SIDE * SIDE, **sizes)).eval()
    torch.nn.init.normal_(model.output.weight, std=0.02)
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "sample_logits": True}
    return torch.no_grad()(lambda: theirs(model, labels, SIDE * SIDE, cfg_scale=SCALE, **options))


def randar_peer(path: str, labels: torch.Tensor) -> Call:
    """ziqipang/RandAR@d374a72: ``generate`` of its own model."""
    sys.path.insert(0, path)
    from RandAR.model.randar_gpt import RandARTransformer

    sizes = {"dim": WIDTH, "n_layer": DEPTH, "n_head": HEADS, "vocab_size": VOCAB}
    model = RandARTransformer(block_size=SIDE * SIDE, grad_checkpointing=False, **sizes).eval()
    torch.nn.init.normal_(model.output.weight, std=0.02)
    return torch.no_grad()(lambda: model.generate(labels, None, (1.0, SCALE)))


def flexvar_peer(path: str, labels: torch.Tensor) -> Call:
    """jiaosiyu1999/FlexVAR@04462cb: ``autoregressive_infer_cfg``, the images left undecoded."""
    sys.path.insert(0, path)
    from models.flexvar import FlexVAR

    codes = SimpleNamespace(embedding=torch.nn.Embedding(VOCAB, CODE_DIM))
    pixels = SimpleNamespace(quantize=codes, decode_code=lambda ids, shape: ids)
    tokenizer = SimpleNamespace(Cvae=CODE_DIM, vocab_size=VOCAB)
    sizes = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "attn_l2_norm": True}
    model = FlexVAR(tokenizer, patch_nums=SCALES, **sizes).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    call = model.autoregressive_infer_cfg
    return lambda: call(pixels, len(labels), labels, SCALES, g_seed=0, cfg=SCALE - 1)


def hmar_peer(path: str, labels: torch.Tensor) -> Call:
    """NVlabs/HMAR@595a9df: ``generate``, the images left undecoded."""
    sys.path.insert(0, path)
    absent = "triton triton.language wandb pytz torchvision tap block_sparse_attn_triton"
    for name in absent.split():  # imported there, and not called on a CPU
        sys.modules.setdefault(name, MagicMock())
    from models.hmar import HMAR
    from models.quant import VectorQuantizer2

    resized = {"quant_resi": 0.5, "share_quant_resi": 4, "v_patch_nums": SCALES}
    codes = VectorQuantizer2(VOCAB, CODE_DIM, using_znorm=False, **resized)
    tokenizer = torch.nn.Module()
    tokenizer.Cvae, tokenizer.vocab_size, tokenizer.quantize = CODE_DIM, VOCAB, codes
    tokenizer.fhat_to_img = lambda canvas: canvas
    sizes = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "attn_l2_norm": True}
    model = HMAR(tokenizer, patch_nums=SCALES, n_layers_train=1, **sizes).eval()
    for head in (model.ns_head, model.mask_head):
        torch.nn.init.normal_(head.weight, std=0.02)
    passes = HMAR_SAMPLING["passes"]
    options = {"cfg": SCALE - 1, "top_k": 0, "top_p": 0.0, "mask_schedule": passes}
    return lambda: model.generate(len(labels), labels, g_seed=0, **options)


PEERS: dict[str, Callable[[str, torch.Tensor], Call]] = {
    "par": par_peer,
    "randar": randar_peer,
    "flexvar": flexvar_peer,
    "hmar": hmar_peer,
}


def in_turn(calls: dict[str, Call], runs: int) -> dict[str, float]:
    """Median seconds of each call, after one to warm up; one run of each before the next."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(runs + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    """Times a system, raster decoding and, where given, the system's own code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", choices=sorted(set(SYSTEMS) - {"llama"}), required=True)
    parser.add_argument("--peer", help="a checkout of the system's repository")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    labels = torch.arange(options.batch)
    raster, raster_steps = ours("llama", labels)
    system, steps = ours(options.system, labels)
    calls = {"raster": raster, options.system: system}
    if options.peer:
        calls["peer"] = PEERS[options.system](options.peer, labels)
    seconds = in_turn(calls, options.runs)
    record = {
        "system": options.system,
        "batch": options.batch,
        "runs": options.runs,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "steps": steps,
        "steps_ratio": round(raster_steps / steps, 2),
        "speedup": round(seconds["raster"] / seconds[options.system], 2),
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if options.peer:
        record["peer_ratio"] = round(seconds["peer"] / seconds[options.system], 2)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
