"""Statistics against known answers: scipy, hand-computed Holm, coverage in simulated worlds, and null worlds that stay quiet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from multimix import comparisons as cp
from multimix.data import InputError

few = settings(max_examples=60, deadline=None)
numbers = st.lists(st.floats(-1, 1).map(lambda v: round(v, 6)), min_size=2, max_size=40).map(np.array)
p_values = st.lists(st.floats(1e-6, 1), min_size=1, max_size=30).map(np.array)


@pytest.mark.parametrize(("p", "corrected"), [
    ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # by hand: .005 x 4, .01 x 3, .03 x 2, and .04 x 1 is held up to .06
    ([0.05], [0.05]),
    ([0.5, 0.6, 0.9], [1, 1, 1]),
    ([0.01, np.nan, 0.02], [0.02, np.nan, 0.02]),  # a test without a value is no member of the family
])
def test_holm_as_by_hand(p, corrected):
    assert np.allclose(cp.holm(p), corrected, equal_nan=True)


@few
@given(p_values)
def test_holm_lies_between_uncorrected_and_bonferroni_and_keeps_the_order(p):
    corrected = cp.holm(p)
    assert (corrected >= p - 1e-15).all() and (corrected <= np.minimum(p * len(p), 1) + 1e-15).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= -1e-15).all()


@settings(max_examples=15, deadline=None)  # scipy tries all signs of a few tied pairs, which takes its time
@given(numbers)
def test_paired_tests_agree_with_scipy_and_turn_round_with_the_signs(difference):
    ours, turned = cp.paired_tests(difference), cp.paired_tests(-difference)
    if difference.any():
        assert ours["wilcoxon"] == stats.wilcoxon(difference).pvalue
    assert np.isclose(ours["wilcoxon"], turned["wilcoxon"]) and -1 <= ours["rank_biserial"] <= 1
    assert np.isclose(ours["rank_biserial"], -turned["rank_biserial"], atol=1e-12)
    assert np.isclose(ours["d_z"], -turned["d_z"], equal_nan=True)


def test_effect_sizes_as_by_hand():
    difference = np.array([1.0, 2, -3, 4])  # ranks 1 2 3 4: in favour 7, against 3
    found = cp.paired_tests(difference)
    assert found["rank_biserial"] == pytest.approx(0.4)
    assert found["d_z"] == pytest.approx(1 / np.std(difference, ddof=1))
    nothing = cp.paired_tests(np.zeros(5))
    assert nothing["wilcoxon"] == 1 and nothing["rank_biserial"] == 0 and np.isnan(nothing["d_z"])
    assert cp.smallest_p(5) == stats.wilcoxon([1.0, 2, 3, 4, 5]).pvalue


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.array([]), np.array([1.0, np.nan])])
def test_differences_that_are_none_are_refused(bad):
    with pytest.raises(InputError, match="difference"):
        cp.paired_tests(bad)


@pytest.mark.parametrize(("values", "draws"), [
    (np.zeros(3), np.zeros((2, 9))), (np.zeros((3, 1)), np.zeros((3, 9))), ([], np.zeros((0, 9)))])
def test_seeds_that_do_not_fit_are_refused(values, draws):
    with pytest.raises(InputError, match="same S seeds"):
        cp.two_level(values, draws)


def test_without_images_the_interval_is_students():
    values = np.array([0.1, 0.2, 0.25, 0.3, 0.5])
    low, high = cp.interval95(cp.two_level(values, np.repeat(values[:, None], 200_000, 1)))
    t = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert np.allclose((low, high), t, atol=0.006)


def test_with_one_seed_only_the_images_are_drawn():
    draws = np.random.default_rng(0).normal(size=(1, 500))
    assert np.array_equal(cp.two_level([0.3], draws), draws[0])


def world(rng, gain, seeds, seed_sd=0.01, images=60):
    "Differences of a pair of methods: the mean of each seed, and that on 300 draws of the images."
    d = gain + seed_sd * rng.standard_normal((seeds, 1)) + 0.03 * rng.standard_normal(images) + 0.02 * rng.standard_normal((seeds, images))
    weights = rng.multinomial(images, np.full(images, 1 / images), 300) / images
    return d.mean(1), d @ weights.T


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_intervals_hold_the_truth(seeds):
    rng = np.random.default_rng(seeds)
    held = [low <= 0.01 <= high for low, high in (cp.interval95(cp.two_level(*world(rng, 0.01, seeds))) for _ in range(400))]
    assert 0.92 <= np.mean(held) <= 0.995


def test_equal_methods_are_not_distinguishable():
    rng = np.random.default_rng(1)
    p = np.array([cp.bootstrap_p(cp.two_level(*world(rng, 0, 5))) for _ in range(400)])
    assert (p < 0.05).mean() < 0.075
    assert cp.verdict("a", "b", 0.001, float(np.median(p)), 0.5, 5) == "not distinguishable"


def test_a_real_gain_is_found_with_enough_seeds():
    rng = np.random.default_rng(2)
    assert np.mean([cp.bootstrap_p(cp.two_level(*world(rng, 0.04, 5))) < 0.05 for _ in range(100)]) > 0.9


@few
@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(1, 9), st.floats(-1, 1))
def test_every_verdict_is_a_sentence_that_fits(p, wilcoxon, seeds, difference):
    said = cp.verdict("ours", "theirs", difference, p, wilcoxon, seeds)
    assert said.startswith("not distinguishable") == (seeds == 1 or p >= 0.05)
    if not said.startswith("not"):
        assert said.startswith("ours above theirs" if difference > 0 else "theirs above ours")


def test_a_metric_without_value_says_so():
    nothing = np.full(20, np.nan)
    assert np.isnan(cp.bootstrap_p(nothing)) and np.isnan(cp.interval95(nothing)).all()
    assert cp.verdict("a", "b", np.nan, np.nan, np.nan, 3).startswith("no value")
    assert cp.interval95(np.linspace(-3, 3, 99), 0, 1) == (0, 1)


@few
@given(st.lists(st.floats(-1, 1), min_size=5, max_size=200).map(np.array))
def test_p_is_a_share_and_the_same_for_both_signs(draws):
    p = cp.bootstrap_p(draws)
    assert 0 < p <= 1 and np.isclose(p, cp.bootstrap_p(-draws))
