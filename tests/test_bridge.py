"""What the bridge may carry: the map, another's map, a constant; in training and when judged; and that the rest of the network stays."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config, tiny_data

from multimix.bridge import BRIDGE_MAPS, others, replace_maps
from multimix.data import InputError
from multimix.methods import make_config, make_model
from multimix.model import MultiMix, make_bridge
from multimix.step import Trainer, step_loss, train_step

pytestmark = pytest.mark.usefixtures("seeded_weights")
images = pytest.fixture(lambda: torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0)))


def model(kind: str, **options) -> MultiMix:
    "The same weights for every kind."
    return MultiMix(width=4, bridge_map=kind, seed=3, saliency_scale="max", **options).eval()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.booleans(), st.integers(0, 1000))
def test_everyone_gets_one_other_map(n, training, seed):
    torch.manual_seed(seed)
    maps = torch.arange(float(n))[:, None, None, None].expand(n, 1, 2, 3)
    found = others(maps, training)
    assert found.shape == maps.shape and sorted(found[:, 0, 0, 0]) == list(range(n)) and not (found == maps).any()


def test_a_map_that_is_alone_is_turned():
    lone = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert others(lone, True).flatten().tolist() == others(lone, False).flatten().tolist() == [5, 4, 3, 2, 1, 0]


def test_what_is_judged_is_never_random_and_what_is_trained_follows_the_generator():
    maps = torch.arange(9.0)[:, None, None, None]
    assert torch.equal(others(maps, False), maps.roll(4, 0))
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(others(maps, True))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_replace_maps_by_hand():
    bridge = torch.stack([torch.full((2, 3, 3), float(i)) + torch.tensor([0.0, 0.5])[:, None, None] for i in range(4)])
    assert replace_maps(bridge, "saliency", True) is bridge
    shuffled = replace_maps(bridge, "shuffled", False)
    assert torch.equal(shuffled[:, 0], bridge[:, 0]) and torch.equal(shuffled[:, 1], bridge[[2, 3, 0, 1], 1])
    assert (replace_maps(bridge, "constant", True) == 0.5).all()


# in the network


def test_saliency_is_what_it_was(images):
    plain, named = MultiMix(width=4, seed=3, saliency_scale="max").eval(), model("saliency")
    assert all(torch.equal(a, b) for a, b in zip(plain(images), named(images)))
    features = plain.encode(images)
    by_hand = plain.decoder(features.maps, make_bridge(images, plain.saliency(images)), False)
    assert torch.allclose(plain(images).masks, by_hand, atol=1e-6)


def test_all_bridges_have_the_same_weights_and_classes(images):
    found = {kind: model(kind) for kind in BRIDGE_MAPS}
    states = [m.state_dict() for m in found.values()]
    assert all(torch.equal(state[k], v) for state in states for k, v in states[0].items())
    logits = [m(images).logits for m in found.values()]
    assert all(torch.allclose(other, logits[0], atol=1e-6) for other in logits)


def test_shuffled_reads_another_images_map(images):
    "Half a batch away: the masks are those that the plain network draws from that image's map; its order matters, its own map does not."
    shuffled, plain = model("shuffled"), model("saliency")
    features, maps = plain.encode(images), plain.saliency(images)
    expected = plain.decode(images, features.maps, maps.roll(2, 0))
    assert torch.allclose(shuffled(images).masks, expected, atol=1e-5) and not torch.allclose(expected, plain(images).masks, atol=1e-5)
    assert torch.equal(shuffled(images).masks, shuffled(images).masks)


def test_shuffled_follows_the_seed_while_it_trains(images):
    shuffled = model("shuffled", dropout=0.0).train()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(shuffled(images).masks)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


def test_constant_carries_nothing_of_the_image(images, monkeypatch):
    constant = model("constant")
    features = constant.encode(images)
    assert torch.equal(constant.decode(images, features.maps), constant.decode(1 - images, features.maps))
    monkeypatch.setattr(constant, "saliency", lambda x: pytest.fail("a map that nobody reads"))
    assert constant(images).saliency is None and constant(images).masks.shape == images.shape
    assert constant.train()(images).masks.shape == images.shape


def test_an_unknown_map_is_named():
    with pytest.raises(InputError, match="bridge_map='noise': choose 'saliency' or 'shuffled' or 'constant'"):
        MultiMix(bridge_map="noise")


# in a run


def test_the_config_chooses():
    found = {kind: make_model(make_config(method="umtl_s", bridge=kind)) for kind in ("saliency", "off", "shuffled", "constant")}
    assert {kind: (m.bridge, m.bridge_map) for kind, m in found.items()} == {
        "saliency": (True, "saliency"), "off": (False, "saliency"), "shuffled": (True, "shuffled"), "constant": (True, "constant")}
    assert not make_model(make_config(method="umtl", bridge="off")).bridge


def test_off_is_the_method_without_the_bridge():
    "The same weights and losses, step by step."
    rows = ("umtl_s", "off"), ("umtl", "saliency")
    first, second = (Trainer(tiny_config(method=method, bridge=bridge), tiny_data()) for method, bridge in rows)
    for _ in range(2):
        assert train_step(first)["loss"] == train_step(second)["loss"]


@pytest.mark.parametrize("kind", ["shuffled", "constant"])
def test_a_step_repeats_itself_and_differs_from_the_plain_one(kind):
    trainer, plain = (Trainer(tiny_config(bridge=bridge, batch=4, dropout=0.0), tiny_data()) for bridge in (kind, "saliency"))
    again = [step_loss(trainer, step)[1]["dice"].item() for step in (1, 1, 2)]
    assert again[0] == again[1] != again[2] and again[0] != step_loss(plain, 1)[1]["dice"].item()
