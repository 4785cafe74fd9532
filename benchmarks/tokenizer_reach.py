"""Does a tokenizer that was trained on some photographs get better at others by fine-tuning?

A dozen real photographs (arimage.demo.photographs) in two halves. A new tokenizer is trained on
crops of the first half, then fine-tuned on crops of the second; photographs of the second half that
neither has seen say what was gained. Codebook use is counted over their tokens, at least 20 a code.
The last line is JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from arimage.demo.photographs import halves, random_crops, write_crops
from arimage.eval.codebook import CodeCounter
from arimage.eval.metrics.reconstruction import psnr
from arimage.images import from_pixels, to_pixels
from arimage.tokenizers.base import ImageTokenizer
from arimage.training.tokenizer_recipe import TokenizerRecipe
from arimage.training.tokenizer_run import TokenizerRun, run_tokenizer

SIZE, CROPS, TESTED = 32, 600, 256
TOKENIZER = {
    "image_size": SIZE,
    "channels": 32,
    "channel_multipliers": [1, 1, 2],
    "num_res_blocks": 1,
    "latent_channels": 32,
    "norm_groups": 8,
    "vocab_size": 512,
    "code_dim": 8,
}
LATTICES = {"lfq": {"code_dim": 9}, "bsq": {"code_dim": 9}}
LATTICES["fsq"] = {"code_dim": 3, "levels": [8, 8, 8]}


def recipe(family: str, quantizer: str, steps: int, seed: int) -> TokenizerRecipe:
    """Pixels and codes alone, so that no weights are needed."""
    fields = {**TOKENIZER, "family": family, "quantizer": quantizer, **LATTICES.get(quantizer, {})}
    if quantizer == "residual_vq":
        fields["depth"] = 2
    return TokenizerRecipe.of(
        {
            "steps": steps,
            "batch_size": 16,
            "tokenizer": fields,
            "optimizer": {
                "learning_rate": 2e-3,
                "betas": [0.9, 0.99],
                "warmup": 0.1,
                "schedule": "cosine",
                "final": 0.1,
                "gradient_clip": 1.0,
                "ema_decay": 0.95,
            },
            "losses": {"l1": {"weight": 1.0}, "l2": {"weight": 1.0}, "codebook": {"weight": 1.0}},
            "data": {"crop": "center", "flip": 0.5},
            "sample_every": 100,
            "seed": seed,
        }
    )


@torch.no_grad()
def score(folder: Path, pixels) -> dict[str, float]:
    """Mean PSNR (dB), and the share of the codebook that the tokens use."""
    tokenizer = ImageTokenizer.from_pretrained(folder).eval()
    codes, values = CodeCounter(tokenizer.config.vocab_size), []
    for part in (pixels[i : i + 32] for i in range(0, len(pixels), 32)):
        ids = tokenizer.encode(from_pixels(part))
        codes.add(ids)
        values += list(psnr(part, to_pixels(tokenizer.decode(ids))))
    per_code = codes.counts.sum() / len(codes.counts)
    return {
        "psnr": sum(values) / len(values),
        "use": codes.use.share,
        "perplexity": codes.use.perplexity,
        "tokens per code": float(per_code),
    }


def main() -> None:
    """Trains, fine-tunes, scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default="vq,multiscale_vq")
    parser.add_argument("--quantizers", default="vq_ema")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    out = asked.out or Path(tempfile.mkdtemp())
    first, second = halves()
    sets = {
        "first": write_crops(out / "first", first.train, SIZE, CROPS, asked.seed),
        "second": write_crops(out / "second", second.train, SIZE, CROPS, asked.seed + 1),
    }
    tested = random_crops(second.test, SIZE, TESTED, asked.seed + 2)
    rows = []
    for family in asked.families.split(","):
        for quantizer in asked.quantizers.split(","):
            chosen = recipe(family, quantizer, asked.steps, asked.seed)
            started, tuned = (out / f"{family}-{quantizer}-{n}" for n in ("start", "tuned"))
            shared = {"recipe": chosen, "tracker": "none"}
            begin = time.perf_counter()
            run_tokenizer(TokenizerRun(data=str(sets["first"]), out=started, **shared))
            middle = time.perf_counter()
            run_tokenizer(
                TokenizerRun(data=str(sets["second"]), out=tuned, start=str(started), **shared)
            )
            before, after = score(started, tested), score(tuned, tested)
            row = {"family": family, "quantizer": quantizer, "before": before, "after": after}
            row["gain dB"] = round(after["psnr"] - before["psnr"], 3)
            row["seconds"] = [round(middle - begin), round(time.perf_counter() - middle)]
            rows.append(row)
            print(row, flush=True)
    print(json.dumps({"steps": asked.steps, "seed": asked.seed, "size": SIZE, "rows": rows}))


if __name__ == "__main__":
    main()
