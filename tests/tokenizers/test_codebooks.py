"""What a trainer does to codebooks: start, update, load; dead codes; nothing else changes them."""

import pytest
import torch
import torch.nn.functional as F
from tiny import (
    TINY_QUANTIZERS,
    TOKENIZER_CASES,
    make_images,
    make_quantizer,
    make_tokenizer,
    sentence,
    train_codebook,
)
from vector_quantize_pytorch import ResidualVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from arimage.tokenizers.quantizers import COMMITMENT, EMA_DECAY, IDLE
from arimage.tokenizers.quantizers_lattice import LatticeQuantizer
from arimage.tokenizers.registry import QUANTIZERS
from arimage.tokenizers.requantize import with_quantizer

EMA = ("vq_ema", "vq_cosine", "vq_rotation", "residual_vq")
REVIVED = (*EMA, "vq_learned", "vq_learned_cosine")
LATTICES = ("lfq", "bsq", "fsq")


def fresh(name):
    fields = TINY_QUANTIZERS[name]
    torch.manual_seed(0)
    return QUANTIZERS[name](fields["vocab_size"], fields["code_dim"], fields.get("levels")).train()


def rows_of(quantizer, count=400, seed=9):
    return torch.randn(count, quantizer.code_dim, generator=torch.Generator().manual_seed(seed))


def codes_of(quantizer):
    return quantizer.lookup(torch.arange(quantizer.vocab_size)[None])[0].detach().clone()


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_training_pass_changes_nothing(name, started):
    quantizer = make_quantizer(name).train() if started else fresh(name)
    before, z = state_of(quantizer), rows_of(quantizer)[None]
    ids = quantizer(z).ids
    assert same(quantizer, before)
    assert quantizer.training
    if name != "gumbel":  # which draws
        assert torch.equal(quantizer.nearest(z), ids)
        assert torch.equal(quantizer.eval()(z).ids, ids)


@pytest.mark.parametrize(("name", "quantizer"), TOKENIZER_CASES)
def test_a_training_pass_of_a_tokenizer_changes_nothing(name, quantizer):
    tokenizer = make_tokenizer(name, quantizer).train()
    before, images = state_of(tokenizer), make_images(tokenizer, 2)
    encoding = tokenizer(images)[1]
    assert same(tokenizer, before)
    assert encoding.rows.shape == (*encoding.ids.shape, tokenizer.config.code_dim)
    assert not encoding.rows.requires_grad
    if quantizer != "gumbel":
        assert torch.equal(tokenizer.quantizer.nearest(encoding.rows), encoding.ids)
        assert torch.equal(tokenizer.eval().encode(images), encoding.ids)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_started_codebook_is_not_started_again(name):
    quantizer = make_quantizer(name)
    before = state_of(quantizer)
    quantizer.start(7 + rows_of(quantizer))
    assert same(quantizer, before)


@pytest.mark.parametrize("name", ["gumbel", "simvq", "ibq", *LATTICES])
def test_what_learns_by_gradient_or_not_at_all_has_no_update(name):
    quantizer = make_quantizer(name)
    before = state_of(quantizer)
    for _ in range(10):
        quantizer.update(rows_of(quantizer))
    assert same(quantizer, before)
    assert quantizer.training_state() == {}


def library(name, quantizer):
    """The library's own module with the codebook of ``quantizer``."""
    cosine, rotation = name == "vq_cosine", name == "vq_rotation"
    vq = VectorQuantize(
        dim=quantizer.code_dim,
        codebook_size=quantizer.vocab_size,
        decay=EMA_DECAY,
        commitment_weight=COMMITMENT,
        use_cosine_sim=cosine,
        rotation_trick=rotation,
    )
    vq._codebook.load_state_dict(quantizer.inner._codebook.state_dict())
    return vq.train()


@pytest.mark.parametrize("name", EMA)
def test_a_training_pass_gives_what_the_library_gives(name):
    quantizer = make_quantizer(name).train()
    ours = rows_of(quantizer)[None].requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    codes, ids, loss = library(name, quantizer)(theirs, freeze_codebook=True)
    found = quantizer(ours)
    weights = torch.randn(codes.shape, generator=torch.Generator().manual_seed(2))
    ((codes * weights).sum() + 50 * loss.sum()).backward()
    ((found.codes * weights).sum() + 50 * found.loss).backward()
    assert torch.equal(found.ids, ids)
    assert torch.allclose(found.codes, codes, atol=1e-6)
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)
    plain = rows_of(quantizer)[None].requires_grad_()
    (quantizer.through(plain, found.codes.detach()) * weights).sum().backward()
    assert torch.allclose(plain.grad, weights) == (name != "vq_rotation")


@pytest.mark.parametrize("name", EMA)
def test_an_update_gives_what_the_library_gives(name, monkeypatch):
    monkeypatch.setattr("arimage.tokenizers.quantizers.PIECE", 32 * 7)  # in many pieces
    quantizer = make_quantizer(name)
    theirs = library(name, quantizer)
    for seed in range(3):
        rows = rows_of(quantizer, seed=seed)
        theirs(rows[None])
        quantizer.update(rows)
    for key, value in theirs._codebook.state_dict().items():
        assert torch.allclose(quantizer.inner._codebook.state_dict()[key], value, atol=1e-4), key


@pytest.mark.parametrize("name", EMA)
def test_all_scales_are_one_update(name):
    tokenizer = make_tokenizer("multiscale_vq", name)
    book = tokenizer.quantizer.inner._codebook
    before, images = book.cluster_size.clone(), make_images(tokenizer, 8)
    ids = tokenizer.encode(images)
    counts = torch.bincount(ids.flatten(), minlength=32)
    encoding = tokenizer.train()(images)[1]
    tokenizer.quantizer.update(encoding.rows.flatten(0, 1))
    assert counts.sum() == 8 * tokenizer.slots.num_slots
    expected = EMA_DECAY * before + (1 - EMA_DECAY) * counts
    assert torch.allclose(book.cluster_size, expected, atol=1e-5)


def idle_steps(quantizer, count):
    """Updates that a code survives that nothing chooses."""
    return int(IDLE * quantizer.vocab_size / count)


@pytest.mark.parametrize("name", REVIVED)
def test_a_dead_code_is_moved_and_no_other(name):
    quantizer = fresh(name)
    quantizer.start(rows_of(quantizer))
    rows = rows_of(quantizer, 640)
    used = quantizer.nearest(rows[None]).unique()
    assert len(used) == 32
    dead = quantizer.nearest(rows[None])[0] == 3
    rows = rows[~dead]
    steps = idle_steps(quantizer, len(rows))
    assert steps >= 1
    gone = codes_of(quantizer)[3]
    for _ in range(steps + 1):
        before = codes_of(quantizer)
        quantizer.update(rows)
        if 3 in quantizer.nearest(rows[None]):
            break
        assert torch.allclose(codes_of(quantizer)[3], gone, atol=1e-3)
    after = codes_of(quantizer)
    assert torch.cdist(after[3:4], quantizer.points(rows)).min() < 1e-3
    others = torch.arange(32) != 3
    assert (after - before)[others].norm(dim=-1).max() < 0.3 * (after - before)[3].norm()
    assert quantizer.idle[3] == 0


@pytest.mark.parametrize("name", REVIVED)
def test_an_unwarmed_count_kills_nobody(name):
    """A published codebook that uses one code in four, in its first steps."""
    quantizer = make_quantizer(name)
    quantizer.load_codebook(F.normalize(rows_of(quantizer, 32), dim=-1))
    before = codes_of(quantizer)
    rows = before[:8].repeat(4, 1)
    for _ in range(idle_steps(quantizer, len(rows)) - 1):
        quantizer.update(rows)
    assert torch.allclose(codes_of(quantizer), before, atol=1e-5)


@pytest.mark.parametrize("name", REVIVED)
def test_idleness_survives_a_resume(name):
    kept = make_quantizer(name)
    rows = [0.1 * rows_of(kept, 320, seed) + codes_of(kept)[0] for seed in range(3)]
    for _ in range(idle_steps(kept, 320) - 1):
        kept.update(codes_of(kept)[:1].repeat(320, 1))
    again, forgetful = make_quantizer(name), make_quantizer(name)
    for resumed in (again, forgetful):
        resumed.load_state_dict(kept.state_dict())
    again.load_training_state({k: v.clone() for k, v in kept.training_state().items()})
    for quantizer in (kept, again, forgetful):
        torch.manual_seed(5)
        for step in rows:
            quantizer.update(step)
    assert torch.equal(codes_of(again), codes_of(kept))
    assert not torch.allclose(codes_of(forgetful), codes_of(kept), atol=1e-2)


def test_the_state_of_another_quantizer_is_told():
    with pytest.raises(ValueError) as caught:
        make_quantizer("simvq").load_training_state({"idle": torch.zeros(32)})
    assert "resume with the quantizer that was trained" in sentence(caught)


@pytest.mark.parametrize("name", sorted(set(QUANTIZERS) - set(LATTICES)))
def test_a_loaded_codebook_is_looked_up_and_survives_its_first_update(name):
    quantizer = fresh(name)
    codes = rows_of(quantizer, 32)
    codes = F.normalize(codes, dim=-1) if "cosine" in name or name == "ibq" else codes
    quantizer.load_codebook(codes)
    assert torch.allclose(codes_of(quantizer), codes, atol=1e-6)
    assert torch.equal(quantizer.nearest(codes[None])[0], torch.arange(32))
    quantizer.start(5 + codes)
    assert torch.allclose(codes_of(quantizer), codes, atol=1e-6)
    quantizer.update(rows_of(quantizer, 320))
    assert (codes_of(quantizer) - codes).norm(dim=-1).max() < 0.1 * codes.norm(dim=-1).mean()


@pytest.mark.parametrize("name", LATTICES)
def test_a_lattice_takes_no_codes(name):
    quantizer = fresh(name)
    with pytest.raises(ValueError) as caught:
        quantizer.load_codebook(codes_of(quantizer))
    assert "has fixed codes" in sentence(caught)


def test_codes_of_another_size_are_told():
    with pytest.raises(ValueError) as caught:
        fresh("vq_ema").load_codebook(torch.zeros(31, 6))
    assert "got a codebook of 31 codes with 6 numbers each; this quantizer has 32" in sentence(
        caught
    )


@torch.no_grad()
def test_the_maps_of_a_depth_are_the_stages_of_the_library():
    tokenizer = make_tokenizer("vq", "residual_vq")
    theirs = ResidualVQ(
        dim=6, num_quantizers=3, codebook_size=32, shared_codebook=True, rotation_trick=False
    ).eval()
    theirs.layers[0]._codebook.load_state_dict(tokenizer.quantizer.inner._codebook.state_dict())
    latents = tokenizer.encode_latents(make_images(tokenizer, 3))
    codes, ids, _ = theirs(latents.flatten(2).transpose(1, 2))
    found = tokenizer.quantize(latents)
    assert torch.equal(found.ids.unflatten(1, (3, 16)), ids.permute(0, 2, 1))
    assert torch.allclose(found.codes.flatten(2).transpose(1, 2), codes, atol=1e-5)
    assert tokenizer.slots.grids == ((4, 4),) * 3


@torch.no_grad()
@pytest.mark.parametrize("name", ["vq", "multiscale_vq"])
def test_each_map_of_a_depth_comes_closer(name):
    tokenizer = make_tokenizer(name, "residual_vq")
    images = make_images(tokenizer, 8)
    for _ in range(30):
        train_codebook(tokenizer, images)
    found = tokenizer.eval().quantize(tokenizer.encode_latents(images))
    assert torch.allclose(tokenizer.canvas_of(found.ids), found.codes, atol=1e-5)
    lengths = [rows.square().mean() for rows in found.rows.split(16, dim=1)[-3:]]
    assert lengths[0] > lengths[1] > lengths[2]


def test_the_phi_of_a_map_goes_by_its_scale():
    tokenizer = make_tokenizer("multiscale_vq", "residual_vq")
    assert tokenizer.phi_of_scale == (0, 0, 0, 0, 0, 0, 1, 1, 1)
    assert tokenizer.slots.grids == ((1, 1),) * 3 + ((2, 2),) * 3 + ((4, 4),) * 3
    wide = tokenizer.at([(2, 3)] * 3 + [(4, 5)] * 3)
    images = F.interpolate(make_images(tokenizer, 2), (16, 20), mode="bilinear")
    assert wide.reconstruct(images).shape == images.shape
    with pytest.raises(ValueError) as caught:
        tokenizer.at([(2, 3), (4, 5)])
    assert "expected growing (height, width), each 3 times" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        make_tokenizer("vq", "residual_vq").at([(4, 4)])
    assert "one token map 3 times" in sentence(caught)


def test_a_depth_without_residuals_is_told():
    config = make_tokenizer("vq").config
    with pytest.raises(ValueError) as caught:
        type(config)(depth=2)
    assert "got depth 2 with quantizer 'vq_ema'; only 'residual_vq'" in sentence(caught)


def gradients(tokenizer, loss):
    tokenizer.zero_grad()
    loss.backward()
    return {
        k: p.grad.abs().max().item() for k, p in tokenizer.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize("name", ["vq", "multiscale_vq"])
@pytest.mark.parametrize("quantizer", ["lfq", "bsq", "simvq", "vq_learned", "vq_learned_cosine"])
def test_the_loss_of_a_tokenizer_trains_what_its_quantizer_trains(name, quantizer):
    """Signs: the encoder, by entropy too. Learned codes: the codes, and the encoder."""
    tokenizer = make_tokenizer(name, quantizer).train()
    images = make_images(tokenizer, 4)
    found = gradients(tokenizer, tokenizer(images)[1].loss)
    own = [size for key, size in found.items() if key.startswith("quantizer.")]
    assert found["encoder.layers.0.weight"] > 1e-6
    assert all(size > 1e-6 for size in own)
    assert bool(own) == (quantizer not in LATTICES)
    if quantizer in LATTICES:
        tokenizer.quantizer.entropy_weight = 0.0
        without = gradients(tokenizer, tokenizer(images)[1].loss)
        gap = abs(without["encoder.layers.0.weight"] - found["encoder.layers.0.weight"])
        assert gap > 1e-3 * found["encoder.layers.0.weight"]


def test_the_rotation_reaches_the_encoder_through_the_sum_of_maps():
    tokenizer = make_tokenizer("multiscale_vq", "vq_rotation").train()
    latents = tokenizer.encode_latents(make_images(tokenizer, 2)).detach().requires_grad_()
    codes = tokenizer.quantize(latents).codes
    weights = torch.randn(codes.shape, generator=torch.Generator().manual_seed(2))
    (codes * weights).sum().backward()
    rows = latents.detach().flatten(2).transpose(1, 2).requires_grad_()
    turned = rotate_to(rows, codes.detach().flatten(2).transpose(1, 2))
    (turned * weights.flatten(2).transpose(1, 2)).sum().backward()
    assert torch.allclose(latents.grad.flatten(2).transpose(1, 2), rows.grad, atol=1e-5)
    assert not torch.allclose(latents.grad, weights, atol=0.1)


@pytest.mark.parametrize("name", ["vq", "multiscale_vq"])
@pytest.mark.parametrize("old", ["vq_learned", "vq_ema", "lfq"])
@torch.no_grad()
def test_another_quantizer_starts_from_the_old_codes(name, old):
    tokenizer = make_tokenizer(name, old)
    images, before = make_images(tokenizer, 2), state_of(tokenizer)
    names = ["vq_ema", "vq_rotation", "vq_learned", "simvq"]
    for new in names:
        made = with_quantizer(tokenizer, new)
        assert made.config.quantizer == new
        assert torch.allclose(codes_of(made.quantizer), codes_of(tokenizer.quantizer), atol=1e-6)
        assert torch.equal(made.encode(images), tokenizer.encode(images))
        assert torch.allclose(made.reconstruct(images), tokenizer.reconstruct(images), atol=1e-5)
        train_codebook(made, images)
    assert same(tokenizer, before)


def test_a_lattice_has_no_codes_to_start_from_and_a_depth_reads_the_same_codebook():
    tokenizer = make_tokenizer("vq", "lfq")
    made = with_quantizer(tokenizer, "bsq")
    assert isinstance(made.quantizer, LatticeQuantizer)
    assert torch.equal(made.encoder.layers[0].weight, tokenizer.encoder.layers[0].weight)
    deep = with_quantizer(make_tokenizer("vq"), "residual_vq", depth=2)
    assert deep.slots.num_slots == 32
    with pytest.raises(ValueError) as caught:
        with_quantizer(tokenizer, "vq_ema", vocab_size=64)
    assert "got a codebook of 32 codes" in sentence(caught)
    with pytest.raises(ValueError) as caught:
        with_quantizer(tokenizer, "fsq", vocab_size=60, code_dim=3, levels=[3, 4, 5])
    assert "the networks of this tokenizer take 5" in sentence(caught)
    with pytest.raises(KeyError):
        with_quantizer(tokenizer, "vq_emaa")


def test_simvq_starts_with_codes_spread_as_the_rows_and_only_once():
    generator = torch.Generator().manual_seed(4)
    mix = torch.tensor([[3.0, 0, 0, 0], [1, 0.5, 0, 0], [0, 0, 0.1, 0], [0, 2, 0, 1]])
    rows = torch.randn(500, 4, generator=generator) @ mix + 7
    quantizer = QUANTIZERS["simvq"](64, 4)
    quantizer.start(rows)
    codes = quantizer.lookup(torch.arange(64)[None])[0]
    assert torch.allclose(codes.T.cov(), rows.T.cov(), rtol=0.05, atol=0.05)
    quantizer.start(10 * rows)
    assert torch.equal(quantizer.lookup(torch.arange(64)[None])[0], codes)
    loaded = QUANTIZERS["simvq"](64, 4)
    loaded.load_state_dict(quantizer.state_dict())
    loaded.start(10 * rows)
    assert torch.equal(loaded.lookup(torch.arange(64)[None])[0], codes)
