"""Tables that follow from weights: when they are kept, when they are dropped, what they change."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import fill, make_images, make_quantizer, make_tokenizer

from arimage.tokenizers.derived import Derived

FOLDED = ("vq_learned", "vq_learned_cosine", "gumbel")


class Doubled(torch.nn.Module):
    """A weight, and its double as a table."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.table = Derived()

    def forward(self):
        return self.table.get(lambda: 2 * self.weight, self.weight)


@torch.no_grad()
def test_a_table_is_made_once_and_not_saved():
    model = Doubled().eval()
    assert model() is model()
    assert list(model.state_dict()) == ["weight"]
    assert copy.deepcopy(model)().equal(model())
    with torch.inference_mode():
        born = Doubled().eval()
        assert born() is born()


def test_training_and_gradients_make_it_anew():
    model = Doubled()
    with torch.no_grad():
        assert model() is not model()
    model.eval()
    assert model() is not model()
    assert model().requires_grad


def in_place(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))


def through_data(model):
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.25 * torch.randn_like(parameter)
    model.train().eval()


def load(model):
    model.load_state_dict({k: 0.5 * v for k, v in model.state_dict().items()})


def assign(model):
    model.load_state_dict({k: 0.5 * v for k, v in model.state_dict().items()}, assign=True)


def train(model):
    model.train()
    fill(model, seed=5)
    model.eval()


def precision(model):
    model.double()


CHANGES = (in_place, through_data, load, assign, train, precision)


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_weights_drops_it(change):
    model = Doubled().eval()
    before = model()
    change(model)
    assert torch.equal(model(), 2 * model.weight)
    assert model().dtype == model.weight.dtype
    assert not torch.equal(model(), before) or change is precision


def plain(tokenizer, ids):
    """decode without the table."""
    return tokenizer.decode_canvas(tokenizer.canvas_of(ids)).clamp(-1, 1)


def gap(ours, theirs):
    return (ours - theirs).abs().max().item() / theirs.abs().max().item()


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("quantizer", FOLDED)
def test_folding_changes_nothing_beyond_rounding(quantizer, dtype, bound):
    tokenizer = make_tokenizer("vq", quantizer).to(dtype)
    tokenizer.decoder.layers[-1].weight.mul_(0.1)
    ids = tokenizer.encode(make_images(tokenizer, 3).to(dtype))
    exact = plain(copy.deepcopy(tokenizer).double(), ids)
    folded = tokenizer.decode(ids)
    assert folded.dtype == dtype
    assert gap(folded.double(), exact) < bound
    assert exact.abs().max() < 1, "clamping hides differences"
    assert gap(tokenizer.decode(ids.roll(1, 1)).double(), exact) > 2 * bound


@torch.no_grad()
@pytest.mark.parametrize("change", [c for c in CHANGES if c is not precision])
@pytest.mark.parametrize("quantizer", FOLDED)
def test_a_changed_tokenizer_decodes_with_its_new_weights(quantizer, change):
    tokenizer = make_tokenizer("vq", quantizer)
    ids = tokenizer.encode(make_images(tokenizer, 3))
    before = tokenizer.decode(ids)
    codes = tokenizer.lookup(ids)
    change(tokenizer)
    assert gap(tokenizer.decode(ids), plain(tokenizer, ids)) < 1e-5
    assert gap(tokenizer.decode(ids), before) > 1e-3
    fresh = make_tokenizer("vq", quantizer)
    fresh.load_state_dict(tokenizer.state_dict())
    assert torch.equal(fresh.lookup(ids), tokenizer.lookup(ids))
    assert torch.equal(tokenizer.lookup(ids), codes) == (
        quantizer == "vq_learned_cosine" and change in (load, assign)  # half as long: same angle
    )


@torch.no_grad()
def test_a_table_that_is_never_dropped_is_caught(monkeypatch):
    """The negative twin of the test above."""
    tokenizer = make_tokenizer("vq", "vq_learned")
    ids = tokenizer.encode(make_images(tokenizer, 3))
    tokenizer.decode(ids)
    kept = tokenizer.decoder_codes._value
    monkeypatch.setattr(Derived, "get", lambda self, make, *sources: kept)
    in_place(tokenizer)
    assert gap(tokenizer.decode(ids), plain(tokenizer, ids)) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_normalised_codebook_is_the_one_of_the_reference(dtype):
    """LlamaGen normalises latents and codebook on every call, in the weights' own precision."""
    quantizer = make_quantizer("vq_learned_cosine").to(dtype)
    latents = torch.randn(4, 30, 6, generator=torch.Generator().manual_seed(9)).to(dtype)
    codes, ids, _ = quantizer(latents)
    book = F.normalize(quantizer.inner.weight.double(), dim=-1)
    exact = torch.cdist(F.normalize(latents.double(), dim=-1), book[None])
    best = exact.topk(2, largest=False).values
    sure = best[..., 1] - best[..., 0] > (0.05 if dtype == torch.bfloat16 else 1e-5)
    assert sure.float().mean() > 0.5
    assert torch.equal(ids[sure], exact.argmin(-1)[sure])
    assert codes.dtype == dtype
    assert (codes.double() - book[ids]).abs().max() <= 2 * torch.finfo(dtype).eps
    with torch.enable_grad():
        assert torch.equal(quantizer.lookup(ids).detach(), codes)
