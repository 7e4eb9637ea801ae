"""Metrics against scikit-learn, torchmetrics and brute force; empty masks; intervals; prediction without side effects."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn import metrics as sk
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

from multimix import evaluation as ev
from multimix.data import ImageSet, InputError, MultiTaskData
from multimix.model import MultiMix, Outputs

CLASSES = ("normal", "pneumonia")


def made_up(n=200, k=2, seed=0, digits=2, skill=1.0):
    "Probabilities with ties and labels, somewhat right."
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + skill * np.eye(k)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probs[:, 1:] = probs[:, 1:].round(digits) if k == 2 else probs[:, 1:]
    probs[:, 0] = 1 - probs[:, 1:].sum(1)
    return probs.astype(np.float32), labels


def blobs(n=6, size=32, seed=0, channels=1):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    cy, cx, ry, rx = rng.uniform([[[[10]]], [[[10]]], [[[3]]], [[[3]]]], [[[[22]]], [[[22]]], [[[9]]], [[[9]]]], (4, n, channels, 1))[
        ..., None
    ]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1


# classification


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(4, 60))
def test_weighted_ranking_equals_sklearn_with_ties(seed, n):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, n) / 5, rng.random(n) < 0.5
    positive[:2] = True, False
    weights = rng.integers(0, 4, (3, n)).astype(float)
    weights[:, :2] = 1
    for ours, theirs in ((ev.weighted_auroc, sk.roc_auc_score), (ev.weighted_auprc, sk.average_precision_score)):
        np.testing.assert_allclose(ours(scores, positive, weights), [theirs(positive, scores, sample_weight=w) for w in weights])


def test_weighted_ranking_has_no_value_with_one_class():
    ones = np.ones((1, 4))
    for positive in (np.ones(4, bool), np.zeros(4, bool)):
        assert np.isnan(ev.weighted_auroc(np.arange(4.0), positive, ones)).all()
        assert np.isnan(ev.weighted_auprc(np.arange(4.0), positive, ones)).all()


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_resample_scores_as_the_repeated_images_do(k):
    probs, labels = made_up(150, k, seed=k)
    classes = tuple("abcde"[:k])
    weights = next(ev.resamples(150, 5, seed=3))
    resampled = ev.weighted_classification(probs, labels, classes, weights)
    for row, w in enumerate(weights):
        at = np.repeat(np.arange(150), w.astype(int))
        whole = ev.classification_metrics(probs[at], labels[at], classes, bootstrap=0)
        for name, values in resampled.items():
            assert values[row] == pytest.approx(whole[name], abs=1e-6), name


def test_values_are_those_of_the_libraries():
    probs, labels = made_up(300)
    m, said = ev.classification_metrics(probs, labels, CLASSES), probs.argmax(1)
    assert m["accuracy"] == sk.accuracy_score(labels, said)
    assert m["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, said))
    assert m["auroc"] == pytest.approx(sk.roc_auc_score(labels, probs[:, 1]))
    assert m["auprc"] == pytest.approx(sk.average_precision_score(labels, probs[:, 1]))
    assert [m["f1_normal"], m["f1_pneumonia"]] == pytest.approx(list(sk.f1_score(labels, said, average=None)))
    assert m["constant_accuracy"] == max(labels.mean(), 1 - labels.mean()) and m["n"] == 300
    for name, (low, high) in m["ci95"].items():
        assert low <= high and 0 <= low and high <= 1
        assert name == "ece" or low < m[name] < high  # a resample's ECE is biased upwards
    assert set(m["ci95"]) == set(m) - {"n", "ci95", "constant_accuracy"}


def test_ece_with_saturated_probabilities_equals_torchmetrics():
    rng = np.random.default_rng(0)
    p = rng.choice([0, 1e-9, 0.5, 0.6, 2 / 3, 1], 400).astype(np.float32)
    probs, labels = np.stack([1 - p, p], 1), rng.integers(0, 2, 400)
    index, confidence, hit = ev.calibration_bins(probs, labels)
    ours = np.abs(np.bincount(index, confidence - hit)).sum() / 400
    theirs = multiclass_calibration_error(torch.from_numpy(probs), torch.from_numpy(labels), num_classes=2, n_bins=15)
    assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_many_classes_are_scored_one_against_the_rest():
    probs, labels = made_up(200, 4, seed=2)
    m = ev.classification_metrics(probs, labels, tuple("abcd"), bootstrap=20)
    assert m["auroc"] == pytest.approx(sk.roc_auc_score(labels, probs, multi_class="ovr"), abs=1e-6)
    absent = ev.classification_metrics(probs[labels != 3], labels[labels != 3], tuple("abcd"), bootstrap=20)
    assert 0 < absent["auroc"] < 1 and absent["f1_d"] == 0


def test_unknown_labels_are_left_out():
    probs, labels = made_up(100)
    hidden = np.where(np.arange(100) % 3 == 0, -1, labels)
    groups = np.arange(100).astype(str)
    expected = ev.classification_metrics(probs[hidden >= 0], labels[hidden >= 0], CLASSES, groups=groups[hidden >= 0])
    assert ev.classification_metrics(probs, hidden, CLASSES, groups=groups) == expected


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_only_has_no_auroc_and_is_valid_json(only):
    probs, labels = made_up(50)
    m = ev.classification_metrics(probs[labels == only], labels[labels == only], CLASSES)
    assert m["auroc"] is None and m["auprc"] is None and m["ci95"]["auroc"] is None and m["constant_accuracy"] == 1
    assert json.loads(json.dumps(m, allow_nan=False)) == m


@pytest.mark.parametrize(("normal", "pneumonia", "always", "expected"), [(234, 390, 1, 0.625), (2754, 1431, 0, 0.6581)])
def test_the_constant_classifier_gains_nothing(normal, pneumonia, always, expected):
    labels = np.repeat([0, 1], [normal, pneumonia])
    m = ev.classification_metrics(np.eye(2)[np.full(len(labels), always)], labels, CLASSES, bootstrap=10)
    assert m["accuracy"] == m["constant_accuracy"] == pytest.approx(expected, abs=1e-4)
    assert m["balanced_accuracy"] == m["auroc"] == 0.5


BAD = {
    "softmax": lambda p, y: (np.log(p), y, CLASSES),
    "not finite": lambda p, y: (np.where(p > 0.5, np.nan, p), y, CLASSES),
    "labels": lambda p, y: (p, y[:-1], CLASSES),
    "-1..1": lambda p, y: (p, y + 1, CLASSES),
    "known label": lambda p, y: (p, np.full_like(y, -1), CLASSES),
    "one column": lambda p, y: (p, y, ("a", "b", "c")),
    "(N, K)": lambda p, y: (p[:, 1], y, CLASSES),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_classification_input_is_named(message):
    with pytest.raises(InputError) as error:
        ev.classification_metrics(*BAD[message](*made_up(40)))
    assert message in str(error.value) and "\n" not in str(error.value)


# the bootstrap


def test_resamples_are_seeded_and_complete():
    a, b = (next(ev.resamples(30, 40, seed=s)) for s in (1, 1))
    assert a.shape == (40, 30) and (a.sum(1) == 30).all() and (a == b).all()
    assert (a != next(ev.resamples(30, 40, seed=2))).any()


def test_resamples_come_in_blocks_for_large_sets():
    blocks = list(ev.resamples(1_500_000, 3))
    assert [len(b) for b in blocks] == [2, 1] and all((b.sum(1) == 1_500_000).all() for b in blocks)
    assert (blocks[0][0] != blocks[1][0]).any()


def test_patients_are_drawn_whole_and_nameless_images_alone():
    groups = ["ann", "", "ann", "bo", "", "ann"]
    weights = next(ev.resamples(6, 200, groups=groups))
    assert (weights[:, [2, 5]] == weights[:, [0]]).all()
    assert (weights[:, 1] != weights[:, 4]).any()
    assert (weights[:, [0, 1, 3, 4]].sum(1) == 4).all()  # four patients in every draw


def test_copies_of_a_patient_widen_the_interval():
    probs, labels = made_up(60, skill=2)
    probs, labels, groups = np.repeat(probs, 8, 0), np.repeat(labels, 8), np.repeat(np.arange(60), 8)
    width = [np.ptp(ev.classification_metrics(probs, labels, CLASSES, groups=g)["ci95"]["accuracy"]) for g in (None, groups)]
    assert width[1] > 2 * width[0]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(100):
        hits = (np.random.default_rng(seed).random(200) < 0.8).astype(float)
        low, high = ev.bootstrap_ci95(lambda w, hits=hits: {"a": w @ hits / 200}, 200, 400, seed)["a"]
        held += low <= 0.8 <= high
    assert 88 <= held <= 99


def test_the_interval_is_the_middle_95_percent_of_the_draws():
    assert ev.bootstrap_ci95(lambda w: {"rank": np.arange(len(w))}, 10, 1001) == {"rank": [25, 975]}
    holes = ev.bootstrap_ci95(
        lambda w: {"some": np.where(np.arange(len(w)) < 101, np.arange(len(w)), np.nan), "none": np.full(len(w), np.nan)}, 10, 1001
    )
    assert holes == {"some": [2.5, 97.5], "none": None}


def test_no_draws_no_intervals():
    assert ev.classification_metrics(*made_up(40), CLASSES, bootstrap=0)["ci95"] == {}
    assert ev.segmentation_metrics(blobs(), blobs(seed=1), bootstrap=0)["ci95"] == {}


# segmentation


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_jaccard_never_exceeds_dice(seed, said, true):
    "Erratum R1: 26 of the 96 rows printed for MultiMix have a Jaccard above their Dice."
    rng = np.random.default_rng(seed)
    masks, truth = rng.random((5, 2, 16, 16)) < said, rng.random((5, 2, 16, 16)) < true
    scores = ev.overlap_scores(masks, truth)
    assert (scores["jaccard"] <= scores["dice"]).all()
    np.testing.assert_allclose(scores["jaccard"], scores["dice"] / (2 - scores["dice"]))
    report = ev.segmentation_metrics(masks, truth, bootstrap=20)
    assert report["jaccard"] <= report["dice"] and all(report["ci95"]["jaccard"][i] <= report["ci95"]["dice"][i] for i in (0, 1))
    assert all(np.isfinite(report[name]) for name in report["ci95"])


def test_overlap_equals_sklearn():
    masks, truth = blobs(), blobs(seed=1)
    scores = ev.segmentation_scores(masks, truth)
    theirs = {"dice": sk.f1_score, "jaccard": sk.jaccard_score, "precision": sk.precision_score, "recall": sk.recall_score}
    for name, metric in theirs.items():
        np.testing.assert_allclose(scores[name], [metric(t.ravel(), m.ravel(), zero_division=0) for m, t in zip(masks, truth)])


def test_masks_of_numbers_and_of_truth_values_score_alike():
    masks, truth = blobs(), blobs(seed=1)
    assert all(
        (ev.overlap_scores(masks.astype(np.uint8), truth.astype(np.uint8))[k] == v).all()
        for k, v in ev.overlap_scores(masks, truth).items()
    )
    soft = np.where(masks, 0.7, 0.5).astype(np.float32)  # exactly at the threshold is outside, as sigmoid(0) would be
    assert ev.segmentation_metrics(soft, truth) == ev.segmentation_metrics(masks, truth)
    assert ev.segmentation_metrics(soft, truth, threshold=0.8)["dice"] == 0


EMPTY = np.zeros((1, 1, 24, 32), bool)


def test_empty_masks_have_defined_answers():
    some = EMPTY.copy()
    some[..., 5:15, 5:15] = True
    both, missed, invented = (ev.segmentation_metrics(a, b, bootstrap=5) for a, b in ((EMPTY, EMPTY), (EMPTY, some), (some, EMPTY)))
    overlap, distance = ("dice", "jaccard", "precision", "recall"), ("hd95", "assd")
    assert all(both[k] == 1 for k in (*overlap, "ssim")) and all(both[k] == 0 for k in distance)
    for m in (missed, invented):
        assert all(m[k] == 0 for k in overlap) and all(m[k] == 40 for k in distance)  # 24 x 32 pixels: the diagonal is 40


def border(mask):
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6))
def test_distances_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    mask, truth = (blobs(1, seed=int(s))[0, 0] | (rng.random((32, 32)) < 0.02) for s in rng.integers(0, 10**6, 2))
    between = cdist(border(mask), border(truth))
    there, back = between.min(1), between.min(0)
    hd95, assd = ev.distance_scores(mask, truth)
    assert hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert assd == pytest.approx((there.sum() + back.sum()) / (len(there) + len(back)))
    assert ev.distance_scores(truth, mask) == pytest.approx((hd95, assd))


def test_distances_of_shifted_squares_and_at_the_edge():
    square = np.zeros((40, 40), bool)
    square[10:20, 10:20] = True
    assert ev.distance_scores(square, square) == (0, 0)
    assert ev.distance_scores(np.roll(square, 7, 0), square)[0] == pytest.approx(7)
    whole, framed = np.ones((20, 20), bool), np.pad(np.ones((18, 18), bool), 1)
    there, back = ev.surface_distances(whole, framed)
    assert (
        len(there) == 76 and len(back) == 68 and (back == 1).all() and there.max() == pytest.approx(2**0.5)
    )  # the image's edge is a border


def test_channels_are_averaged_within_an_image():
    masks, truth = blobs(channels=2), blobs(seed=1, channels=2)
    both = ev.segmentation_scores(masks, truth)
    parts = [ev.segmentation_scores(masks[:, [c]], truth[:, [c]]) for c in (0, 1)]
    for name, values in both.items():
        np.testing.assert_allclose(values, (parts[0][name] + parts[1][name]) / 2, atol=1e-6)


def test_ssim_is_one_only_for_equal_masks_and_knows_no_batches():
    masks, truth = blobs(40), blobs(40, seed=1)
    np.testing.assert_allclose(ev.segmentation_scores(truth, truth)["ssim"], 1, atol=1e-6)
    ssim = ev.segmentation_scores(masks, truth)["ssim"]
    assert (ssim < 1).all()
    np.testing.assert_allclose(ssim[35:36], ev.segmentation_scores(masks[35:36], truth[35:36])["ssim"], atol=1e-6)


def test_segmentation_intervals_go_by_patient():
    masks, truth, groups = np.repeat(blobs(20), 6, 0), np.repeat(blobs(20, seed=1), 6, 0), np.repeat(np.arange(20), 6)
    width = [np.ptp(ev.segmentation_metrics(masks, truth, groups=g)["ci95"]["dice"]) for g in (None, groups)]
    assert width[1] > 1.8 * width[0]


@pytest.mark.parametrize(
    ("masks", "truth", "message"),
    [
        (blobs(3), blobs(4), "the same (N, M, H, W)"),
        (blobs(3)[:, 0], blobs(3)[:, 0], "(N, M, H, W)"),
        (blobs(3)[:0], blobs(3)[:0], "N > 0"),
        (blobs(3) * 4.0 - 2, blobs(3), "sigmoid"),
        (np.where(blobs(3), np.nan, 0), blobs(3), "[0, 1]"),
        (EMPTY[..., :8, :8], EMPTY[..., :8, :8], "16 x 16"),
    ],
)
def test_bad_masks_are_named(masks, truth, message):
    with pytest.raises(InputError) as error:
        ev.segmentation_metrics(masks, truth)
    assert message in str(error.value) and "\n" not in str(error.value)


# prediction


class Mean(nn.Module):
    "Logits from the mean grey value; masks from the image; dropout, a part that is frozen in eval mode, and a memory of its input."

    def __init__(self, masks=True):
        super().__init__()
        self.with_masks, self.scale, self.seen = masks, nn.Parameter(torch.tensor(4.0)), []
        self.dropout, self.frozen = nn.Dropout(0.5), nn.BatchNorm2d(1).eval()

    def forward(self, x):
        self.seen.append((x.dtype, float(x.min()), float(x.max()), self.training, torch.is_grad_enabled(), tuple(x.shape)))
        mean = self.scale * (self.dropout(x).mean((1, 2, 3)) - 0.5)
        return Outputs(torch.stack([-mean, mean], 1), (x - 0.5) * self.scale if self.with_masks else None, None)


def images(n=10, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)


def test_predict_sees_unit_range_in_batches_and_leaves_modes_alone():
    model = Mean().train()
    model.frozen.eval()
    modes = [m.training for m in model.modules()]
    found = ev.predict(model, images(), batch_size=4)
    assert [s[5][0] for s in model.seen] == [4, 4, 2]
    assert all(s[0] == torch.float32 and 0 <= s[1] and s[2] <= 1 and not s[3] and not s[4] for s in model.seen)
    assert max(s[2] for s in model.seen) == 1
    assert [m.training for m in model.modules()] == modes and True in modes and False in modes
    assert found.probs.shape == (10, 2) and found.masks.shape == (10, 1, 32, 32)
    assert found.probs.dtype == found.masks.dtype == np.float32
    np.testing.assert_allclose(found.probs.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.masks[:, 0], 1 / (1 + np.exp(-4 * (images() / 255 - 0.5))), rtol=1e-4)


def test_predict_gives_modes_back_after_a_failure():
    model = Mean().train()
    model.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        ev.predict(model, images())
    assert model.training and model.dropout.training


def test_predict_is_deterministic_and_leaves_gradients_and_images_alone():
    "Erratum E6: the released code kept dropout on at test time."
    torch.manual_seed(0)
    model, pictures = MultiMix(width=4).train(), images()
    pictures.flags.writeable = False
    model.encode(torch.zeros(2, 1, 32, 32)).logits.sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    a, b = ev.predict(model, pictures, batch_size=3), ev.predict(model, pictures, batch_size=10)
    np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)
    np.testing.assert_allclose(a.masks, b.masks, atol=1e-4)
    assert model.training and before and all((p.grad == before[name]).all() for name, p in model.named_parameters() if name in before)
    again = ev.predict(model, pictures, batch_size=3)
    assert (a.probs == again.probs).all() and (a.masks == again.masks).all()


def test_classes_alone_need_the_encoder_alone():
    torch.manual_seed(0)
    model = MultiMix(width=4)
    whole = ev.predict(model, images()).probs
    for part in ("decode", "saliency", "forward"):
        setattr(model, part, lambda *a, **k: pytest.fail("only the encoder should run"))
    found = ev.predict(model, images(), masks=False)
    assert found.masks is None
    np.testing.assert_allclose(found.probs, whole, atol=1e-5)


def test_models_without_masks_or_names_will_do():
    assert ev.predict(Mean(masks=False), images()).masks is None
    plain = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 3))
    assert ev.predict(plain, images()).probs.shape == (10, 3) and ev.predict(plain, images()).masks is None


@pytest.mark.parametrize("bad", [images().astype(np.float32), images()[0], images()[:0], images()[:, None], images().tolist()])
def test_bad_images_are_named(bad):
    with pytest.raises(InputError, match="uint8"):
        ev.predict(Mean(), bad)


# all test sets


def sets_to_test(**sets):
    full = ImageSet(
        images(12), [str(i) for i in range(12)], labels=np.arange(12) % 2, masks=blobs(12, 32).astype(np.uint8), classes=CLASSES
    )
    return MultiTaskData(tests={"in_domain": {"classification": full, "segmentation": full}, "cross_domain": sets}, classes=CLASSES)


def test_evaluate_gives_the_keys_of_results_json():
    results = ev.evaluate(
        Mean(), sets_to_test(classification=ImageSet(images(6), list("abcdef"), labels=np.arange(6) % 2, classes=CLASSES))
    )
    assert set(results) == {"in_domain", "cross_domain"} and set(results["cross_domain"]) == {"classification"}
    assert set(results["in_domain"]["classification"]) == {
        "accuracy",
        "balanced_accuracy",
        "auroc",
        "auprc",
        "f1_normal",
        "f1_pneumonia",
        "ece",
        "n",
        "constant_accuracy",
        "ci95",
    }
    assert set(results["in_domain"]["segmentation"]) == {"dice", "jaccard", "precision", "recall", "hd95", "assd", "ssim", "n", "ci95"}
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_evaluate_leaves_out_what_is_not_there():
    unlabelled = ImageSet(images(6), list("abcdef"), classes=CLASSES)
    results = ev.evaluate(Mean(masks=False), sets_to_test(classification=unlabelled, segmentation=unlabelled))
    assert {domain: set(tasks) for domain, tasks in results.items()} == {"in_domain": {"classification"}}
    assert set(ev.evaluate(Mean(), sets_to_test(), tasks=("segmentation",))["in_domain"]) == {"segmentation"}
    with pytest.raises(InputError, match="tasks"):
        ev.evaluate(Mean(), sets_to_test(), tasks=("segmenting",))


def test_predictions_spare_the_second_run_and_patients_set_the_intervals():
    data = sets_to_test()
    predictions = ev.predict_tests(Mean(), data)
    assert predictions["in_domain"]["classification"].masks is None and predictions["in_domain"]["segmentation"].masks is not None
    assert ev.evaluate(None, data, predictions=predictions) == ev.evaluate(Mean(), data)
    data.tests["in_domain"]["segmentation"].patients = np.repeat(["ann", "bo"], 6)
    by_patient = ev.evaluate(None, data, predictions=predictions)["in_domain"]["segmentation"]
    expected = ev.segmentation_metrics(
        predictions["in_domain"]["segmentation"].masks, data.tests["in_domain"]["segmentation"].masks, groups=["ann"] * 6 + ["bo"] * 6
    )
    assert by_patient == expected
