"""Two processes with half a batch each are one process with all of it.

Each check below runs on a share of the batch; what it gives (values and gradients of parameters) is
averaged over processes, as DDP averages gradients, and compared with one process.
"""

import copy
import json

import pytest
import torch
import torch.distributed as dist
from tiny import make_tokenizer
from two_processes import two_processes

from arimage.tokenizers.entropy import mean_over_processes
from arimage.training.losses.adversarial import LeCam, adaptive_weight
from arimage.training.losses.base import Seen
from arimage.training.losses.batch_norm import SharedBatchNorm
from arimage.training.losses.entropy import EntropyLoss
from arimage.training.losses.patchgan import PatchGAN

BATCH = 4


def share(x, rank, world):
    size = len(x) // world
    return x[rank * size : (rank + 1) * size]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def check_critic(rank, world):
    torch.manual_seed(1)
    critic = PatchGAN(layers=2, channels=4).double()
    images = share(drawn(BATCH, 3, 16, 16), rank, world).requires_grad_()
    logits = critic(images)
    loss = logits.square().mean()
    loss.backward()
    gradients = [p.grad for p in critic.parameters()]
    running = [b.double() for b in critic.buffers()]
    return [loss, *gradients, *running]


def check_images_gradient(rank, world):
    """The gradient of one image, which process 0 has; 0 elsewhere, then summed."""
    torch.manual_seed(1)
    norm = SharedBatchNorm(3).double()
    images = share(drawn(BATCH, 3, 5), rank, world).requires_grad_()
    (norm(images) ** 3).mean().backward()
    first = images.grad[0] * (rank == 0)
    return [first]


def check_lecam(rank, world):
    lecam = LeCam(0.3).double()
    results = []
    for step in range(3):
        real = share(drawn(BATCH, 2, seed=step), rank, world) + 1
        fake = share(drawn(BATCH, 2, seed=step + 9), rank, world) - 1
        offset = torch.zeros((), dtype=torch.double, requires_grad=True)
        loss = lecam(real * (1 + offset), fake * (1 + offset))
        loss.backward()
        results += [loss, offset.grad, lecam.real, lecam.fake]
    return results


def check_adaptive_weight(rank, world):
    layer = torch.nn.Parameter(drawn(3, 3, seed=5))
    x = share(drawn(BATCH, 3, seed=6), rank, world)
    first, second = (x @ layer).abs().mean(), (x @ layer).square().mean()
    weight = adaptive_weight(first, second, layer)
    torch.testing.assert_close(weight, mean_over_processes(weight), rtol=1e-12, atol=0.0)
    return [weight]


def check_entropy(rank, world):
    torch.manual_seed(2)
    tokenizer = make_tokenizer("vq", "vq_learned").double().train()
    latents = share(drawn(BATCH, 6, 4, 4, seed=8), rank, world).requires_grad_()
    scale = torch.nn.Parameter(torch.full((), 0.1, dtype=torch.double))
    encoding = tokenizer.quantize(latents)
    seen = Seen(tokenizer, latents, latents, scale * latents, encoding, 0)
    loss = EntropyLoss()(seen)
    loss.backward()
    return [loss, scale.grad, tokenizer.quantizer.inner.weight.grad]


CHECKS = {
    "critic": check_critic,
    "images": check_images_gradient,
    "lecam": check_lecam,
    "adaptive weight": check_adaptive_weight,
    "entropy": check_entropy,
}
ABSOLUTE = dict.fromkeys(CHECKS, 1e-12) | {"entropy": 1e-7}  # which computes in float32


def flat(values):
    return torch.cat([value.detach().double().flatten() for value in values])


def averaged(values):
    """What the processes have on average."""
    total = flat(values)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).tolist()


@pytest.fixture(scope="module")
def of_two():
    with two_processes(__file__) as said:
        pass
    return [json.loads(printed.splitlines()[-1]) for printed in said]


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes_are_one(of_two, name):
    for found in of_two:
        values = torch.tensor(found[name], dtype=torch.double)
        torch.testing.assert_close(values, flat(CHECKS[name](0, 1)), rtol=1e-6, atol=ABSOLUTE[name])


@pytest.mark.parametrize("name", CHECKS)
def test_without_the_exchange_the_halves_would_not_do(name):
    halves = sum(flat(CHECKS[name](rank, 2)) for rank in range(2)) / 2
    assert not torch.allclose(halves, flat(CHECKS[name](0, 1)), rtol=1e-3, atol=1e-6)


def test_one_process_exchanges_nothing():
    x = torch.randn(3)
    assert mean_over_processes(x) is x
    assert copy.deepcopy(SharedBatchNorm(2))(torch.randn(3, 2)).shape == (3, 2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    where = dist.get_rank(), dist.get_world_size()
    answers = {name: averaged(check(*where)) for name, check in CHECKS.items()}
    dist.barrier()
    dist.destroy_process_group()
    print(json.dumps(answers))
