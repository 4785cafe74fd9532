"""The scenes of tests/loopback/hub_scenes.py: loading from a hub that speaks the protocol."""

import pytest
from loopback.scenes import names, outcomes

FILE = "hub_scenes.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return outcomes(FILE, tmp_path_factory.mktemp("hub"))


@pytest.mark.parametrize("name", names(FILE))
def test_scene(found, name):
    assert name in found
    assert not found[name], found[name]
