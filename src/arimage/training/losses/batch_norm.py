"""Batch normalisation (arXiv 1502.03167) over the batch of all processes, on a CPU too.

``nn.SyncBatchNorm`` needs GPUs; this one needs any backend of torch.distributed.
"""

import torch
from torch import Tensor, nn

from arimage.shapes import Float
from arimage.tokenizers.entropy import mean_over_processes
from arimage.training.losses.base import exactly, precise
from arimage.training.processes import processes


class SharedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm1d`` and ``nn.BatchNorm2d`` with statistics of all processes.

    Processes must hold equally many images. In one process it is torch's own; it computes in
    float32 and gives the dtype it got.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Channels are the second axis of any shape."""

    def forward(self, x: Float[Tensor, "b c *place"]) -> Float[Tensor, "b c *place"]:
        """Each channel with mean 0 and variance 1 over batch and places, then scaled, shifted."""
        if not self.training or processes() == 1:
            with exactly(x):
                return super().forward(precise(x)).to(x.dtype)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        values = precise(x)
        mean = mean_over_processes(values.mean(axes))
        centred = values - mean.view(shape)
        variance = mean_over_processes(centred.square().mean(axes))
        self._remember(mean.detach(), variance.detach(), processes() * x.numel() // x.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics, of the unbiased variance, as torch does."""
        unbiased = variance * (count / max(count - 1, 1))
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
            self.num_batches_tracked.add_(1)
