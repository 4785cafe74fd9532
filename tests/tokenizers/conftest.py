"""Small tokenizers that the tests of this folder share."""

import pytest
import torch
from tiny import make_tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    """Each made once; no test here changes one."""
    made = {}

    def get(name, quantizer):
        if (name, quantizer) not in made:
            torch.manual_seed(0)
            made[name, quantizer] = make_tokenizer(name, quantizer)
        return made[name, quantizer]

    return get
