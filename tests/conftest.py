"""One thread and no network, set before torch is imported."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """A test marked ``gpu`` is skipped, with the reason, where there is no CUDA device."""
    if not torch.cuda.is_available():
        missing = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(missing)


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same global random state, whichever ran before."""
    torch.manual_seed(20260)


@pytest.fixture(autouse=True)
def types(request):
    """Shapes and types are checked at every call, but in files marked ``untyped``: there whole runs
    are repeated, of which the checks took two thirds, and tests of each part run with them.
    """
    jaxtyping.config.update("jaxtyping_disable", bool(request.node.get_closest_marker("untyped")))


@pytest.fixture(autouse=True, scope="session")
def exact():
    """Generators load in float32 unless a test asks otherwise; ``test_dtypes.py`` has the rule."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arimage.generator.default_dtype", lambda device: torch.float32)
        yield


@pytest.fixture(scope="module")
def generators():
    """Each made once; no test here changes one."""
    from tiny import make_generator

    made = {}

    def get(name, order):
        if (name, order) not in made:
            torch.manual_seed(0)
            settings = {"guidance_scale": 2.0, "guidance_schedule": "linear", "temperature": 0.8}
            made[name, order] = make_generator(name, order, **settings)
        return made[name, order]

    return get
