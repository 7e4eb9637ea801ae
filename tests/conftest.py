"""What several test files lean on."""
import pytest


@pytest.fixture
def seeded_weights():
    "The weights of a fresh model come from torch's global generator: the same in every run of a test."
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
