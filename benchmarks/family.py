"""How long do the systems of the family take beside raster decoding, and beside their own code?

    python benchmarks/family.py --system par [--peer PATH] [--batch 4] [--runs 3]

One size for all: width 256, depth 6, a grid of 16 x 16, LlamaGen's vocabulary, guidance on, random
weights, float32; tokens alone, no pixels. Raster decoding of LlamaGen's blocks at that size is
timed in turn; ``speedup`` should be at least half of ``steps_ratio``. ``--peer`` is a checkout of
the system's repository, whose loop runs with a model of the same size. Last line: one JSON object.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from arimage.ar.registry import MODELS
from arimage.parts import make_order
from arimage.sampling.loop import Branch, generate
from arimage.sampling.settings import Settings
from arimage.tokenizers.vq import VQTokenizer, VQTokenizerConfig

VOCAB, WIDTH, DEPTH, HEADS, SIDE, HIDDEN = 16384, 256, 6, 4, 16, 768
SCALE = 2.0  # of guidance
Call = Callable[[], object]

# model -> settings besides the scale
SYSTEMS: dict[str, dict[str, Any]] = {
    "llama": {},
    "par": {},
    "randar": {"guidance_schedule": "linear_before"},
    "halton": {},
    "maskbit": {"guidance_schedule": {"name": "power_cosine", "power": 3.0}},
    "titok": {"sampler": "annealed", "guidance_schedule": "linear_before"},
}


def ours(name: str, tokenizer: VQTokenizer, labels: torch.Tensor, **more: Any) -> tuple[Call, int]:
    """A call that makes the tokens of ``labels``, and how many steps it takes.

    ``more``: settings.
    """
    cls = MODELS[name]
    fields = {"vocab_size": VOCAB, "width": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    fields |= {"grid": [SIDE, SIDE], "mlp_hidden": HIDDEN, "num_classes": 1000}
    model = cls(cls.config_class(**fields)).eval()
    if hasattr(model, "output"):
        torch.nn.init.normal_(model.output.weight, std=0.02)
    settings = Settings.from_json({"guidance_scale": SCALE, **SYSTEMS[name], **more})
    order = make_order(tokenizer, model, **settings.order_options)

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


def halton_peer(path: str, labels: torch.Tensor) -> Call:
    """valeoai/Halton-MaskGIT@f61b0a1: its Halton sampler over its own model, nothing decoded."""
    sys.path.insert(0, path)
    from Network.transformer import Transformer
    from Sampler.halton_sampler import HaltonSampler

    sizes = {"hidden_dim": WIDTH, "depth": DEPTH, "heads": HEADS, "codebook_size": VOCAB}
    model = Transformer(input_size=SIDE, mlp_dim=4 * WIDTH, nclass=1000, **sizes)
    args = SimpleNamespace(device="cpu", mask_value=VOCAB, codebook_size=VOCAB)
    trainer = SimpleNamespace(
        vit=model,
        input_size=SIDE,
        args=args,
        autocast=nullcontext(),
        ae=SimpleNamespace(decode_code=lambda ids: ids.float()),
    )
    sampler = HaltonSampler(w=SCALE - 1, step=32, randomize=True)
    return lambda: sampler(trainer, nb_sample=len(labels), labels=labels, verbose=False)


def maskbit_peer(path: str, labels: torch.Tensor) -> Call:
    """markweberdev/maskbit@5ea3d73: ``sample`` over its own model, nothing decoded."""
    sys.path.insert(0, path)
    from modeling.bert import LFQBert
    from modeling.modules.sampling import sample

    sizes = {"hidden_dim": WIDTH, "depth": DEPTH, "heads": HEADS, "mlp_dim": HIDDEN}
    model = LFQBert(img_size=16 * SIDE, codebook_size=VOCAB, codebook_splits=2, **sizes)
    pixels = torch.nn.Identity()
    pixels.decode_tokens = lambda ids: ids
    options = {"num_steps": 64, "mask_schedule_strategy": "arccos", "scale_pow": 3.0}
    options |= {"guidance_scale": SCALE - 1, "guidance_annealing": "cosine", "mask_token": 128}
    options |= {"codebook_size": VOCAB, "codebook_splits": 2, "patch_size": SIDE}
    return lambda: sample(model, pixels, len(labels), labels, **options)


def titok_peer(path: str, labels: torch.Tensor) -> Call:
    """bytedance/1d-tokenizer@942a96f: ``generate`` of its own BERT."""
    sys.path.insert(0, path)
    from modeling.maskgit import ImageBert

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    sizes |= {"intermediate_size": HIDDEN, "image_seq_len": SIDE * SIDE, "dropout": 0.0}
    generator = {**sizes, "attn_drop": 0.0, "condition_num_classes": 1000}
    config = {"model": {"vq_model": {"codebook_size": VOCAB}, "generator": generator}}
    model = ImageBert(config).eval()
    return lambda: model.generate(labels.clone(), SCALE - 1, "linear", num_sample_steps=8)


PEERS: dict[str, Callable[[str, torch.Tensor], Call]] = {
    "par": par_peer,
    "randar": randar_peer,
    "halton": halton_peer,
    "maskbit": maskbit_peer,
    "titok": titok_peer,
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
    parser.add_argument("--refresh", type=int, help="full passes every so many, for halton")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    fields = {"image_size": 16 * SIDE, "downsample_factor": 16, "channels": 8, "norm_groups": 4}
    fields |= {"channel_multipliers": [1, 1, 1, 1, 1], "vocab_size": VOCAB, "code_dim": 8}
    tokenizer = VQTokenizer(VQTokenizerConfig(**fields)).eval()
    labels = torch.arange(options.batch)
    raster, raster_steps = ours("llama", tokenizer, labels)
    system, steps = ours(options.system, tokenizer, labels, refresh=options.refresh)
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
