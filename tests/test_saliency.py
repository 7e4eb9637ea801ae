"""Attribution maps: exact cases, no side effects, bounded batches, known places, and what an instance-normalised network does to them."""
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from multimix import saliency as S
from multimix.data import InputError
from multimix.datasets import data_root, load_nih
from multimix.model import MultiMix
from multimix.phantom import make_phantom
from multimix.sets import Rows

EASY = dict(opacity=(0.4, 0.5), radius=(0.2, 0.3))


def small_model(seed=0, **options):
    return MultiMix(**{"width": 4, "decoder": False, "bridge": False, "seed": seed, **options})


@pytest.fixture(scope="module")
def chests():
    return make_phantom(6, size=32, seed=3, prevalence=1.0)


@pytest.fixture(scope="module")
def model():
    return small_model().eval()


@pytest.fixture(scope="module")
def trained():
    "A network that tells ill from well, and ill test images; a few seconds."
    train, model = make_phantom(320, seed=1, **EASY), small_model(width=8)
    x, y = torch.from_numpy(train.images)[:, None] / 255, torch.from_numpy(train.labels)
    adam, rng = torch.optim.Adam(model.parameters(), 3e-3), torch.Generator().manual_seed(0)
    for _ in range(90):
        some = torch.randint(len(x), (16,), generator=rng)
        loss = F.cross_entropy(model.encode(x[some], dropout=False).logits, y[some])
        adam.zero_grad()
        loss.backward()
        adam.step()
    return model.eval(), make_phantom(24, seed=2, prevalence=1.0, **EASY)


class Linear(nn.Module):
    "logits = (sum of weights * image) for two classes of opposite sign."
    def __init__(self, size=32):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, size * size).reshape(1, 1, size, size))

    def encode(self, x, dropout=None):
        score = (x * self.weight).sum((1, 2, 3))
        return SimpleNamespace(logits=torch.stack([-score, score], 1))


# ---- what every method keeps -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", S.METHODS)
def test_shape_dtype_and_kinds_of_images(model, chests, method):
    stored = S.attribute(model, chests.images, method, steps=2)
    assert stored.maps.shape == (6, 1, 32, 32) and stored.maps.dtype == torch.float32 and stored.maps.device.type == "cpu"
    assert stored.target.dtype == torch.int64 and stored.maps.isfinite().all() and not stored.maps.requires_grad
    assert (stored.maps >= 0).all() or method == "integrated_gradients"
    assert (stored.completeness_error is not None) == (method == "integrated_gradients")
    tensor = torch.from_numpy(chests.images)
    on_disk = Rows([chests.images[::-1]], np.arange(6)[::-1])
    for same in (tensor, tensor[:, None], chests.images[:, None], tensor[:, None] / 255, (chests.images / 255).astype(np.float32), on_disk):
        assert torch.allclose(S.attribute(model, same, method, steps=2).maps, stored.maps, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", S.METHODS)
def test_seeded_and_independent_of_batch_and_neighbours(model, chests, method):
    a = S.attribute(model, chests.images, method, steps=4, batch_size=64).maps
    assert torch.equal(a, S.attribute(model, chests.images, method, steps=4, batch_size=64).maps)

    def alike(maps, expected):  # up to rounding, which may carry single numbers over a kink of the network
        return ((maps - expected).flatten(1).norm(dim=1) < 1e-2 * expected.flatten(1).norm(dim=1)).all()

    assert all(alike(S.attribute(model, chests.images, method, steps=4, batch_size=size).maps, a) for size in (1, 3, 5))
    assert alike(S.attribute(model, chests.images[2:3], method, steps=4).maps, a[2:3]) and not alike(a[:1], a[1:2])


@pytest.mark.parametrize("method", S.METHODS)
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_never_more_than_batch_size_images_in_the_network(model, chests, method, batch_size):
    seen = []
    hook = model.encoder.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    S.attribute(model, chests.images, method, steps=5, batch_size=batch_size)
    hook.remove()
    assert seen and max(seen) <= batch_size


@pytest.mark.parametrize("method", S.METHODS)
@pytest.mark.parametrize("training", [False, True])
def test_leaves_no_trace(chests, method, training):
    model = small_model().train(training)
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state().clone()
    S.attribute(model, chests.images, method, steps=2)
    assert torch.equal(torch.get_rng_state(), state) and model.training is training and model.encoder.training is training
    assert all(torch.equal(p, b) and (p.grad == 2).all() and p.requires_grad for p, b in zip(model.parameters(), before))
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


@pytest.mark.parametrize("method", S.METHODS)
def test_dropout_is_off_and_switched_off_gradients_do_not_matter(chests, method):
    model = small_model(dropout=0.5)
    calm = S.attribute(model.eval(), chests.images, method, steps=2).maps
    assert torch.equal(S.attribute(model.train(), chests.images, method, steps=2).maps, calm)
    x = torch.from_numpy(chests.images)[:, None] / 255
    with torch.no_grad():
        assert torch.equal(S.attribute(model, x, method, steps=2).maps, calm)
    with torch.inference_mode():
        assert torch.equal(S.attribute(model, x.clone(), method, steps=2).maps, calm)
    frozen = model.requires_grad_(False)
    assert torch.equal(S.attribute(frozen, x, method, steps=2).maps, calm)


@pytest.mark.parametrize("method", S.METHODS)
def test_targets(model, chests, method):
    chosen = S.attribute(model, chests.images, method, steps=2)
    x = torch.from_numpy(chests.images)[:, None] / 255
    assert torch.equal(chosen.target, model.encode(x).logits.argmax(1))
    assert torch.equal(S.attribute(model, chests.images, method, target=chosen.target, steps=2).maps, chosen.maps)
    zero, one = (S.attribute(model, chests.images, method, target=t, steps=2) for t in (0, 1))
    mixed = S.attribute(model, chests.images, method, target=[0, 1, 0, 1, 1, 0], steps=2)
    rows = torch.tensor([0, 1, 0, 1, 1, 0], dtype=torch.bool)[:, None, None, None]
    assert torch.allclose(mixed.maps, torch.where(rows, one.maps, zero.maps), atol=1e-5 * one.maps.abs().max())
    assert mixed.target.tolist() == [0, 1, 0, 1, 1, 0] and not torch.allclose(zero.maps, one.maps)


def test_a_full_model_with_bridge_and_decoder(chests):
    model = MultiMix(width=4, seed=0)
    assert torch.allclose(S.attribute(model, chests.images).maps, model.saliency(torch.from_numpy(chests.images)[:, None] / 255), atol=1e-6)


# ---- exact cases -------------------------------------------------------------------------------------------------------------------

def test_gradient_agrees_with_finite_differences(model, chests):
    exact, x = model.double(), torch.from_numpy(chests.images[:1])[:, None].double() / 255
    map_ = S.gradient_maps(S.ClassScores(exact), x, torch.tensor([1]), 1)
    for i, j in ((10, 9), (16, 20), (25, 8)):
        step = torch.zeros_like(x)
        step[0, 0, i, j] = 1e-6
        with torch.no_grad():
            slope = (exact.encode(x + step).logits - exact.encode(x - step).logits)[0, 1] / 2e-6
        assert map_[0, 0, i, j].item() == pytest.approx(abs(slope.item()), rel=1e-3, abs=1e-6)
    model.float()


def test_smoothgrad_without_noise_is_the_gradient_and_noise_scales_with_the_range(model, chests):
    plain = S.attribute(model, chests.images).maps
    assert torch.allclose(S.attribute(model, chests.images, "smoothgrad", steps=3, noise=0.0).maps, plain, atol=1e-5)
    noisy = S.attribute(model, chests.images, "smoothgrad", steps=3, seed=1).maps
    other = S.attribute(model, chests.images, "smoothgrad", steps=3, seed=2).maps
    assert not torch.allclose(noisy, plain) and not torch.allclose(noisy, other)
    linear = Linear()
    maps = S.attribute(linear, chests.images, "smoothgrad", target=1, steps=3).maps
    assert torch.allclose(maps, linear.weight.abs().expand(6, -1, -1, -1), atol=1e-5)


@pytest.mark.parametrize("baseline", [None, "zero", "blur", "images"])
def test_integrated_gradients_of_a_linear_network_are_exact(chests, baseline):
    linear, x = Linear(), torch.from_numpy(chests.images)[:, None] / 255
    refs = make_phantom(3, size=32, seed=9).images if baseline == "images" else baseline
    answer = S.attribute(linear, chests.images, "integrated_gradients", target=1, baseline=refs, steps=2)
    start = torch.stack([S.reference_images(refs, x[i:i + 1]).mean(0) for i in range(len(x))])
    assert torch.allclose(answer.maps, (linear.weight * (x - start)).detach(), atol=1e-4)
    assert answer.completeness_error.max() < 1e-3


def test_completeness_error_is_what_it_says(model, chests):
    answer = S.attribute(model, chests.images, "integrated_gradients", target=1, steps=3)
    x, refs = torch.from_numpy(chests.images)[:, None] / 255, S.healthy_references(32)
    with torch.no_grad():
        change = model.encode(x).logits[:, 1] - model.encode(refs).logits[:, 1].mean()
    expected = (answer.maps.sum((1, 2, 3)) - change).abs() / change.abs()
    assert torch.allclose(answer.completeness_error, expected, rtol=2e-2, atol=1e-3)


def test_grad_cam_and_hires_cam_are_their_formulas(model, chests):
    features = model.encode(torch.from_numpy(chests.images)[:, None] / 255)
    slopes = torch.autograd.grad(features.logits[:, 1].sum(), features.maps)
    for level in range(5):
        for method, w in (("grad_cam", slopes[level].mean((2, 3), keepdim=True)), ("hires_cam", slopes[level])):
            small = F.relu((w * features.maps[level]).sum(1, keepdim=True)).detach()
            cam = F.interpolate(small, size=32, mode="bilinear")
            for layer in (level, model.encoder.blocks[level]):
                got = S.attribute(model, chests.images, method, target=1, layer=layer).maps
                assert torch.allclose(got, cam, atol=1e-5 * max(1, cam.max()))


def test_layers_by_default(model, chests):
    for method, level in (("grad_cam", 4), ("hires_cam", 1)):
        assert torch.equal(S.attribute(model, chests.images, method).maps, S.attribute(model, chests.images, method, layer=level).maps)


# ---- what the instance norm does ---------------------------------------------------------------------------------------------------

def test_no_contrast_no_change_so_a_constant_baseline_is_incomplete(trained):
    model, ill = trained
    x = torch.from_numpy(ill.images)[:, None] / 255
    with torch.no_grad():
        full, faint = (model.encode(a * x).logits for a in (1.0, 0.3))
    assert (full - faint).abs().max() < 0.05 * full.abs().max()
    zero = S.attribute(model, ill.images[:12], "integrated_gradients", 1, baseline="zero", steps=64).completeness_error
    default = S.attribute(model, ill.images, "integrated_gradients", 1).completeness_error
    assert zero.median() > 0.5 and default.median() < 0.05 and default.max() < 0.3


def test_more_steps_make_integrated_gradients_more_complete(trained):
    model, ill = trained
    few, many = (S.attribute(model, ill.images[:8], "integrated_gradients", 1, steps=s).completeness_error.median() for s in (2, 24))
    assert many < few / 3


def test_grad_cam_weights_vanish_below_the_last_norm(trained):
    model, ill = trained
    features = model.encode(torch.from_numpy(ill.images)[:, None] / 255)
    slopes = torch.autograd.grad(features.logits[:, 1].sum(), features.maps)
    ratios = [(s.mean((2, 3)).abs().mean() / s.abs().mean()).item() for s in slopes]
    assert ratios[0] < 0.05 and ratios[1] < 0.1 and ratios[4] > 0.5


def test_maps_of_a_trained_network_know_where(trained):
    model, ill = trained
    for method in ("gradient", "integrated_gradients", "hires_cam"):
        maps = S.attribute(model, ill.images, method, target=1).maps
        point, energy = S.pointing_game(maps, ill.boxes), S.energy_in_box(maps, ill.boxes)
        assert point.value > 2 * point.chance and energy.value > 1.5 * energy.chance and len(point.each) == 24


@pytest.mark.parametrize("method, least", [("gradient", 0.8), ("integrated_gradients", 0.9), ("hires_cam", 0.9)])
def test_maps_under_autocast_are_float32_and_much_the_same(trained, method, least):
    model, ill = trained
    exact = S.attribute(model, ill.images[:8], method, target=1)
    with torch.autocast("cpu", torch.bfloat16):
        rough = S.attribute(model, ill.images[:8], method, target=1)
    assert all(part is None or part.dtype == torch.float32 for part in (rough.maps, rough.completeness_error))
    similar = S.similarity(exact.maps, rough.maps)
    assert least < similar.min() and similar.max() < 1, similar


def test_explanation_differs_from_that_of_a_network_that_knows_nothing(trained):
    model, ill = trained
    blank = S.randomised(model)
    for method, most in (("gradient", 0.6), ("integrated_gradients", 0.4), ("hires_cam", 0.5)):
        mine, theirs, again = (S.attribute(m, ill.images[:8], method, target=1).maps for m in (model, blank, model))
        assert S.similarity(mine, theirs).mean() < most and np.allclose(S.similarity(mine, again), 1)
        assert S.pointing_game(theirs, ill.boxes[:8]).value < S.pointing_game(mine, ill.boxes[:8]).value


def test_randomised_is_a_seeded_copy(model):
    before = [p.detach().clone() for p in model.parameters()]
    state = torch.get_rng_state().clone()
    a, b, c = S.randomised(model, 1), S.randomised(model, 1), S.randomised(model, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    for other in (model, c):
        assert not any(torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters()))


# ---- known places ------------------------------------------------------------------------------------------------------------------

def boxes(*rows):
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def test_box_mask_counts_pixel_centres():
    assert S.box_mask(boxes((1, 2, 3, 5)), 6, 6).nonzero()[0].tolist() == [2, 2, 3, 3, 4, 4]
    assert S.box_mask(boxes((0.6, 0.6, 2.4, 2.4)), 4, 4).sum() == 1
    assert S.box_mask(boxes((1, 1, 2, 2)), 5, 5, tolerance=1).sum() == 9
    assert S.box_mask(boxes(), 4, 4).sum() == 0 and S.box_mask(boxes((0, 0, 2, 2), (1, 1, 3, 3)), 4, 4).sum() == 7


def test_pointing_and_energy_by_hand():
    maps = np.zeros((3, 1, 4, 4))
    maps[0, 0, 1, 1], maps[0, 0, 3, 3] = 3, 1    # hit, 3/4 inside
    maps[1, 0, 0, 0], maps[1, 0, 1, 1] = 2, -9   # miss; what speaks against the class does not count
    places = [boxes((1, 1, 3, 3)), boxes((1, 1, 3, 3)), boxes()]
    point, energy = S.pointing_game(maps, places), S.energy_in_box(maps, places)
    assert point.each.tolist() == [1, 0] and energy.each.tolist() == [0.75, 0] and point.value == 0.5
    assert point.chance == energy.chance == 0.25
    assert S.pointing_game(maps, places, tolerance=1).value == 1
    region = np.zeros((3, 4, 4))
    region[:, :2, :2] = 1
    assert S.pointing_game(maps, places, region=region).chance == 0.25
    region[:, 0] = 0
    assert S.pointing_game(maps, places, region=region).chance == 0.5


def test_flat_maps_score_chance_and_ties_their_share():
    places = [boxes((0, 0, 2, 1))]
    for flat in (np.zeros((1, 4, 4)), np.ones((1, 4, 4)), -np.ones((1, 4, 4))):
        for game in (S.pointing_game, S.energy_in_box):
            assert game(flat, places).value == pytest.approx(2 / 16) == game(flat, places).chance
    tie = np.zeros((1, 4, 4))
    tie[0, 0, 0] = tie[0, 3, 3] = 1
    assert S.pointing_game(tie, places).value == 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_scores_ignore_scale_and_random_maps_score_chance(seed, scale):
    rng = np.random.default_rng(seed)
    maps, places = rng.random((200, 16, 16)), [boxes((x, y, x + 8, y + 6)) for x, y in rng.integers(0, 8, (200, 2))]
    point, energy = S.pointing_game(maps, places), S.energy_in_box(maps, places)
    assert abs(point.value - point.chance) < 0.15 and abs(energy.value - energy.chance) < 0.03
    assert S.pointing_game(maps * scale, places).value == point.value
    assert S.energy_in_box(maps * scale, places).value == pytest.approx(energy.value)


@pytest.mark.parametrize("maps, places, word", [
    (np.ones((2, 4, 4)), [boxes((0, 0, 1, 1))], "boxes"), (np.ones((1, 4, 4)), [boxes()], "boxes"),
    (np.full((1, 4, 4), np.nan), [boxes((0, 0, 1, 1))], "maps")])
def test_games_refuse_what_cannot_be_scored(maps, places, word):
    for game in (S.pointing_game, S.energy_in_box):
        with pytest.raises(InputError, match=word):
            game(maps, places)


@pytest.mark.skipif(data_root() is None or not (data_root() / "nih").is_dir(), reason="needs nih/ under MULTIMIX_DATA")
def test_games_on_the_boxes_of_radiologists(model, tmp_path):
    nih = load_nih(data_root(), size=64, cache_dir=tmp_path, progress=False)
    boxed = nih.subset(np.array([i for i, b in enumerate(nih.boxes) if len(b)]))
    point = S.pointing_game(S.attribute(model, boxed.images, target=1).maps, boxed.boxes)
    assert len(boxed) == len(point.each) == 20 and 0.02 < point.chance < 0.3
    exact = np.stack([S.box_mask(b, 64, 64) for b in boxed.boxes])
    assert S.pointing_game(exact, boxed.boxes).value == S.energy_in_box(exact, boxed.boxes).value == 1


# ---- likeness and pictures ---------------------------------------------------------------------------------------------------------

def test_similarity_is_a_rank_correlation():
    a = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert np.allclose(S.similarity(a, a.exp()), 1) and np.allclose(S.similarity(a, -a), -1)
    assert np.allclose(S.similarity(a, torch.zeros_like(a)), 0)
    assert np.abs(S.similarity(a, torch.randn(a.shape, generator=torch.Generator().manual_seed(1)))).max() < 0.4


def test_normalise_and_overlay(chests):
    maps = torch.linspace(-1, 1, 6 * 32 * 32).reshape(6, 1, 32, 32)
    heat = S.normalise(maps)
    assert heat.shape == (6, 32, 32) and heat.dtype == np.float32 and heat.min() == 0 and heat.max() == 1 and not heat[:2].any()
    lone = np.zeros((1, 32, 32))
    lone[0, 3, 4] = 1e-9
    assert S.normalise(lone)[0, 3, 4] == 1 and S.normalise(lone * 0).max() == 0
    assert np.allclose(S.normalise(1000 * maps), heat)
    tinted = S.overlay(chests.images, maps)
    assert tinted.shape == (6, 32, 32, 3) and tinted.dtype == np.uint8
    grey = np.repeat(chests.images[..., None], 3, 3)
    assert (tinted[:2] == grey[:2]).all() and (tinted[-1] != grey[-1]).any()


def test_figure_without_pyplot(model, chests):
    before = plt.get_fignums()
    maps = {m: S.attribute(model, chests.images[:2], m).maps for m in ("gradient", "grad_cam")} | {"nothing": torch.zeros(2, 1, 32, 32)}
    figure = S.map_figure(chests.images[:2], maps, chests.boxes[:2])
    assert len(figure.axes) == 8 and plt.get_fignums() == before
    assert [ax.get_title() for ax in figure.axes[:4]] == ["image", "gradient", "grad_cam", "nothing"]
    assert len(figure.axes[0].patches) == len(chests.boxes[0])
    S.map_figure(torch.from_numpy(chests.images), {}).savefig("/dev/null", format="png")


# ---- bad input ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong, word", [
    (dict(method="magic"), "method"), (dict(target=2), "target"), (dict(target=-1), "target"), (dict(target=[0, 1]), "target"),
    (dict(target=0.5), "target"), (dict(steps=0), "steps"), (dict(batch_size=0), "batch_size"), (dict(method="grad_cam", layer=5), "layer"),
    (dict(method="hires_cam", layer="last"), "layer"), (dict(method="integrated_gradients", baseline="black"), "baseline"),
    (dict(method="integrated_gradients", baseline=np.zeros((2, 64, 64), np.uint8)), "baseline"),
    (dict(images=np.zeros((0, 32, 32), np.uint8)), "images"), (dict(images=np.full((1, 32, 32), 7.0)), "images"),
    (dict(images=np.zeros((1, 3, 32, 32), np.uint8)), "images"), (dict(images=np.zeros((1, 40, 40), np.uint8)), "images"),
    (dict(images=[[1]]), "images")])
def test_bad_input_is_named_in_one_line(model, chests, wrong, word):
    with pytest.raises(InputError, match=word) as error:
        S.attribute(**{"model": model, "images": chests.images, **wrong})
    assert "\n" not in str(error.value)


def test_models_without_what_is_needed(chests):
    with pytest.raises(InputError, match="encode"):
        S.attribute(nn.Linear(2, 2), chests.images)
    with pytest.raises(InputError, match="layer"):
        S.attribute(Linear(), chests.images, "grad_cam")
    wide = np.random.default_rng(0).integers(0, 256, (1, 32, 48), np.uint8)
    assert S.attribute(small_model(), wide, "integrated_gradients", steps=2).maps.shape == (1, 1, 32, 48)
    with pytest.raises(InputError, match="baseline"):
        S.attribute(small_model(), wide, "integrated_gradients", baseline=chests.images)
