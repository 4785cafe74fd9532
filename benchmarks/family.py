"""How long do the systems of the family take beside raster decoding, and beside their own code?

    python benchmarks/family.py --system par [--peer PATH] [--batch 4] [--runs 3]

One size for all: width 256, depth 6, a grid of 16 x 16, LlamaGen's vocabulary, guidance on, random
weights, float32; tokens alone, no pixels. Raster decoding of LlamaGen's blocks at that size is
timed in turn; ``speedup`` should be at least half of ``steps_ratio``. ``--peer`` is a checkout of
the system's repository, whose loop runs with a model of the same size. Last line: one JSON object.

Relatives of VAR (``SCALED``) run over its ten token maps and its vocabulary, beside VAR itself at
that size, which takes as many steps. ``code`` hands over to a model of depth 2 after eight. MVAR's
code needs natten; M-VAR's needs CUDA, so that it has no peer here.
"""

import argparse
import json
import platform
import statistics
import time
from typing import Any

import torch
from family_peers import (
    CODE_DIM,
    DEPTH,
    HANDOVER,
    HEADS,
    HIDDEN,
    PEERS,
    SCALE,
    SCALED_VOCAB,
    SIDE,
    SIDES,
    SMALL_DEPTH,
    VOCAB,
    WIDTH,
    Call,
)

from arimage.ar.base import Backbone
from arimage.ar.registry import MODELS
from arimage.parts import make_order
from arimage.sampling.loop import Branch, generate
from arimage.sampling.settings import Settings
from arimage.tokenizers.base import ImageTokenizer
from arimage.tokenizers.registry import TOKENIZERS
from arimage.zoo_relatives import HMAR_SAMPLING

# model -> settings besides the scale
SYSTEMS: dict[str, dict[str, Any]] = {
    "llama": {},
    "par": {},
    "randar": {"guidance_schedule": "linear_before"},
    "arpg": {"guidance_schedule": "linear_after"},
    "lpd": {"guidance_schedule": "linear_per_token"},
    "var": {"guidance_schedule": "linear"},
    "mvar": {"guidance_schedule": "linear"},
    "m_var": {"guidance_schedule": "linear"},
    "code": {"guidance_schedule": "linear"},
    "flexvar": {"guidance_schedule": "linear_by_map"},
    "hmar": {"guidance_schedule": "linear_by_map", "passes": HMAR_SAMPLING["passes"]},
    "halton": {},
    "ibq": {},
    "open_magvit2": {},
    "maskbit": {"guidance_schedule": {"name": "power_cosine", "power": 3.0}},
    "titok_vit": {"sampler": "annealed", "guidance_schedule": "linear_before"},
}
# model -> tokenizer, where there are several token maps
SCALED = dict.fromkeys(("var", "mvar", "m_var", "code", "hmar"), "multiscale_vq")
SCALED |= {"flexvar": "flexible_vq"}
FIELDS: dict[str, dict[str, Any]] = {"open_magvit2": {"first_part": 64}}  # besides the sizes


def built(name: str, depth: int = DEPTH) -> Backbone:
    """A model of the common size with random weights."""
    cls = MODELS[name]
    fields = {"width": WIDTH, "depth": depth, "num_heads": HEADS, "num_classes": 1000}
    if name in SCALED:
        fields |= {"vocab_size": SCALED_VOCAB, "scales": list(SIDES), "code_dim": CODE_DIM}
    else:
        fields |= {"vocab_size": VOCAB, "grid": [SIDE, SIDE], "mlp_hidden": HIDDEN}
    model = cls(cls.config_class(**fields, **FIELDS.get(name, {}))).eval()
    if hasattr(model, "output"):
        for weight in (w for w in model.output.parameters() if w.ndim > 1):
            torch.nn.init.normal_(weight, std=0.02)
    return model


def tokenizer_for(name: str) -> ImageTokenizer:
    """A small one with the system's tokens."""
    fields = {"image_size": 16 * SIDE, "downsample_factor": 16, "channels": 8, "norm_groups": 4}
    fields |= {"channel_multipliers": [1, 1, 1, 1, 1], "vocab_size": VOCAB, "code_dim": 8}
    if name in SCALED:
        fields |= {"vocab_size": SCALED_VOCAB, "code_dim": CODE_DIM, "scales": list(SIDES)}
        fields |= {"quantizer": "vq_learned"}
    cls = TOKENIZERS[SCALED.get(name, "vq")]
    return cls(cls.config_class(**fields)).eval()


def ours(name: str, labels: torch.Tensor, **more: Any) -> tuple[Call, int]:
    """A call that makes the tokens of ``labels``, and how many steps it takes.

    ``more``: settings.
    """
    settings = Settings.from_json({"guidance_scale": SCALE, **SYSTEMS[name], **more})
    models = [built("var" if name == "code" else name)]
    spans: list[tuple[int, int | None]] = [(0, None)]
    if name == "code":
        models.append(built("var", SMALL_DEPTH))
        spans = [(0, HANDOVER), (HANDOVER, None)]
    order = make_order(tokenizer_for(name), models[0], **settings.order_options)

    @torch.no_grad()
    def call() -> object:
        parts = order, labels, settings.guidance()
        branches = [
            Branch.of(model, *parts, first=first, last=last)
            for model, (first, last) in zip(models, spans, strict=True)
        ]
        noise = settings.make_noise(list(range(len(labels))), "cpu")
        *_, state = generate(branches, order, settings.make_sampler(), noise)
        return state.ids

    return call, order.num_steps


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
    systems = sorted(set(SYSTEMS) - {"llama", "var"})
    parser.add_argument("--system", choices=systems, required=True)
    parser.add_argument("--peer", help="a checkout of the system's repository")
    parser.add_argument("--refresh", type=int, help="full passes every so many, for halton")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    labels = torch.arange(options.batch)
    raster, raster_steps = ours("llama", labels)
    system, steps = ours(options.system, labels, refresh=options.refresh)
    calls = {"raster": raster, options.system: system}
    if options.system in SCALED:
        calls["var"] = ours("var", labels)[0]
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
    if options.system in SCALED:
        record["var_ratio"] = round(seconds["var"] / seconds[options.system], 2)
    if options.peer:
        record["peer_ratio"] = round(seconds["peer"] / seconds[options.system], 2)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
