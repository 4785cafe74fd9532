"""Which samplers, schedules, annealings, kinds of noise and captures exist: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arimage.registry import Registry

if TYPE_CHECKING:
    from arimage.ar.base import Noise
    from arimage.sampling.cads import Annealing
    from arimage.sampling.capture import Capture
    from arimage.sampling.guidance import Schedule
    from arimage.sampling.samplers.base import Sampler

SAMPLERS: Registry[type[Sampler]] = Registry(
    "sampler",
    {
        "categorical": "arimage.sampling.samplers.categorical:Categorical",
        "argmax": "arimage.sampling.samplers.argmax:Argmax",
        "familiar": "arimage.sampling.samplers.familiar:Familiar",
        "annealed": "arimage.sampling.samplers.annealed:Annealed",
    },
)

SCHEDULES: Registry[type[Schedule]] = Registry(
    "guidance schedule",
    {
        "constant": "arimage.sampling.guidance:Constant",
        "linear": "arimage.sampling.guidance:Linear",
        "power_cosine": "arimage.sampling.guidance:PowerCosine",
        "linear_after": "arimage.sampling.guidance:LinearAfter",
        "linear_before": "arimage.sampling.guidance:LinearBefore",
        "linear_per_token": "arimage.sampling.guidance:LinearPerToken",
        "interval": "arimage.sampling.guidance:Interval",
        "per_step": "arimage.sampling.per_step:PerStep",
        "linear_by_map": "arimage.sampling.guidance:LinearByMap",
    },
)

ANNEALINGS: Registry[type[Annealing]] = Registry(
    "annealing",
    {
        "cads": "arimage.sampling.cads:CADS",
    },
)

TEMPERATURES: Registry[type[Schedule]] = Registry(
    "temperature schedule",
    {
        "constant": "arimage.sampling.guidance:Constant",
        "sharpening": "arimage.sampling.temperature:Sharpening",
        "falling": "arimage.sampling.temperature:Falling",
    },
)

NOISES: Registry[type[Noise]] = Registry(
    "rng",
    {
        "per_image": "arimage.sampling.noise:PerImageNoise",
        "reference": "arimage.sampling.noise:ReferenceNoise",
    },
)

CAPTURES: Registry[type[Capture]] = Registry(
    "compile mode",
    {
        "graphs": "arimage.sampling.capture:CudaGraphs",
        "compile": "arimage.sampling.capture:Inductor",
        "trace": "arimage.sampling.capture:Trace",
    },
)
