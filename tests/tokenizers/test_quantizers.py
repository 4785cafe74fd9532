"""Quantizers: ids, codes, gradients, and what happens to the codebook when."""

import pytest
import torch
from tiny import TINY_QUANTIZERS, make_quantizer, sentence

from arimage.tokenizers.quantizers import Quantizer
from arimage.tokenizers.quantizers_learned import GUMBEL_KL
from arimage.tokenizers.registry import QUANTIZERS


def latents(quantizer, batch=4, count=30, seed=9):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, quantizer.code_dim, generator=generator)


def all_codes(quantizer):
    return quantizer.lookup(torch.arange(quantizer.vocab_size)[None])[0]


@pytest.mark.parametrize("name", QUANTIZERS)
def test_shapes_types_and_range(name):
    quantizer = make_quantizer(name)
    z = latents(quantizer)
    codes, ids, loss = quantizer(z)
    assert codes.shape == z.shape
    assert ids.shape == z.shape[:2]
    assert ids.dtype == torch.int64
    assert 0 <= ids.min() <= ids.max() < quantizer.vocab_size
    assert loss.shape == ()
    assert len(ids.unique()) > quantizer.vocab_size / 4


def round_trips(quantizer, lookup):
    """Whether codes -> ids -> codes is exact, and no two ids share a code."""
    codes, ids, _ = quantizer(latents(quantizer))
    table = all_codes(quantizer)
    return torch.equal(lookup(ids), codes) and len(table.unique(dim=0)) == quantizer.vocab_size


@pytest.mark.parametrize("name", QUANTIZERS)
def test_codes_to_ids_to_codes_is_exact(name):
    quantizer = make_quantizer(name)
    assert round_trips(quantizer, quantizer.lookup)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_neighbouring_id_is_another_code(name):
    quantizer = make_quantizer(name)
    assert not round_trips(quantizer, lambda ids: quantizer.lookup((ids + 1) % 32))


@pytest.mark.parametrize("name", sorted(set(QUANTIZERS) - {"fsq", "gumbel", "ibq"}))
def test_a_code_is_quantized_to_itself(name):
    quantizer = make_quantizer(name)
    ids = torch.arange(quantizer.vocab_size)[None]
    assert torch.equal(quantizer(quantizer.lookup(ids)).ids, ids)


@pytest.mark.parametrize("name", ["vq_ema", "vq_rotation", "vq_learned", "simvq", "lfq"])
def test_the_nearest_code_is_chosen(name):
    quantizer = make_quantizer(name)
    z = latents(quantizer)
    assert torch.equal(quantizer(z).ids, torch.cdist(z, all_codes(quantizer)[None]).argmin(-1))


@pytest.mark.parametrize("name", ["vq_cosine", "vq_learned_cosine"])
def test_a_cosine_quantizer_looks_at_angles_alone(name):
    quantizer = make_quantizer(name)
    z = latents(quantizer)
    assert torch.equal(quantizer(z).ids, quantizer(z * 7).ids)
    codes = all_codes(quantizer)
    assert torch.allclose(codes.norm(dim=-1), torch.ones(len(codes)), atol=1e-5)
    angles = torch.nn.functional.cosine_similarity(z[:, :, None], codes, dim=-1)
    assert torch.equal(quantizer(z).ids, angles.argmax(-1))


@pytest.mark.parametrize("name", ["vq_ema", "vq_cosine"])
def test_evaluation_finds_the_ids_of_the_library(name):
    quantizer = make_quantizer(name)
    z = latents(quantizer)
    codes, ids, _ = quantizer.inner(z)
    assert torch.equal(quantizer(z).ids, ids)
    assert torch.allclose(quantizer(z).codes, codes, atol=1e-6)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_batch_changes_nothing(name):
    quantizer = make_quantizer(name)
    z = latents(quantizer)
    alone = torch.cat([quantizer(row[None]).ids for row in z])
    assert torch.equal(quantizer(z).ids, alone)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_evaluation_changes_nothing(name, trained):
    fields = TINY_QUANTIZERS[name]
    fresh = QUANTIZERS[name](fields["vocab_size"], fields["code_dim"], fields.get("levels"))
    quantizer = make_quantizer(name) if trained else fresh.eval()
    before = {k: v.clone() for k, v in quantizer.state_dict().items()}
    first = quantizer(latents(quantizer)).ids
    assert torch.equal(quantizer(latents(quantizer)).ids, first)
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())
    assert len(all_codes(quantizer).unique(dim=0)) == quantizer.vocab_size


@pytest.mark.parametrize("name", QUANTIZERS)
def test_gradients_go_straight_through(name):
    quantizer = make_quantizer(name).train()
    z = latents(quantizer).requires_grad_()
    codes, _, loss = quantizer(z)
    weights = torch.rand(codes.shape, generator=torch.Generator().manual_seed(1))
    ((weights * codes).sum() + loss).backward()
    assert z.grad.isfinite().all()
    assert z.grad.abs().sum(-1).min() > 0


@pytest.mark.parametrize("name", ["vq_ema", "vq_cosine"])
def test_the_first_rows_start_the_codebook(name):
    fields = TINY_QUANTIZERS[name]
    quantizer = QUANTIZERS[name](fields["vocab_size"], fields["code_dim"])
    z = 5 + latents(quantizer)
    before = all_codes(quantizer.eval())
    quantizer.train().start(z.flatten(0, 1))
    after = all_codes(quantizer.eval())
    if name == "vq_ema":
        assert before.abs().max() <= 1 / quantizer.vocab_size
        assert after.mean().item() == pytest.approx(5, abs=1)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("lfq", (30, 5, None), "set code_dim to log2(vocab_size)"),
        ("lfq", (32, 5, [2, 2, 2, 2, 2]), "takes no levels"),
        ("fsq", (60, 3, None), "fsq needs code_dim levels whose product is vocab_size"),
        ("fsq", (60, 3, [3, 4, 6]), "fsq needs code_dim levels whose product is vocab_size"),
        ("fsq", (60, 2, [3, 4, 5]), "fsq needs code_dim levels whose product is vocab_size"),
        ("vq_ema", (32, 4, [32]), "takes no levels"),
    ],
)
def test_sizes_that_do_not_go_together_are_told(name, sizes, message):
    with pytest.raises(ValueError) as caught:
        QUANTIZERS[name](*sizes)
    assert message in sentence(caught)


@torch.no_grad()
@pytest.mark.parametrize("name", QUANTIZERS)
def test_tensors_outside_the_checkpoint_are_rebuilt(name):
    quantizer = make_quantizer(name)
    assert isinstance(quantizer, Quantizer)
    before = {k: v.clone() for k, v in quantizer.named_buffers()}
    saved = quantizer.state_dict()
    for key, buffer in quantizer.named_buffers():
        if key not in saved:
            buffer.fill_(77)
    quantizer.rebuild_buffers()
    assert all(torch.equal(v, before[k]) for k, v in quantizer.named_buffers())


def test_the_gumbel_quantizer_draws_while_it_trains():
    quantizer, draws = make_quantizer("gumbel"), []
    z = latents(quantizer, 1, 1).expand(1, 20000, -1)
    logits = quantizer.inner["projection"](z[0, 0])
    assert (quantizer(z).ids == logits.argmax()).all()
    codes, draws, _ = quantizer.train()(z)
    assert torch.allclose(codes, quantizer.lookup(draws), atol=1e-5)
    frequency = torch.bincount(draws[0], minlength=32) / 20000
    assert (frequency - logits.softmax(-1)).abs().max() < 0.015  # four deviations of a half


def test_the_loss_of_the_gumbel_quantizer_is_the_divergence_from_equally_frequent_codes():
    quantizer = make_quantizer("gumbel")
    z = latents(quantizer)
    p = torch.distributions.Categorical(logits=quantizer.inner["projection"](z))
    even = torch.distributions.Categorical(logits=torch.zeros(32))
    divergence = torch.distributions.kl_divergence(p, even).mean()
    assert quantizer(z).loss.item() == pytest.approx(GUMBEL_KL * divergence.item(), rel=1e-4)
    torch.nn.init.zeros_(quantizer.inner["projection"].weight)
    torch.nn.init.ones_(quantizer.inner["projection"].bias)
    assert quantizer(z).loss.item() == pytest.approx(0, abs=1e-8)
