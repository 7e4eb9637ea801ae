"""Budgets, splits, streams and the two-task object: properties that must hold for every input, and faults."""
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimix.data import (
    ImageSet,
    InputError,
    MultiTaskData,
    Stream,
    find_duplicates,
    label_budget,
    merge_duplicates,
    patient_split,
    sub_seed,
)

CLASSES = ("normal", "pneumonia")
calm = settings(deadline=None, max_examples=60)


def make_set(n, size=32, seed=0, prefix="", classes=CLASSES, each=1):
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (n, size, size), dtype=np.uint8), [f"{prefix}{i}" for i in range(n)], np.arange(n) % len(classes),
                    rng.integers(0, 2, (n, 1, size, size), dtype=np.uint8), [f"{prefix}p{i // each}" for i in range(n)], None, classes)


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


# streams

@calm
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 9), st.sampled_from(["cls_labeled", "seg_labeled"]))
def test_every_epoch_shows_every_image_once(n, batch_size, seed, name):
    stream = Stream(make_set(n), batch_size, seed, name=name)
    steps = -(-4 * n // batch_size)
    sequence = np.concatenate([stream.indices(step) for step in range(steps)])
    for epoch in range(4):
        assert sorted(sequence[epoch * n:(epoch + 1) * n]) == list(range(n))


@calm
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 10**6))
def test_a_batch_is_a_function_of_its_step(n, batch_size, step):
    images = make_set(n)
    used = Stream(images, batch_size, 5, name="s")
    for before in (0, 3, step + 1):
        used.batch(before)
    a, b = used.batch(step), Stream(images, batch_size, 5, name="s").batch(step)
    for part in ("images", "labels", "masks", "index"):
        assert torch.equal(getattr(a, part), getattr(b, part))


def test_e11_batches_are_not_fixed_for_the_run():
    stream = Stream(make_set(40), 10, 0, name="cls_labeled")
    batches = [frozenset(stream.indices(step)) for step in range(40)]
    assert len(set(batches)) == 40  # the released code has the same four batches all along


def test_streams_of_other_names_and_seeds_go_other_ways():
    images = make_set(40)
    orders = {tuple(Stream(images, 40, seed, name=name).indices(0)) for seed in range(3) for name in ("a", "b", "")}
    assert len(orders) == 9


def test_a_batch_holds_what_the_set_knows():
    whole = make_set(12)
    batch = Stream(whole, 5, 1).batch(2)
    assert batch.images.shape == (5, 1, 32, 32) and batch.images.dtype == torch.uint8
    assert batch.masks.shape == (5, 1, 32, 32) and batch.masks.dtype == torch.float32
    assert batch.labels.dtype == batch.index.dtype == torch.int64
    assert np.array_equal(batch.images[:, 0].numpy(), whole.images[batch.index.numpy()])
    assert np.array_equal(batch.masks.numpy(), whole.masks[batch.index.numpy()])
    bare = Stream(ImageSet(whole.images, whole.names), 5).batch(0)
    assert bare.labels is None and bare.masks is None


def test_a_batch_is_a_copy_of_its_own(tmp_path):
    np.save(tmp_path / "x.npy", make_set(6).images)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    stream = Stream(ImageSet(mapped, list("abcdef")), 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of tensors over memory that must not be written
        stream.batch(0).images.zero_()
    assert stream.batch(0).images.any()


def test_nothing_touches_the_global_generators():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    data = MultiTaskData.from_sets(make_set(60), make_set(30), labels=10, masks=5)
    [stream.batch(3) for stream in data.streams().values()]
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("n, batch", [(0, 4), (4, 0), (4, -1)])
def test_streams_of_nothing(n, batch):
    with pytest.raises(InputError, match="stream 'x'"):
        Stream(make_set(n) if n else make_set(2).subset([]), batch, name="x")


# two tasks

def test_parts_share_no_image_and_no_held_out_patient():
    cls, seg = make_set(300, each=3, prefix="c"), make_set(60, each=2, prefix="s", seed=1)
    data = MultiTaskData.from_sets(cls, seg, labels=20, masks=6, val=0.2, seed=4)
    for task, source in (("cls", cls), ("seg", seg)):
        labeled, unlabeled, val = (getattr(data, f"{task}_{part}") for part in ("labeled", "unlabeled", "val"))
        assert sorted(labeled.names + unlabeled.names + val.names) == sorted(source.names)
        assert not set(val.patients) & (set(labeled.patients) | set(unlabeled.patients))
        assert unlabeled.labels is None and unlabeled.masks is None
    assert data.cls_labeled.counts() == {"normal": 10, "pneumonia": 10} and data.cls_labeled.masks is None
    assert len(data.seg_labeled) == 6 and data.seg_labeled.labels is None and data.seg_labeled.masks is not None
    assert abs(len(data.cls_val) - 60) <= 3 and abs(len(data.seg_val) - 12) <= 2


def test_what_is_withheld_is_the_truth_of_the_unlabelled():
    cls, seg = make_set(100), make_set(30, seed=1)
    data = MultiTaskData.from_sets(cls, seg, labels=10, masks=5)
    at = [cls.names.index(name) for name in data.cls_unlabeled.names]
    assert np.array_equal(data.withheld["cls_unlabeled"], cls.labels[at])
    at = [seg.names.index(name) for name in data.seg_unlabeled.names]
    assert np.array_equal(data.withheld["seg_unlabeled"], seg.masks[at])


def test_unknown_labels_are_never_drawn_nor_validated_but_train():
    cls = make_set(100)
    cls.labels[:40] = -1
    data = MultiTaskData.from_sets(cls, None, labels=None, val=0.1)
    assert data.cls_labeled.labels.min() == 0 and data.cls_val.labels.min() == 0 and len(data.cls_unlabeled) == 40


def test_all_labels_leave_no_unlabelled_stream():  # E14: the paper's "Full" rows cannot be run with the released code
    data = MultiTaskData.from_sets(make_set(50), make_set(20), labels=None, masks=None)
    assert data.cls_unlabeled is None and set(data.streams()) == {"cls_labeled", "seg_labeled"}


def test_a_set_smaller_than_the_batch_still_gives_batches():  # E14: ZeroDivisionError in the released code
    data = MultiTaskData.from_sets(make_set(50), make_set(20), labels=4, masks=3)
    sizes = {name: len(stream.batch(0).images) for name, stream in data.streams(batch=10, unlabeled=30).items()}
    assert sizes == {"cls_labeled": 10, "cls_unlabeled": 30, "seg_labeled": 10, "seg_unlabeled": 10}


def test_one_task_alone():
    only = MultiTaskData.from_sets(make_set(50), None, labels=10)
    assert set(only.streams()) == {"cls_labeled", "cls_unlabeled"} and only.seg_val is None and only.mask_channels == 1
    only = MultiTaskData.from_sets(None, make_set(50), masks=10)
    assert set(only.streams()) == {"seg_labeled", "seg_unlabeled"} and only.classes == CLASSES


def test_classes_and_channels_are_read_from_the_sets():
    three, two = make_set(60, classes=("a", "b", "c")), make_set(30)
    two.masks = np.concatenate([two.masks, two.masks], 1)
    data = MultiTaskData.from_sets(three, two, labels=9, masks=4)
    assert data.classes == ("a", "b", "c") and data.mask_channels == 2


def test_faulty_requests_name_what_is_wrong():
    cls, seg = make_set(100), make_set(30)
    for options, match in [({"labels": 91}, "91 labels asked: there are 90"), ({"masks": 28}, "28 masks asked: there are 27"),
                           ({"masks": 0}, "0 masks"), ({"labels": 1}, "1 labels"),
                           ({"val": 1.0}, "fraction"), ({"balance": "x"}, "balance='x'"),
                           ({"tests": {"in_domain": {"classification": make_set(9, classes=("x", "y"))}}}, "in_domain.*classes")]:
        with pytest.raises(InputError, match=match) as error:
            MultiTaskData.from_sets(cls, seg, **{"labels": 10, "masks": 5, **options})
        assert "\n" not in str(error.value)


def test_a_patient_in_training_and_test_is_warned_of():
    with pytest.warns(UserWarning, match=r"tests\['in_domain'\]\['classification'\].*patients.*p0"):
        MultiTaskData.from_sets(make_set(50), None, {"in_domain": {"classification": make_set(4)}}, labels=None, val=0)


# own folders

@pytest.fixture
def folders(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 32, 32), dtype=np.uint8)

    def save(folder, images):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{i:02}.png")
    save("normal", pixels[:20])
    save("pneumonia", pixels[20:50])
    save("lungs", pixels[[*range(50, 64), *range(20, 26)]])  # six chests of the class folders have masks as well
    save("lung_masks", (pixels[50:67] > 127) * np.uint8(255))  # three images have none
    save("unlabeled", pixels[[*range(70, 95), *range(20, 30)]])  # ten labelled images lie here, too
    return tmp_path


def load(d, **options):
    options = {"images": {"normal": d / "normal", "pneumonia": d / "pneumonia"}, "masks": (d / "lungs", d / "lung_masks"),
               "unlabeled": d / "unlabeled", "size": 32, "cache_dir": d / "cache", "progress": False, **options}
    return MultiTaskData.from_folders(**options)


@pytest.mark.parametrize("seed", range(4))
def test_own_folders_never_mix_test_and_training(folders, seed):
    data, again = load(folders, seed=seed), load(folders, seed=0)
    tests = list(data.tests["in_domain"].values())
    tested = {image.tobytes() for s in tests for image in s.images}
    trained = {image.tobytes() for name in ("cls_labeled", "cls_unlabeled", "seg_labeled", "seg_unlabeled", "cls_val", "seg_val")
               for image in getattr(data, name).images}
    assert tested and not tested & trained
    assert [s.names for s in tests] == [s.names for s in again.tests["in_domain"].values()]
    assert data.cls_unlabeled.labels is None and data.seg_unlabeled.masks is None
    assert 10 <= len(tests[0]) <= 16 and tests[0].classes == CLASSES and tests[1].masks is not None


def test_own_folders_with_patients_in_their_names(folders):
    data = load(folders, masks=None, patient=lambda name: name[:-5])  # normal/0?.png is one patient
    assert {p for s in (data.cls_labeled, data.cls_val) for p in s.patients}.isdisjoint(data.tests["in_domain"]["classification"].patients)
    assert len({name.split("/")[0] for name in data.tests["in_domain"]["classification"].names}) == 2


def test_own_folders_one_at_a_time(folders):
    assert set(load(folders, masks=None, unlabeled=None).streams()) == {"cls_labeled"}
    assert set(load(folders, images=None, unlabeled=None).streams()) == {"seg_labeled", "seg_unlabeled"}
    assert load(folders, test=0, unlabeled=None, masks=None).tests == {}
    with pytest.raises(InputError, match="from_folders"):
        load(folders, images=None, masks=None)


def test_own_budgets(folders):
    data = load(folders, labels=6, mask_budget=4)
    assert data.cls_labeled.counts() == {"normal": 3, "pneumonia": 3} and len(data.seg_labeled) == 4
    with pytest.raises(InputError, match="1000 labels"):
        load(folders, labels=1000)


def test_faulty_own_folders(folders):
    (folders / "empty").mkdir()
    for options, match in [({"images": {"normal": folders / "normal", "ill": folders / "empty"}}, "empty"),
                           ({"unlabeled": folders / "gone"}, "gone"), ({"masks": (folders / "lungs", folders / "gone")}, "gone"),
                           ({"size": 40}, "size=40"), ({"test": 1}, "fraction=1")]:
        with pytest.raises(InputError, match=match):
            load(folders, **options)
