"""What does the training loop cost over a hand-written one?

The same tokenizer, critic, losses and batch: once through ``training.loop.Loop``, once in a plain
loop as a person would write it for one device. Steps alternate in one process; the figure is the
median of each, and their ratio. Also the share of convolution in a step, and on a GPU the peak
memory. The last line is JSON.

    python benchmarks/train_tokenizer.py --size 64 --channels 32 --batch 8 --runs 9
    python benchmarks/train_tokenizer.py --device cuda --size 256 --channels 160 --batch 16 \\
        --precision bf16 --runs 20
"""

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.profiler import ProfilerActivity, profile

from arimage.training.loop import Loop, make_accelerator
from arimage.training.losses.patchgan import PatchGAN
from arimage.training.objective import Images
from arimage.training.tokenizer_build import build_task, new_tokenizer
from arimage.training.tokenizer_recipe import TokenizerRecipe

RATE, BETAS, CLIP, DECAY, WEIGHT = 1e-4, (0.5, 0.9), 1.0, 0.999, 0.5


def make_recipe(asked: argparse.Namespace) -> TokenizerRecipe:
    """L1, L2, codebook and a PatchGAN from the first step on."""
    optimizer = {"learning_rate": RATE, "betas": list(BETAS), "gradient_clip": CLIP}
    return TokenizerRecipe.of(
        {
            "steps": 10_000,
            "batch_size": asked.batch,
            "precision": asked.precision,
            "tokenizer": {
                "family": asked.family,
                "image_size": asked.size,
                "channels": asked.channels,
                "channel_multipliers": [1, 1, 2, 2, 4],
                "num_res_blocks": 2,
                "latent_channels": 32,
                "quantizer": "vq_learned",
                "vocab_size": 4096,
                "code_dim": 32,
            },
            "optimizer": {**optimizer, "ema_decay": DECAY},
            "losses": {"l1": {"weight": 1.0}, "l2": {"weight": 1.0}, "codebook": {"weight": 1.0}},
            "adversarial": {"critic": "patchgan", "weight": WEIGHT, "adaptive": False},
        }
    )


def plain_loop(
    tokenizer: torch.nn.Module, critic: PatchGAN, images: torch.Tensor, dtype: torch.dtype | None
) -> Callable[[], float]:
    """A step as one writes it by hand."""
    makers = torch.optim.AdamW(tokenizer.parameters(), RATE, BETAS, weight_decay=0.0)
    judges = torch.optim.AdamW(critic.parameters(), RATE, BETAS, weight_decay=0.0)
    average = AveragedModel(tokenizer, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    cast = {"device_type": images.device.type, "dtype": dtype, "enabled": dtype is not None}

    def step() -> float:
        tokenizer.train()
        critic.train().requires_grad_(False)
        with torch.autocast(**cast):
            output, encoding = tokenizer(images)
            loss = F.l1_loss(output.float(), images) + F.mse_loss(output.float(), images)
            loss = loss + encoding.loss - WEIGHT * critic(output).float().mean()
        makers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), CLIP)
        makers.step()
        critic.requires_grad_(True)
        with torch.autocast(**cast):
            real, fake = critic(images).float(), critic(output.detach()).float()
            judged = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        judges.zero_grad()
        judged.backward()
        torch.nn.utils.clip_grad_norm_(critic.parameters(), CLIP)
        judges.step()
        average.update_parameters(tokenizer)
        return loss.item()

    return step


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one step."""
    begin = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def convolution_share(step: Callable[[], object], device: torch.device) -> float:
    """Of the time that operators take in a step, that of convolutions."""
    cuda = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=kinds) as seen:
        timed(step, device)
    attribute = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = {event.key: getattr(event, attribute) for event in seen.key_averages()}
    names = ("conv", "xmma", "implicit", "fprop", "dgrad", "wgrad", "cutlass")
    own = sum(t for key, t in times.items() if any(name in key.lower() for name in names))
    return own / sum(times.values())


def main() -> None:
    """Alternates both loops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="multiscale_vq")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    device, recipe = torch.device(asked.device), make_recipe(asked)
    tokenizer = new_tokenizer(recipe.tokenizer, 0).to(device)
    torch.manual_seed(0)
    images = torch.rand(asked.batch, 3, asked.size, asked.size, device=device) * 2 - 1
    other = copy.deepcopy(tokenizer)
    task = build_task(tokenizer, recipe, device)
    accelerator = make_accelerator(recipe.precision)
    loop = Loop(task, task.players[0].recipe, accelerator)
    batch = Images(images, torch.arange(asked.batch))
    dtype = torch.bfloat16 if asked.precision == "bf16" else None
    plain = plain_loop(other, PatchGAN().to(device), images, dtype)
    steps = {"loop": lambda: loop.step(batch), "plain": plain}
    for step in steps.values():
        timed(step, device), timed(step, device)
    rows = {name: [] for name in steps}
    for _ in range(asked.runs):
        for name, step in steps.items():
            rows[name].append(timed(step, device))
    seconds = {name: statistics.median(values) for name, values in rows.items()}
    record = {
        **vars(asked),
        "threads": torch.get_num_threads(),
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "images per second": {n: round(asked.batch / value, 2) for n, value in seconds.items()},
        "loop / plain": round(seconds["loop"] / seconds["plain"], 3),
        "share of convolution": round(convolution_share(steps["loop"], device), 3),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        timed(steps["loop"], device)
        record["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        record["gpu"] = torch.cuda.get_device_name()
    print(json.dumps(record))


if __name__ == "__main__":
    main()
