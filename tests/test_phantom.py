"""What the phantom must keep: seeds, exact masks, places, one cause for the label, any size, and bad input refused."""
import numpy as np
import pytest

from multimix.data import InputError
from multimix.phantom import AWAY, HOME, Scanner, boxes_of, draw_patients, grid, lungs, make_phantom, phantom_data

SICK = dict(prevalence=1.0, opacity_masks=True)


@pytest.fixture(scope="module")
def crowd():
    return make_phantom(256, seed=3, **SICK)


def same(a, b):
    return (a.images == b.images).all() and (a.masks == b.masks).all() and (a.labels == b.labels).all()


def test_seed_decides_everything_and_nothing_else_does():
    np.random.seed(0)
    a = make_phantom(70, seed=5)
    np.random.seed(1)
    b, c = make_phantom(70, seed=5), make_phantom(70, seed=6)
    assert same(a, b) and not (a.images == c.images).all()
    assert all((p == q).all() for p, q in zip(a.boxes, b.boxes))


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()
    make_phantom(3)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("few", [1, 63, 64, 65])
def test_first_images_do_not_depend_on_how_many_follow(few):
    many = make_phantom(130, size=32, seed=5)
    assert same(make_phantom(few, size=32, seed=5), many.subset(np.arange(few)))


def test_blocks_differ():
    two = make_phantom(128, size=32, seed=0)
    assert len(np.unique(two.images.reshape(128, -1), axis=0)) == 128


@pytest.mark.parametrize("size", [32, 48, 64, 112, 256])
def test_any_size_divisible_by_16(size):
    s = make_phantom(4, size=size, **SICK)
    assert s.images.shape == (4, size, size) and s.images.dtype == np.uint8
    assert s.masks.shape == (4, 2, size, size) and s.masks.dtype == np.uint8 and set(np.unique(s.masks)) == {0, 1}
    assert s.labels.dtype == np.int64 and all(b.dtype == np.float32 and b.shape[1] == 4 for b in s.boxes)


def test_size_changes_the_sampling_not_the_patient():
    small, large = make_phantom(32, size=64, seed=4), make_phantom(32, size=128, seed=4)
    assert (small.labels == large.labels).all()
    assert (large.masks.reshape(32, 1, 64, 2, 64, 2).mean((3, 5)).round() == small.masks).mean() > 0.99
    shrunk = large.images.reshape(32, 64, 2, 64, 2).mean((2, 4))
    assert np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(small.images, shrunk)]) > 0.95


@pytest.mark.parametrize("shifted", [False, True])
def test_classes_differ_by_opacities_in_the_lungs_only(shifted):
    well = make_phantom(130, seed=8, shifted=shifted, **{**SICK, "prevalence": 0.0})
    ill = make_phantom(130, seed=8, shifted=shifted, **SICK)
    assert (well.labels == 0).all() and (ill.labels == 1).all()
    assert (well.masks[:, 0] == ill.masks[:, 0]).all() and not well.masks[:, 1].any() and not any(len(b) for b in well.boxes)
    change, lung, place = ill.images.astype(int) - well.images, ill.masks[:, 0] > 0, ill.masks[:, 1] > 0
    assert (change >= 0).all() and change[place].mean() > 10
    assert change[~lung].mean() < 0.02 * change[place].mean()  # the soft rim of the lung's shadow
    assert (ill.images[:, 0] == well.images[:, 0]).all()       # the top row lies outside every lung


def test_labels_follow_prevalence_and_twins_their_label():
    mixed, well, ill = (make_phantom(640, size=32, seed=2, prevalence=p) for p in (0.3, 0.0, 1.0))
    assert abs(mixed.labels.mean() - 0.3) < 0.06
    assert (mixed.images == np.where(mixed.labels[:, None, None] == 1, ill.images, well.images)).all()


def test_opacities_lie_in_lungs_and_boxes_fit_them(crowd):
    lung, place = crowd.masks[:, 0] > 0, crowd.masks[:, 1] > 0
    assert not (place & ~lung).any()
    for boxes, mask in zip(crowd.boxes, place):
        covered = np.zeros_like(mask)
        for x0, y0, x1, y1 in boxes.astype(int):
            assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
            inside = mask[y0:y1, x0:x1]
            assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all()  # the box touches its opacity on all sides
            covered[y0:y1, x0:x1] = True
        assert not (mask & ~covered).any()


@pytest.mark.parametrize("shifted", [False, True])
def test_every_pneumonia_has_a_place(shifted):
    s = make_phantom(1280, size=32, seed=1, shifted=shifted)
    assert [len(b) > 0 for b in s.boxes] == (s.labels == 1).tolist()
    assert max(map(len, s.boxes)) == 3 and min(len(b) for b, y in zip(s.boxes, s.labels) if y) == 1


def test_lungs_are_two_dark_regions_of_plausible_size(crowd):
    well = make_phantom(256, seed=3, prevalence=0.0)
    area = well.masks.mean((1, 2, 3))
    assert 0.15 < area.min() and area.max() < 0.5 and area.std() > 0.02
    for image, mask in zip(well.images, well.masks[:, 0] > 0):
        assert image[mask].mean() < image[(~mask) & (image > 30)].mean()
    assert (well.masks[:, 0, :, :30].any((1, 2)) & well.masks[:, 0, :, 34:].any((1, 2))).all()


def test_masks_follow_the_edges_of_the_air_and_leave_out_the_heart():
    patients = draw_patients(64, np.random.default_rng(0))
    at = lungs(*grid(128), patients)
    inside, outside = at.air[at.mask], at.air[~at.mask]
    assert inside.min() > 0.1 and inside.mean() > 0.93 and outside.max() < 0.51 and outside.mean() < 0.03
    assert (at.heart > 0).any((1, 2)).all() and not (at.mask & (at.heart > 0)).any()


def test_brighter_opacities_change_more():
    faint, strong = (make_phantom(64, seed=1, opacity=o, **SICK).images.astype(float) for o in ((0.1, 0.1), (0.4, 0.4)))
    assert (strong - faint).min() >= -1 and (strong - faint).mean() > 1


def test_two_hospitals_same_people():
    home, away = make_phantom(64, size=32, seed=9), make_phantom(64, size=32, seed=9, shifted=True)
    assert (home.labels == away.labels).all()
    assert away.masks.mean() < 0.8 * home.masks.mean()  # smaller in the field of view
    assert (make_phantom(64, size=32, seed=9, scanner=AWAY).images == away.images).all()
    assert (make_phantom(64, size=32, seed=9, scanner=HOME).images == home.images).all()


def test_markers_can_be_tied_to_a_class():
    with_letters, without = (make_phantom(128, seed=4, scanner=Scanner(marker=m)) for m in ((0.0, 1.0), (0.0, 0.0)))
    changed = (with_letters.images != without.images).any((1, 2))
    assert (changed == (with_letters.labels == 1)).all()


def test_tasks_carry_what_they_need():
    both, cls, seg = (make_phantom(5, size=32, task=t) for t in ("both", "classification", "segmentation"))
    assert cls.masks is None and (cls.labels == both.labels).all() and len(cls.boxes) == 5
    assert seg.labels is None and seg.boxes is None and (seg.masks == both.masks).all()
    assert both.classes == ("normal", "pneumonia")


def test_boxes_of_nothing():
    assert [b.shape for b in boxes_of(np.zeros((2, 3, 8, 8), bool))] == [(0, 4), (0, 4)]


@pytest.mark.parametrize("argument, bad", [("size", 100), ("size", 0), ("n", 0), ("n", 2.5), ("seed", -1), ("prevalence", 1.5),
                                           ("opacity", (0.4, 0.2)), ("radius", (0.0, 0.2)), ("task", "detection")])
def test_bad_arguments_are_named(argument, bad):
    with pytest.raises(InputError, match=argument) as error:
        make_phantom(**{"n": 5, argument: bad})
    assert "\n" not in str(error.value)


def test_data_of_two_seeds_share_their_tests_and_nothing_else():
    a, b = (phantom_data(size=32, seed=s, n=200, test=40) for s in (0, 1))
    for domain, sets in a.tests.items():
        for task, s in sets.items():
            assert (s.images == b.tests[domain][task].images).all()
    pools = [a.cls_unlabeled, b.cls_unlabeled, a.seg_unlabeled, b.seg_unlabeled, a.cls_val]
    pools += [s for sets in a.tests.values() for s in sets.values()]
    everybody = np.concatenate([p.images.reshape(len(p), -1) for p in pools])
    assert len(np.unique(everybody, axis=0)) == len(everybody)


def test_data_has_the_budgets_asked_for():
    data = phantom_data(size=32, labels=14, masks=5, n=200, test=40)
    assert len(data.cls_labeled) == 14 and data.cls_labeled.labels.sum() == 7 and len(data.seg_labeled) == 5
    assert data.cls_unlabeled.labels is None and data.seg_unlabeled.masks is None
    assert {k: set(v) for k, v in data.tests.items()} == {d: {"classification", "segmentation"} for d in ("in_domain", "cross_domain")}
    with pytest.raises(InputError, match="labels"):
        phantom_data(size=32, labels=500, n=200, test=40)
