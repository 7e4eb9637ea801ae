"""How a network is judged: the parts of its masks, its input range, its dropout."""
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from multimix.data import InputError
from multimix.evaluation import predict
from multimix.experiments import evaluate_run, run_experiment
from multimix.judging import Judged, drop_components, largest_components
from multimix.methods import make_config, make_model, scale_input
from multimix.readings import Lens
from multimix.training import Run

shapes = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=80, deadline=None)
@given(masks=shapes.flatmap(lambda shape: arrays(bool, shape)), count=st.integers(1, 5))
def test_what_is_kept_is_as_large_as_scipys_largest_parts(masks, count):
    kept = largest_components(masks, count)
    assert not (kept & ~masks).any() and kept.dtype == bool
    for mask, part in zip(masks, kept):
        number, parts = ndimage.label(mask)
        sizes = np.sort(np.bincount(number.ravel())[1:])[::-1]
        whole = np.unique(number[part])
        assert len(whole) == min(count, parts) and part.sum() == sizes[:count].sum() == np.isin(number, whole[whole > 0]).sum()


@settings(max_examples=40, deadline=None)
@given(masks=shapes.flatmap(lambda shape: arrays(bool, shape)), count=st.integers(0, 4))
def test_what_is_dropped_is_surely_not_mask_and_all_else_stays(masks, count):
    logits = torch.from_numpy(np.where(masks, 1.5, -0.5)).float()[:, None]
    found = drop_components(logits, count)
    kept = torch.from_numpy(largest_components(masks, count) if count else masks)[:, None]
    assert torch.equal(found > 0, kept) and found.isfinite().all()
    assert (found.sigmoid()[(logits > 0) & ~kept] == 0).all() and torch.equal(found[(logits <= 0) | kept], logits[(logits <= 0) | kept])


def test_each_channel_is_looked_at_by_itself_and_diagonals_do_not_connect():
    mask = np.zeros((1, 2, 6, 6), bool)
    mask[0, 0, :2, :2] = mask[0, 0, 2:3, 2:] = mask[0, 1, 5, 5] = True
    kept = largest_components(mask, 1)
    assert kept[0, 0].sum() == 4 and kept[0, 0, 2, 2] != kept[0, 0, 0, 0] and kept[0, 1, 5, 5]


@pytest.mark.parametrize("masks, count, said", [
    (np.zeros((2, 4, 4)), 2, "masks: got float64 (2, 4, 4), need bool"), (np.zeros(4, bool), 2, "masks: got bool (4,)"),
    (np.zeros((4, 4), bool), 0, "count is 0"),
])
def test_what_is_no_mask_is_refused(masks, count, said):
    with pytest.raises(InputError) as error:
        largest_components(masks, count)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("components", [-1, 1.5, "2"])
def test_a_wrong_number_of_components_is_refused(components):
    with pytest.raises(InputError, match="components is .*a whole number from 0"):
        make_config(components=components)


def parts_of(masks):
    return [ndimage.label(mask[0] > 0.5)[1] for mask in masks]


def test_everything_that_shows_a_mask_shows_no_more_components_than_the_config_wants():
    config = make_config(components=2, size=32)
    torch.manual_seed(0)
    model = make_model(config).eval()
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    assert min(parts_of(predict(Judged(model, make_config(size=32), "seg"), images).masks)) > 2
    masks = predict(Judged(model, config, "seg"), images).masks
    assert parts_of(masks) == [2, 2, 2]
    assert np.allclose(Lens(Run(model, config, [], 0.0, 0.0)).masks(images[0]), masks[0], atol=1e-6)


def test_a_finished_run_can_be_judged_with_fewer_components(tmp_path):
    few = dict(labels=8, masks=3, size=32, steps=3, batch=4, unlabeled=4, method="unet", progress=False, device="cpu")
    first = run_experiment(out=tmp_path / "all", **few)["in_domain"]["segmentation"]
    two = run_experiment(out=tmp_path / "two", components=2, **few)["in_domain"]["segmentation"]
    assert json.loads((tmp_path / "two/config.json").read_text())["components"] == 2
    assert evaluate_run(tmp_path / "all", components=2, device="cpu")["in_domain"]["segmentation"] == two != first
    assert evaluate_run(tmp_path / "two", components=0, device="cpu")["in_domain"]["segmentation"] == first
    with pytest.raises(InputError, match="components is -1"):
        evaluate_run(tmp_path / "all", components=-1, device="cpu")


def test_a_run_from_before_there_was_the_setting_keeps_every_part(tmp_path):
    run_experiment(out=tmp_path, labels=8, masks=3, size=32, steps=1, batch=4, method="unet", progress=False, device="cpu")
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept.pop("components") == 0
    before = evaluate_run(tmp_path, device="cpu")
    (tmp_path / "config.json").write_text(json.dumps(kept))
    assert evaluate_run(tmp_path, device="cpu") == before


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_presets_judge_on_the_input_range_they_train_with(preset):
    config = make_config(preset, size=32)
    model = make_model(config).eval()
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, args: seen.append((float(args[0].min()), float(args[0].max()))))
    x = torch.linspace(0, 1, 32 * 32).reshape(1, 1, 32, 32)
    for stream in ("cls", "seg"):
        Judged(model, config, stream).encode(x)
    expected = {"released": [(0, 1), (-1, 1)], "paper": [(-1, 1), (-1, 1)]}[preset]
    assert all(math.isclose(a, b, abs_tol=1e-6) for got, want in zip(seen, expected) for a, b in zip(got, want))


def test_released_keeps_dropout_at_test_time_and_corrected_does_not():
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for preset, same in (("released", False), ("corrected", True)):
        config = make_config(preset, size=32)
        judged = Judged(make_model(config).eval(), config, "seg").eval()
        assert torch.equal(judged(x).logits, judged.model(scale_input(x, "seg", config)).logits) is same
        torch.manual_seed(1)  # whatever was drawn before, the answer is the run's
        first = judged(x)
        torch.manual_seed(2)
        assert torch.equal(judged(x).masks, first.masks) and torch.equal(judged.encode(x).logits, first.logits)
        assert torch.equal(judged.encode(x, dropout=False).logits, judged.model(scale_input(x, "seg", config)).logits)


def test_only_the_encoder_of_the_released_preset_keeps_its_dropout():
    "`generate_saliency` of the released code puts the encoder back into train mode, and the encoder alone."
    config = make_config("released", size=32)
    model = make_model(config).eval()
    judged, x = Judged(model, config, "seg"), torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    drawn, scaled = judged.encode(x), scale_input(x, "seg", config)
    with torch.no_grad():
        masks = model.decode(scaled, drawn.maps, model.saliency(scaled), dropout=False)
        assert torch.equal(judged(x).masks, masks)
        assert not torch.equal(masks, model.decode(scaled, drawn.maps, model.saliency(scaled), dropout=True))
        assert not torch.equal(masks, model(scaled).masks)
        image = (x[:1, 0] * 255).byte().numpy()
        scaled = scale_input(torch.from_numpy(image)[None].float() / 255, "seg", config)
        torch.manual_seed(0)
        shown = Lens(Run(model, config, [], 0.0, 0.0)).masks(image[0])
        torch.manual_seed(0)
        masks = model.decode(scaled, model.encode(scaled, dropout=True).maps, model.saliency(scaled), dropout=False)
        assert np.allclose(shown, masks.sigmoid()[0].numpy(), atol=1e-6)
