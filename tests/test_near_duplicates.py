"""Near duplicates: the bucket search finds what brute force finds, and the hash which copies it should."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimix.images import InputError
from multimix.near_duplicates import MOST, equal_groups, hash_distance, near_groups, near_pairs, perceptual_hash
from multimix.phantom import make_phantom

CHESTS = make_phantom(40, size=160, seed=77).images


def fingerprint(image: np.ndarray) -> np.ndarray:
    return perceptual_hash(image.astype(np.float32) / 255)


def with_flips(hash_: np.ndarray, bits) -> np.ndarray:
    flat = np.unpackbits(hash_.view(np.uint8), bitorder="little")
    flat[list(bits)] ^= 1
    return np.packbits(flat, bitorder="little").view(np.uint64)


def brute_force(hashes: np.ndarray, most: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(len(hashes)) for b in range(a + 1, len(hashes)) if hash_distance(hashes[a], hashes[b]) <= most]


@st.composite
def families(draw) -> np.ndarray:
    "Random hashes, each with relatives that differ in a few bits, near the border more often than not."
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    parents = rng.integers(0, 2**64, (draw(st.integers(1, 4)), 4), dtype=np.uint64)
    hashes = list(parents)
    for flips in draw(st.lists(st.integers(0, 40), max_size=8)):
        parent = hashes[rng.integers(len(hashes))]
        hashes.append(with_flips(parent, rng.choice(256, flips, replace=False)))
    return np.stack(hashes)[rng.permutation(len(hashes))]


@settings(max_examples=60, deadline=None)
@given(families(), st.integers(0, MOST))
def test_the_buckets_find_exactly_what_brute_force_finds(hashes, most):
    assert list(map(tuple, near_pairs(hashes, most).tolist())) == brute_force(hashes, most)


@pytest.mark.parametrize("spread", ["even", "one band", "last bits"])
def test_the_border_is_31_bits_however_they_are_spread(spread):
    "The worst case is even: two differing bits in fifteen bands and one in the sixteenth."
    order = {"even": [16 * (k % 16) + k // 16 for k in range(256)], "one band": range(256), "last bits": range(255, -1, -1)}[spread]
    base = np.random.default_rng(3).integers(0, 2**64, 4, dtype=np.uint64)
    for flips, pairs in ((31, [[0, 1]]), (32, [])):
        assert near_pairs(np.stack([base, with_flips(base, list(order)[:flips])])).tolist() == pairs


def test_more_than_the_bands_promise_is_refused():
    for most in (-1, 32):
        with pytest.raises(InputError, match=f"most={most}: must be from 0 to 31 bits"):
            near_pairs(np.zeros((2, 4), np.uint64), most)


def test_no_and_few_hashes():
    assert near_pairs(np.zeros((0, 4), np.uint64)).shape == (0, 2)
    assert near_pairs(np.zeros((1, 4), np.uint64)).tolist() == []
    assert near_groups(np.zeros((0, 4), np.uint64)) == [] == equal_groups(np.array([], dtype=str))


def test_a_search_in_small_portions_finds_the_same(monkeypatch):
    import multimix.near_duplicates as module
    rng = np.random.default_rng(0)
    hashes = np.packbits(rng.random((300, 256)) < 0.06, axis=1).view(np.uint64)
    whole, portions = near_pairs(hashes), module._in_chunks
    monkeypatch.setattr(module, "_in_chunks", lambda low, high: portions(low, high, most=7))
    assert len(whole) > 100 and np.array_equal(near_pairs(hashes), whole)


@settings(max_examples=30, deadline=None)
@given(families(), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_the_files(hashes, random):
    order = list(range(len(hashes)))
    random.shuffle(order)
    shuffled = [sorted(order[i] for i in group) for group in near_groups(hashes[order])]
    assert sorted(shuffled) == sorted(near_groups(hashes))


def test_groups_are_the_closure_of_pairs():
    base = np.random.default_rng(5).integers(0, 2**64, 4, dtype=np.uint64)
    chain = np.stack([with_flips(base, range(20 * k)) for k in range(4)])
    assert near_groups(chain) == [[0, 1, 2, 3]] and hash_distance(chain[0], chain[3]) == 60


def test_ten_thousand_equal_hashes_are_one_group():
    "All pairs of them would not fit into memory."
    assert near_groups(np.full((10_000, 4), 7, np.uint64)) == [list(range(10_000))]


def test_equal_groups():
    assert equal_groups(np.array(["b", "a", "b", "c", "a", "b"])) == [[0, 2, 5], [1, 4]]


# the hash


def jpeg(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


def crop(image, share):
    k = round(len(image) * share)
    return cv2.resize(image[k:-k, k:-k], image.shape)


FOUND = {"half": lambda x: cv2.resize(x, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
         "double": lambda x: cv2.resize(x, None, fx=2, fy=2),
         "stretched": lambda x: cv2.resize(x, (200, 120), interpolation=cv2.INTER_AREA), "jpeg 20": lambda x: jpeg(x, 20),
         "brighter": lambda x: cv2.add(x, 20), "darker": lambda x: cv2.subtract(x, 10),
         "contrast": lambda x: (x * 0.5 + 60).astype(np.uint8),
         "gamma": lambda x: (255 * (x / 255) ** 1.4).astype(np.uint8)}
MISSED = {"cropped by 6 %": lambda x: crop(x, 0.06), "mirrored": lambda x: x[:, ::-1], "upside down": lambda x: x[::-1]}


@pytest.mark.parametrize("name", FOUND)
def test_copies_that_are_found(name):
    distances = [hash_distance(fingerprint(FOUND[name](x)), fingerprint(x)) for x in CHESTS]
    assert np.mean(np.array(distances) <= MOST) >= 0.95, sorted(distances)[-5:]


@pytest.mark.parametrize("name", MISSED)
def test_copies_that_are_missed_as_the_lesson_says(name):
    distances = [hash_distance(fingerprint(np.ascontiguousarray(MISSED[name](x))), fingerprint(x)) for x in CHESTS]
    assert np.mean(np.array(distances) <= MOST) <= 0.1


def test_strangers_are_far_apart():
    hashes = np.stack([fingerprint(x) for x in CHESTS])
    assert len(near_pairs(hashes)) == 0


def test_the_hash_is_the_same_everywhere():
    "Of a picture made of exact numbers, so that a report can be compared with one from another machine."
    y, x = np.mgrid[:96, :96] / 95
    picture = (0.5 + 0.3 * np.sin(9 * x + 4 * y * y) * np.cos(5 * y)).astype(np.float32)
    known = perceptual_hash(picture)
    assert known.dtype == np.uint64 and known.shape == (4,) and np.bitwise_count(known).sum() == 128
    assert hash_distance(known, perceptual_hash(picture * 0.5 + 0.2)) <= 6
