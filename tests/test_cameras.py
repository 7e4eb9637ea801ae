"""Views through other cameras: what they change, what they leave alone, and who sees them."""
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config, tiny_data

from multimix.augmentation import View
from multimix.cameras import PIECES, camera_view, collimate, frames, tone_curves
from multimix.images import InputError
from multimix.losses import ViewKey
from multimix.methods import CAMERAS, PRESETS, add_frame, change_camera, make_config
from multimix.step import Trainer, make_views, train_step

fractions = st.floats(0, 1, exclude_max=True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=6, size=32):
    return torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=seeded())


@given(st.lists(fractions, min_size=PIECES, max_size=PIECES), st.floats(0, 0.99))
def test_any_tone_curve_rises_from_black_to_white(u, tone):
    [curve] = tone_curves(torch.tensor([u], dtype=torch.float64), tone).int()
    assert curve[0] == 0 and curve[255] == 255 and (curve.diff() >= 0).all()


@given(fractions, fractions, st.floats(0, 1), st.floats(0, 1))
def test_a_frame_keeps_its_centre_and_its_bounds(size, shape, zoom, stretch):
    [[[x, a, right], [b, y, down]]] = frames(torch.tensor([[size, shape]], dtype=torch.float64), zoom, stretch).tolist()
    assert (a, b, right, down) == (0, 0, 0, 0)
    assert 1 / (1 + zoom) - 1e-5 <= (x * y) ** 0.5 <= 1 + zoom + 1e-5
    assert 1 / (1 + stretch) - 1e-5 <= x / y <= 1 + stretch + 1e-5


def test_masks_move_with_their_images():
    "A mask given as the image, too, comes out as the image, but at its edge, where levels are mixed and masks are not."
    mask = torch.zeros(8, 1, 64, 64)
    mask[:, :, 16:48, 20:40] = 1
    view, moved = camera_view((mask * 255).byte(), mask, generator=seeded(), tone=0)
    assert moved.dtype == mask.dtype and set(moved.unique().tolist()) == {0.0, 1.0}
    assert ((view > 127) != (moved > 0.5)).float().mean() < 0.02 and not torch.equal(moved, mask)


def test_a_constant_image_stays_constant_and_several_masks_move_alike():
    images, masks = torch.full((4, 1, 32, 32), 99, dtype=torch.uint8), torch.rand(4, 1, 32, 32).round().expand(4, 3, 32, 32)
    view, moved = camera_view(images, masks, generator=seeded())
    assert all(len(one.unique()) == 1 for one in view) and torch.equal(moved[:, 0], moved[:, 1]) and torch.equal(moved[:, 0], moved[:, 2])


def test_nothing_asked_changes_nothing_and_a_seed_repeats():
    images = batch()
    assert torch.equal(camera_view(images, zoom=0, stretch=0, tone=0)[0], images)
    state = torch.get_rng_state()
    first, again, other = (camera_view(images, generator=seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(torch.get_rng_state(), state)
    assert first.dtype == torch.uint8 and first.shape == images.shape


def test_a_row_depends_on_its_own_draws_alone():
    "So that several processes, each with some rows of a batch, draw the views of the whole."
    images, whole = batch(), torch.rand(6, 2 + PIECES, dtype=torch.float64, generator=seeded(3))
    together = camera_view(images, generator=lambda n, columns: whole)[0]
    parts = [camera_view(images[rows], generator=lambda n, columns, rows=rows: whole[rows])[0] for rows in (slice(0, 2), slice(2, 6))]
    assert torch.equal(together, torch.cat(parts))


@pytest.mark.parametrize("wrong, named", [
    (dict(zoom=-0.1), "zoom"), (dict(zoom=float("nan")), "zoom"), (dict(stretch=2), "stretch"), (dict(tone=1.0), "tone"),
])
def test_settings_that_cannot_be_are_named(wrong, named):
    with pytest.raises(InputError, match=named):
        camera_view(batch(), **wrong)


@pytest.mark.parametrize("images", [batch() / 255, batch()[:, 0]])
def test_images_that_are_no_levels_are_refused(images):
    with pytest.raises(InputError, match="images"):
        camera_view(images)


@pytest.mark.parametrize("cameras", CAMERAS)
def test_only_the_tasks_asked_for_see_other_cameras(cameras):
    config = make_config(cameras=cameras)
    for stream in ("cls_labeled", "cls_unlabeled", "seg_labeled", "seg_unlabeled"):
        images, draws = batch(), seeded()
        view, _ = change_camera(images, None, stream, config, draws)
        changed = cameras == "all" or stream.startswith(cameras)
        assert torch.equal(view, images) != changed
        assert torch.equal(draws.get_state(), seeded().get_state()) != changed  # where none is asked for, none is drawn


def test_published_presets_know_one_camera_and_robust_more():
    assert {preset: make_config(preset).cameras for preset in PRESETS} == {
        "corrected": "none", "released": "none", "paper": "none", "robust": "cls"}


def test_the_step_shows_other_cameras_to_weak_and_strong_views_and_not_to_clean_ones():
    plain = tiny_config(strong_ops=0, cutout=0.0, strong_pad=0.0, weak_pad=0.0, seg_view="clean")
    data = tiny_data()
    trainers = [Trainer(config, data) for config in (plain, make_config(**vars(plain) | {"cameras": "all"}))]
    keys = [key for term in trainers[0].terms for key in (*term.reads_logits, *term.reads_teacher, *term.reads_masks)]
    one, other = (make_views(dict.fromkeys(keys), t.streams, 0, t.config, seeded()) for t in trainers)
    for key in one:
        flips = (one[key][0], one[key][0].flip(3))
        same = all(any(torch.equal(view, flip[i]) for flip in flips) for i, view in enumerate(other[key][0]))
        assert same == (key.view == "clean"), key


def test_a_step_of_robust_is_repeated_by_its_seed():
    weights = []
    for _ in range(2):
        trainer = Trainer(tiny_config("robust"), tiny_data())
        losses = [train_step(trainer)["loss"].item() for _ in range(2)]
        weights.append([*losses, *(p.sum().item() for p in trainer.model.parameters())])
    assert weights[0] == weights[1]


def test_a_frame_is_black_square_and_cuts_the_mask():
    images, masks = torch.full((400, 1, 40, 64), 200, dtype=torch.uint8), torch.ones(400, 2, 40, 64)
    view, cut = collimate(images, masks, generator=seeded(), collimation=0.3)
    assert view.dtype == torch.uint8 and cut.dtype == masks.dtype and set(view.unique().tolist()) == {0, 200}
    seen = view > 0
    assert torch.equal(cut, seen.expand_as(cut).float())
    rows, columns = seen.any(3, keepdim=True), seen.any(2, keepdim=True)
    assert torch.equal(seen, rows & columns)
    for side, open_ in ((40, rows.flatten(1)), (64, columns.flatten(1))):
        assert (open_.int().diff() != 0).sum(1).max() <= 2  # one open part
        assert open_[:, side * 3 // 10:side - side * 3 // 10].all()


def test_about_half_of_the_images_keep_the_open_field_and_every_side_gets_blades():
    view, _ = collimate(torch.ones(4000, 1, 32, 32), generator=seeded())
    assert 0.51 < view.all(3).all(2).float().mean() < 0.58
    for edge in (view[:, 0, 0, 16], view[:, 0, -1, 16], view[:, 0, 16, 0], view[:, 0, 16, -1]):
        assert 0.2 < (edge == 0).float().mean() < 0.27


def test_a_frame_depends_on_its_own_draws_alone_and_none_changes_nothing():
    images, whole = batch(), torch.rand(6, 9, dtype=torch.float64, generator=seeded(3))
    together = collimate(images, generator=lambda n, columns: whole)[0]
    parts = [collimate(images[rows], generator=lambda n, columns, rows=rows: whole[rows])[0] for rows in (slice(0, 2), slice(2, 6))]
    assert torch.equal(together, torch.cat(parts)) and torch.equal(collimate(images, collimation=0)[0], images)


@pytest.mark.parametrize("collimation", [-0.1, 0.5, float("nan")])
def test_blades_that_would_meet_are_refused(collimation):
    with pytest.raises(InputError, match="collimation"):
        collimate(batch(), collimation=collimation)


@pytest.mark.parametrize("collimators", CAMERAS)
def test_only_the_tasks_asked_for_get_frames_and_none_is_drawn_for_others(collimators):
    config = make_config(collimators=collimators)
    for stream in ("cls_labeled", "cls_unlabeled", "seg_labeled", "seg_unlabeled"):
        draws, view = seeded(), View(torch.ones(64, 1, 32, 32), torch.ones(64, 1, 32, 32))
        framed = add_frame(view, stream, config, draws)
        asked = collimators == "all" or stream.startswith(collimators)
        assert bool((framed.images == 0).any()) == asked and torch.equal(framed.images, framed.masks)
        assert torch.equal(draws.get_state(), seeded().get_state()) != asked


def test_robust_trains_its_masks_in_frames_and_the_published_presets_do_not():
    keys = [ViewKey("seg_labeled", "weak"), ViewKey("seg_labeled", "clean")]
    for preset in PRESETS:
        config, differ = tiny_config(preset), set()
        trainers = [Trainer(given, tiny_data()) for given in (config, replace(config, collimators="none"))]
        for step in range(8):
            views, plain = (make_views(keys, t.streams, step, t.config, seeded(step)) for t in trainers)
            differ |= {key.view for key in keys if not torch.equal(views[key][0], plain[key][0])}
        assert differ == ({"weak"} if preset == "robust" else set()), preset
