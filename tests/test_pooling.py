"Halving of maps: equal to torch's in every number and slope."
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from multimix.model import Encoder
from multimix.pooling import max_pool


def slope(pool, x, weights):
    probe = x.clone().requires_grad_()
    pooled = pool(probe)
    return pooled.detach(), *torch.autograd.grad((pooled * weights).sum(), probe)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 3), c=st.integers(1, 20), h=st.integers(2, 17), w=st.integers(2, 17), levels=st.integers(1, 5),
       dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), seed=st.integers(0, 99))
def test_values_and_slopes_are_torchs_also_between_equals(n, c, h, w, levels, dtype, seed):
    draws = torch.Generator().manual_seed(seed)
    x = torch.randint(levels, (n, c, h, w), generator=draws).to(dtype)
    weights = torch.rand(n, c, h // 2, w // 2, generator=draws).to(dtype)
    ours, torchs = (slope(pool, x, weights) for pool in (max_pool, lambda a: F.max_pool2d(a, 2)))
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs))


TURNS = [lambda x: x.contiguous(memory_format=torch.channels_last), lambda x: x.transpose(2, 3), lambda x: x[:, ::2]]


@pytest.mark.parametrize("turn", TURNS)
def test_maps_in_another_order_are_pooled_too(turn):
    x = turn(torch.rand(2, 8, 8, 12))
    weights = torch.rand(max_pool(x).shape)
    assert all(torch.equal(a, b) for a, b in zip(slope(max_pool, x, weights), slope(lambda a: F.max_pool2d(a, 2), x, weights)))


def test_nan_is_not_swallowed():
    x = torch.ones(1, 2, 4, 4)
    x[0, 0, 1, 1] = torch.nan
    assert max_pool(x)[0, 0, 0, 0].isnan() and max_pool(x).isnan().sum() == 1


def test_without_gradients_nothing_is_kept():
    x = torch.rand(1, 4, 8, 8, requires_grad=True)
    with torch.no_grad():
        assert max_pool(x).grad_fn is None
    with torch.inference_mode():
        assert torch.equal(max_pool(x), F.max_pool2d(x, 2))


def test_an_encoder_passes_slopes_to_every_weight():
    encoder = Encoder()
    encoder(torch.rand(2, 1, 32, 32), dropout=False).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
