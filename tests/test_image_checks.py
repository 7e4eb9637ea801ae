"""Checks of single images and masks: invariances, tiny and odd images, planted faults."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from multimix.image_checks import (
    BLANK,
    FAINT,
    LOOK,
    UNDO,
    WRITING,
    contrast,
    find_turned,
    find_writing,
    mask_measures,
    robust_z,
    shrink,
    sketch,
)
from multimix.phantom import make_phantom

CHESTS = [x.astype(np.float32) / 255 for x in make_phantom(30, size=192, seed=61).images]
SKETCHES = np.stack([sketch(x) for x in CHESTS])
images = hnp.arrays(np.float32, st.tuples(st.integers(1, 90), st.integers(1, 90)), elements=st.floats(0, 1, width=32))


@settings(max_examples=60, deadline=None)
@given(images)
def test_every_image_can_be_checked(image):
    assert 0 <= contrast(image) <= 1
    assert sketch(image).shape == (8, 8) and sketch(image).dtype == np.uint8
    score, place = find_writing(image)
    assert score >= 0 and len(place) == 4 and all(0 <= v <= 1 for v in place)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2), (700, 600)])
def test_odd_sizes(shape):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    assert max(shrink(image).shape) <= 512 and shrink(image).ndim == 2
    find_writing(image), sketch(image), contrast(image)


def test_contrast_tells_blank_and_faint_from_fine():
    assert contrast(np.full((50, 50), 0.7, np.float32)) < BLANK
    speck = np.zeros((200, 200), np.float32)
    speck[:3, :3] = 1
    assert contrast(speck) < BLANK, "a dead pixel makes no picture"
    assert BLANK < contrast(0.5 + 0.1 * CHESTS[0]) < FAINT < min(map(contrast, CHESTS))


@pytest.mark.parametrize("fault", UNDO)
def test_one_turned_image_among_thirty_is_found_or_nothing_is_said(fault):
    turned = {name: UNDO[name](SKETCHES) for name in UNDO}
    undone = {"turned to the left": "turned to the right", "turned to the right": "turned to the left"}.get(fault, fault)
    found = 0
    for k in range(len(SKETCHES)):
        said = find_turned(np.concatenate([SKETCHES[:k], turned[undone][k:k + 1], SKETCHES[k + 1:]]))
        assert not any(said[:k] + said[k + 1:])
        assert said[k] in ("", fault)
        found += said[k] == fault
    assert found == len(SKETCHES) or fault == "upside down"


def test_a_folder_that_is_inverted_as_a_whole():
    assert find_turned(255 - SKETCHES) == ["inverted"] * len(SKETCHES)


def test_few_images_are_compared_with_the_phantom_and_only_told_inverted():
    assert find_turned(SKETCHES[:3]) == ["", "", ""]
    assert find_turned(np.stack([SKETCHES[0], 255 - SKETCHES[1], np.rot90(SKETCHES[2])])) == ["", "inverted", ""]


def test_look_is_the_mean_phantom():
    images = np.concatenate([make_phantom(100, 64, 90, shifted).images for shifted in (False, True)])
    sketches = images.reshape(200, 8, 8, 8, 8).mean((2, 4))
    assert np.corrcoef(sketches.mean(0).ravel(), LOOK.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("words, grey", [("PORTABLE", 255), ("12.03.1961", 255), ("DOE JANE", 0)])
def test_writing_is_found_and_placed(words, grey):
    pixels = np.round(CHESTS[3] * 255).astype(np.uint8)
    pixels[160:190, 20:170] = 128
    cv2.putText(pixels, words, (30, 182), cv2.FONT_HERSHEY_SIMPLEX, 0.6, grey, 1, cv2.LINE_AA)
    score, (x0, y0, x1, y1) = find_writing(pixels.astype(np.float32) / 255)
    assert score >= WRITING and 0.8 < (y0 + y1) / 2 < 0.99 and 0.1 < (x0 + x1) / 2 < 0.9


@pytest.mark.parametrize("factor", [1, 4])
def test_no_writing_on_phantoms_with_letters_or_grain(factor):
    other = [x.astype(np.float32) / 255 for x in make_phantom(20, size=192, seed=62, shifted=True).images]
    scores = [find_writing(np.kron(x, np.ones((factor, factor), np.float32)))[0] for x in CHESTS + other]
    assert max(scores) < WRITING


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=40), st.integers(-50, 50), st.integers(1, 9))
def test_robust_z_does_not_depend_on_origin_or_unit(values, shift, scale):
    values = np.array(values, dtype=float)
    assert np.allclose(robust_z(values), robust_z(values * scale + shift))
    assert np.allclose(robust_z(values), -robust_z(-values))


def test_robust_z_of_equal_and_of_no_values():
    assert robust_z(np.array([])).shape == (0,)
    assert not robust_z(np.array([2.0, 2, 2, 2, 9])).any(), "more than half are equal: no scale to measure by"


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_mask_measures_are_those_of_the_definition(mask):
    area, x, y = mask_measures(mask)
    rows, columns = np.nonzero(mask)
    assert area == pytest.approx(len(rows) / mask.size)
    if len(rows):
        assert x == pytest.approx((columns.mean() + 0.5) / mask.shape[1]) and y == pytest.approx((rows.mean() + 0.5) / mask.shape[0])
