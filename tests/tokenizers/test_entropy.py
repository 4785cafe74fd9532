"""The entropy of the choice of codes: its value, its gradient, and the same over two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import make_quantizer

import arimage.tokenizers.entropy as module
from arimage.tokenizers.entropy import (
    ENTROPY_WEIGHT,
    TEMPERATURE,
    bit_entropy_loss,
    entropy,
    entropy_loss,
    mean_joint,
)

BITS = ("lfq", "bsq")


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(p):
    return -(p * p.clamp_min(1e-300).log()).sum(-1)


def test_the_loss_is_the_entropy_of_tokens_minus_that_of_their_mean():
    logits = 3 * noise(4, 30, 7)
    p = logits.double().softmax(-1).flatten(0, 1)
    for gamma in (1.0, 0.3):
        expected = by_hand(p).mean() - gamma * by_hand(p.mean(0))
        assert entropy_loss(logits, gamma).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_best_is_a_sure_choice_and_even_use_and_the_worst_is_one_code():
    even, one = 100 * torch.eye(8), 100 * torch.eye(8)[:1].expand(8, -1)
    assert entropy_loss(even).item() == pytest.approx(-torch.tensor(8.0).log().item(), abs=1e-5)
    assert entropy_loss(one).item() == pytest.approx(0, abs=1e-5)


def enumerated(log_odds):
    """Logits of all 2 ** c codes, the first bit counting most."""
    bits = log_odds.shape[-1]
    codes = torch.arange(2**bits)[:, None] >> torch.arange(bits).flip(0) & 1
    return (log_odds @ codes.T.to(log_odds.dtype)).double()


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_bit_by_bit_it_is_the_loss_of_all_codes(bits, gamma):
    ours = (2 * noise(3, 20, bits)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    found, expected = bit_entropy_loss(ours, gamma), entropy_loss(enumerated(theirs), gamma)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    found.backward()
    expected.backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    p = enumerated(ours.detach()).softmax(-1).flatten(0, 1).mean(0)
    assert torch.allclose(mean_joint(ours.detach().flatten(0, 1)).double(), p, atol=1e-6)


def test_more_bits_than_are_counted_jointly_are_an_upper_bound(monkeypatch):
    log_odds = 2 * noise(1, 5, 8)
    joint = bit_entropy_loss(log_odds).item()
    monkeypatch.setattr(module, "EXACT_BITS", 4)
    groups = bit_entropy_loss(log_odds).item()
    own = by_hand(enumerated(log_odds).softmax(-1)).mean().item()
    halves = [entropy(mean_joint(half)).item() for half in log_odds[0].split(4, dim=-1)]
    assert groups == pytest.approx(own - sum(halves), abs=1e-5)
    assert groups < joint - 1e-2


def test_sure_bits_have_a_finite_gradient():
    log_odds = torch.tensor([[-500.0, 500.0], [500.0, 0.0]], requires_grad=True)
    bit_entropy_loss(log_odds).backward()
    assert log_odds.grad.isfinite().all()


@pytest.mark.parametrize("name", BITS)
def test_signs_are_scored_by_their_distance_to_all_codes(name):
    quantizer = make_quantizer(name).train()
    latents = 0.02 * noise(2, 40, 5)
    codes = quantizer.lookup(torch.arange(32)[None])[0]
    distances = torch.cdist(quantizer.points(latents).double(), codes[None].double()).square()
    expected = entropy_loss(-distances / TEMPERATURE)
    assert quantizer.entropy(latents).item() == pytest.approx(expected.item(), abs=1e-4)
    with_entropy = quantizer(latents).loss
    quantizer.entropy_weight = 0.0
    gap = with_entropy - quantizer(latents).loss
    assert gap.item() == pytest.approx(ENTROPY_WEIGHT * expected.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["vq_ema", "vq_cosine", "vq_learned", "simvq", "fsq", "gumbel"])
def test_any_quantizer_has_an_entropy_with_a_gradient(name):
    quantizer = make_quantizer(name).train()
    z = 0.3 * noise(2, 40, quantizer.code_dim)
    plain = quantizer(z).loss.item() if name != "gumbel" else None
    z.requires_grad_()
    quantizer.entropy(z).backward()
    assert z.grad.abs().max() > 0
    quantizer.entropy_weight = 2.0
    if name != "gumbel":  # which draws
        found = quantizer(z).loss.item()
        assert found == pytest.approx(plain + 2 * quantizer.entropy(z).item(), abs=1e-5)


def observe(rows):
    """What a process sees of its latents: losses, gradients, and codebooks after an update."""
    seen = {}
    for name in BITS:
        quantizer = make_quantizer(name).train()
        latents = rows[name][None].clone().requires_grad_()
        loss = quantizer(latents).loss
        loss.backward()
        seen[name] = {"loss": loss.detach(), "gradient": latents.grad[0]}
    return seen


def codebooks(rows):
    """Codebooks started with some rows and updated with others, by a process of its own."""
    found = {}
    for name in ("vq_ema", "vq_cosine", "vq_learned"):
        torch.manual_seed(1)
        quantizer = make_quantizer(name)
        torch.manual_seed(2)
        for step in range(30):
            quantizer.update(rows[name] * (0.1 if step else 1))
        found[name] = quantizer.state_dict()
    return found


def inputs():
    signs = {name: 0.05 * noise(64, 5, seed=3) for name in BITS}
    return signs | {name: noise(256, 6, seed=4) for name in ("vq_ema", "vq_cosine", "vq_learned")}


def as_one_process_of_two(folder, rank):
    """The half of the rows with the rank's parity; rows for codebooks are gathered first."""
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    halves = {name: rows[rank::2].contiguous() for name, rows in inputs().items()}
    gathered = {}
    for name, rows in halves.items():
        parts = [torch.empty_like(rows) for _ in range(2)]
        distributed.all_gather(parts, rows)
        gathered[name] = torch.cat(parts)
    result = {"seen": observe(halves), "codebooks": codebooks(gathered), "gathered": gathered}
    torch.save(result, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_see_what_one_sees(tmp_path):
    """Values alike; gradients alike after the mean over processes that training takes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = "import test_entropy; test_entropy.as_one_process_of_two"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", f"{command}({str(tmp_path)!r}, {rank})"], env=environment
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = observe(inputs())
    for name in BITS:
        losses = [rank["seen"][name]["loss"] for rank in ranks]
        assert torch.stack(losses).mean().item() == pytest.approx(
            alone[name]["loss"].item(), abs=1e-6
        )
        for rank in range(2):
            gradient = ranks[rank]["seen"][name]["gradient"] / 2
            assert torch.allclose(gradient, alone[name]["gradient"][rank::2], rtol=0, atol=1e-6)
    one = codebooks(ranks[0]["gathered"])
    for name, state in one.items():
        for key, value in state.items():
            assert torch.equal(ranks[0]["codebooks"][name][key], ranks[1]["codebooks"][name][key])
            assert torch.equal(ranks[0]["codebooks"][name][key], value)


def test_halves_alone_do_not_add_up():
    """The negative twin: without the mean over processes the losses differ."""
    rows = inputs()
    halves = [observe({name: x[rank::2] for name, x in rows.items()}) for rank in range(2)]
    whole = observe(rows)
    for name in BITS:
        mean = torch.stack([half[name]["loss"] for half in halves]).mean()
        assert abs(mean - whole[name]["loss"]).item() > 1e-3
