"""Budgets, splits and what they share: properties that must hold for every input, and faults."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimix.images import InputError
from multimix.sets import ImageSet, Rows
from multimix.splits import find_duplicates, find_shared, label_budget, merge_duplicates, patient_split, sub_seed

CLASSES = ("normal", "pneumonia")
calm = settings(deadline=None, max_examples=60)


def test_seeds_are_the_same_for_ever():
    assert sub_seed(0, "budget") == 785129680 and sub_seed(0, "split") == 3879285739  # Python's own hash differs in every process
    assert sub_seed(np.int64(7), "cls_labeled", np.int64(3)) == sub_seed(7, "cls_labeled", 3) != sub_seed(7, "cls_labeled", 4)


# label budgets

labels_and_n = st.lists(st.integers(-1, 3), min_size=4, max_size=80).map(lambda a: np.array([0, 1, 2, 3, *a])).flatmap(
    lambda a: st.tuples(st.just(a), st.integers(4, int((a >= 0).sum()))))


@calm
@given(labels_and_n, st.integers(0, 99), st.sampled_from(["equal", "proportional"]))
def test_a_budget_is_exact_and_stratified(case, seed, balance):
    labels, n = case
    drawn = label_budget(labels, n, seed, balance)
    assert len(drawn) == n == len(set(drawn)) and (np.diff(drawn) > 0).all() and (labels[drawn] >= 0).all()
    counts, available = np.bincount(labels[drawn], minlength=4), np.bincount(labels[labels >= 0], minlength=4)
    assert counts.min() >= 1 and (counts <= available).all()
    if balance == "equal":  # only a class that is used up may have less than another
        assert all(counts[c] >= counts.max() - 1 for c in range(4) if counts[c] < available[c])
    assert np.array_equal(drawn, label_budget(labels, n, seed, balance))
    if n > 4:
        assert set(label_budget(labels, n - 1, seed, balance)) < set(drawn)


def test_a_proportional_budget_keeps_the_prevalence():
    labels = np.repeat([0, 1], [260, 740])
    assert np.bincount(labels[label_budget(labels, 100, 0, "proportional")]).tolist() == [26, 74]


def test_other_seeds_draw_other_labels():
    labels = np.arange(200) % 2
    assert len({tuple(label_budget(labels, 10, seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize("labels, n, options, match", [
    ([0, 1, 1], 4, {}, "4 labels asked: there are 3"), ([0, 1, 1], 1, {}, "1 labels asked"),
    ([0, 1], 0, {}, "0 labels"), ([0, 1], -5, {}, "-5 labels"),
    ([0, 0], 2, {"classes": CLASSES}, "pneumonia"), ([0, 2], 2, {}, "class '1'"), ([-1, -1], 1, {}, "labels"), ([], 1, {}, "labels"),
    ([0, 1], 2, {"balance": "fair"}, "balance='fair'"),
])
def test_budgets_that_cannot_be_met(labels, n, options, match):
    with pytest.raises(InputError, match=match) as error:
        label_budget(np.array(labels, dtype=np.int64), n, **options)
    assert "\n" not in str(error.value)


# splits

@calm
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 2)), min_size=1, max_size=80),
       st.floats(0, 0.95), st.integers(0, 99), st.booleans())
def test_a_split_never_shares_a_patient(images, fraction, seed, stratify):
    patients, labels = np.array([f"p{p}" for p, _ in images]), np.array([c for _, c in images])
    rest, part = patient_split(patients, fraction, seed, labels if stratify else None)
    assert sorted([*rest, *part]) == list(range(len(images)))
    assert not set(patients[rest]) & set(patients[part])
    largest = np.unique(patients, return_counts=True)[1].max()
    assert len(part) <= fraction * len(images) + largest * (3 if stratify else 1)
    if fraction == 0:
        assert len(part) == 0
    elif len(set(patients)) > 1 and not stratify:
        assert len(part) and len(rest)


def test_a_split_has_the_size_and_the_classes_that_were_asked():
    labels = np.repeat([0, 1], [260, 740])
    rest, part = patient_split(np.arange(1000).astype(str), 0.1, 3, labels)
    assert np.bincount(labels[part]).tolist() == [26, 74] and len(rest) == 900
    assert len({tuple(patient_split(np.arange(50).astype(str), 0.2, seed)[1]) for seed in range(8)}) == 8


@pytest.mark.parametrize("fraction", [1, 1.5, -0.1, float("nan")])
def test_fractions_that_make_no_sense(fraction):
    with pytest.raises(InputError, match="fraction="):
        patient_split(["a", "b"], fraction)


def test_copies_tie_patients_together_through_chains():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    images = pixels[[0, 0, 1, 1, 2, 0]]
    assert find_duplicates(images) == [[0, 1, 5], [2, 3]]
    keys = merge_duplicates(np.array(["a", "b", "b", "c", "d", "e"]), images)
    assert len(set(keys[[0, 1, 2, 3, 5]])) == 1 and keys[4] == "d"


# copies

copied = st.tuples(st.lists(st.integers(0, 7), min_size=1, max_size=30), st.integers(0, 9))


def pixels_of(places, seed):
    "Images, some identical, and some that differ only outside of their middle line."
    distinct = np.random.default_rng(seed).integers(0, 256, (8, 5, 4), dtype=np.uint8)
    distinct[4:6, 2] = distinct[0, 2]
    return distinct[places]


@calm
@given(copied)
def test_duplicates_are_what_is_equal(case):
    places, seed = case
    images = pixels_of(*case)
    groups = [[i for i, p in enumerate(places) if p == place] for place in dict.fromkeys(places)]
    assert find_duplicates(images) == [group for group in groups if len(group) > 1]
    order = np.random.default_rng(seed).permutation(len(places))
    rows = Rows([images[order[: len(order) // 2]], images[order[len(order) // 2:]]], np.argsort(order))
    assert find_duplicates(rows) == find_duplicates(images)


@calm
@given(copied, st.data())
def test_merged_patients_are_the_connected_ones(case, data):
    images, n = pixels_of(*case), len(case[0])
    patients = np.array(data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=n, max_size=n)))
    slow = patients.copy()
    for _ in range(n):  # until nothing changes
        for same in [images == image for image in images]:
            inside = np.isin(slow, slow[same.all((1, 2))])
            slow[inside] = min(slow[inside])
    assert merge_duplicates(patients, images).tolist() == slow.tolist()


# what a split shares

def made(places, prefix, patients=None):
    return ImageSet(pixels_of(places, 0), [f"{prefix}{i}" for i in range(len(places))], patients=patients)


@calm
@given(st.lists(st.integers(0, 7), min_size=1, max_size=8), st.lists(st.integers(0, 7), min_size=1, max_size=8))
def test_whatever_is_in_both_is_found(first, second):
    found = find_shared({"train": made(first, "a", first)}, {"test": made(second, "b", second)})
    assert bool(found) == bool(set(first) & set(second)) and len(found) in (0, 2)
    for line in found:
        assert f"test: {sum(place in first for place in second)} of its {len(second)} images" in line
    assert len(find_shared({"train": made(first, "a")}, {"test": made(second, "b")})) == len(found) / 2


def test_images_of_other_sizes_and_nothing_to_compare():
    small, large = made([0, 1], "s", ["x", "y"]), ImageSet(np.zeros((2, 8, 8), np.uint8), ["l0", "l1"], patients=["x", "z"])
    assert find_shared({"train": small}, {"test": large}) == [
        "test: 1 of its 2 images are of patients in train, for example l0 and s0 of patient x"]
    assert find_shared({}, {"test": large}) == find_shared({"train": small}, {}) == []

