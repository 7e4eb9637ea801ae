"""The policies against slow and plain references, their ranges, their memory, and the faults of their users."""
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multimix.data import InputError
from multimix.losses import pseudo_label_loss
from multimix.pseudo_labels import (
    POLICIES,
    AdaMatch,
    Fixed,
    FlexMatch,
    FreeMatch,
    Policy,
    PseudoLabels,
    SoftMatch,
    align,
    fairness_loss,
    flexible_thresholds,
    gaussian_weights,
    make_policy,
)

POOL = 40
quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
each_policy = pytest.mark.parametrize("name", POLICIES)


def stream(seed, k, steps, n=12):
    "Batches that grow surer and lean to one class: (probs, index, labeled_probs), one a step."
    rng = torch.Generator().manual_seed(seed)
    lean = torch.randn(k, generator=rng)
    for step in range(steps):
        sharp = 0.5 + 6 * step / steps
        probs = (sharp * (torch.randn(n, k, generator=rng) + lean)).softmax(1)
        yield probs, torch.randperm(POOL, generator=rng)[:n], (sharp * 1.5 * torch.randn(5, k, generator=rng)).softmax(1)


def make(name, k=2, **settings_):
    return make_policy(name, num_classes=k, num_unlabeled=POOL, **settings_)


# references: plain Python, one image at a time


def largest(row):
    c = max(range(len(row)), key=lambda i: row[i])
    return row[c], c


def mean(rows):
    return [sum(column) / len(rows) for column in zip(*rows)]


def mix(old, new, m):
    return [m * a + (1 - m) * b for a, b in zip(old, new)]


def tilt(row, wanted, current):
    row = [p * w / c for p, w, c in zip(row, wanted, current)]
    return [p / sum(row) for p in row]


class Reference:
    "What each policy should answer: targets and weights."

    def __init__(self, k, threshold=0.8, momentum=0.9):
        self.k, self.threshold, self.m = k, threshold, momentum
        self.last = {}  # FlexMatch: image -> class
        self.confidence, self.variance = 1 / k, 1.0
        self.p, self.p_labeled = [1 / k] * k, [1 / k] * k

    def fixed(self, probs, index, labeled):
        return [(c, float(p >= self.threshold)) for p, c in map(largest, probs)]

    def flexmatch(self, probs, index, labeled):
        found = [sum(c == k for c in self.last.values()) for k in range(self.k)]
        beta = [f / max(*found, POOL - sum(found)) for f in found]
        limits = [self.threshold * b / (2 - b) for b in beta]
        for (p, c), i in zip(map(largest, probs), index):
            if p >= self.threshold:
                self.last[i] = c
        return [(c, float(p >= limits[c])) for p, c in map(largest, probs)]

    def freematch(self, probs, index, labeled):
        self.confidence = self.m * self.confidence + (1 - self.m) * sum(max(row) for row in probs) / len(probs)
        self.p = mix(self.p, mean(probs), self.m)
        limits = [self.confidence * p / max(self.p) for p in self.p]
        return [(c, float(p >= limits[c])) for p, c in map(largest, probs)]

    def softmatch(self, probs, index, labeled):
        self.p = mix(self.p, mean(probs), self.m)
        sure = [max(tilt(row, [1 / self.k] * self.k, self.p)) for row in probs]
        centre = sum(sure) / len(sure)
        spread = sum((s - centre) ** 2 for s in sure) / (len(sure) - 1)
        self.confidence = self.m * self.confidence + (1 - self.m) * centre
        self.variance = self.m * self.variance + (1 - self.m) * spread
        weights = [math.exp(-(min(s - self.confidence, 0) ** 2) / (2 * self.variance / 4)) for s in sure]
        return [(largest(row)[1], w) for row, w in zip(probs, weights)]

    def adamatch(self, probs, index, labeled):
        self.p, self.p_labeled = mix(self.p, mean(probs), self.m), mix(self.p_labeled, mean(labeled), self.m)
        limit = self.threshold * sum(max(row) for row in labeled) / len(labeled)
        return [(c, float(p >= limit)) for p, c in (largest(tilt(row, self.p_labeled, self.p)) for row in probs)]


@each_policy
@quick
@given(seed=seeds, k=st.integers(2, 5))
def test_a_policy_answers_like_its_plain_reference(name, seed, k):
    policy, reference = make(name, k, threshold=0.8, momentum=0.9).double(), Reference(k)
    for probs, index, labeled in stream(seed, k, 30):
        probs, labeled = probs.double(), labeled.double()
        answer = policy(probs, index=index, labeled_probs=labeled)
        targets, weights = zip(*getattr(reference, name)(probs.tolist(), index.tolist(), labeled.tolist()))
        assert answer.targets.tolist() == list(targets)
        assert torch.allclose(answer.weights.double(), torch.tensor(weights, dtype=torch.float64), atol=1e-6)


# what holds for all


@each_policy
@quick
@given(seed=seeds, k=st.integers(2, 5))
def test_weights_lie_in_0_1_and_targets_are_classes(name, seed, k):
    policy = make(name, k, momentum=0.9)
    for probs, index, labeled in stream(seed, k, 20):
        targets, weights, logs = policy(probs, index=index, labeled_probs=labeled)
        assert targets.dtype == torch.int64 and weights.dtype == torch.float32 and targets.shape == weights.shape == (len(probs),)
        assert ((weights >= 0) & (weights <= 1)).all() and ((targets >= 0) & (targets < k)).all()
        assert all(value.shape == () for value in logs.values())


@each_policy
@pytest.mark.parametrize("opposed", [False, True])
def test_extreme_probabilities_stay_finite(name, opposed):
    policy = make(name, momentum=0.5)
    for row in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]):
        for _ in range(200):  # long enough for a running mean to reach 0
            probs = torch.tensor([row] * 6)
            answer = policy(probs, index=torch.arange(6), labeled_probs=probs.flip(1) if opposed else probs)
            assert torch.isfinite(answer.weights).all()
            extra = policy.fairness(40 * probs, answer)
            assert extra is None or torch.isfinite(extra)
        assert all(torch.isfinite(value.float()).all() for value in policy.state_dict().values())


@each_policy
@pytest.mark.parametrize("n", [1, 2])
def test_tiny_batches_are_no_fault(name, n):
    answer = make(name)(torch.tensor([[0.9, 0.1]] * n), index=torch.arange(n), labeled_probs=torch.tensor([[0.6, 0.4]]))
    assert torch.isfinite(answer.weights).all() and answer.targets.tolist() == [0] * n


@each_policy
def test_a_checkpoint_goes_on_as_if_never_stopped(name):
    first, second, file = make(name, momentum=0.9), make(name, momentum=0.9), io.BytesIO()
    batches = list(stream(3, 2, 40))
    for probs, index, labeled in batches[:20]:
        first(probs, index=index, labeled_probs=labeled)
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for probs, index, labeled in batches[20:]:
        a, b = (policy(probs, index=index, labeled_probs=labeled) for policy in (first, second))
        assert torch.equal(a.targets, b.targets) and torch.equal(a.weights, b.weights)
        fair = [policy.fairness(4 * probs, a) for policy in (first, second)]
        assert fair[0] is fair[1] is None or torch.equal(*fair)


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "fixed"])
def test_a_checkpoint_is_needed(name):
    "Without its memory a policy answers otherwise, or remembers otherwise: so the test above tests something."
    first, fresh = make(name, momentum=0.9), make(name, momentum=0.9)
    for probs, index, labeled in stream(3, 2, 40):
        first(probs, index=index, labeled_probs=labeled)
    assert any(not torch.equal(a, b) for a, b in zip(first.state_dict().values(), fresh.state_dict().values()))


@each_policy
def test_policies_have_no_parameters_and_keep_no_graph(name):
    policy, strong = make(name), torch.zeros(4, 2, requires_grad=True)
    probs = torch.tensor([[0.9, 0.1]] * 4)
    labeled = torch.zeros(4, 2, requires_grad=True).softmax(1)
    for _ in range(2):
        answer = policy(probs, index=torch.arange(4), labeled_probs=labeled)
        loss = pseudo_label_loss(strong, answer.targets, answer.weights.detach())
        extra = policy.fairness(strong, answer)
        (loss if extra is None else loss + extra).backward()
    assert not list(policy.parameters()) and not any(value.requires_grad for value in policy.buffers())


def test_a_policy_moves_with_its_module():
    holder = torch.nn.ModuleList(make(name) for name in POLICIES).to(torch.float64)
    assert {value.dtype for value in holder.state_dict().values()} == {torch.float64, torch.int64}


# Fixed


@quick
@given(st.floats(0.5, 1), seeds)
def test_a_higher_fixed_threshold_never_keeps_more(threshold, seed):
    probs = next(stream(seed, 2, 1))[0]
    low, high = Fixed(threshold=threshold)(probs).weights, Fixed(threshold=min(1, threshold + 0.1))(probs).weights
    assert (high <= low).all()


def test_a_probability_at_the_threshold_is_kept():
    assert Fixed(threshold=0.75)(torch.tensor([[0.25, 0.75], [0.26, 0.74]])).weights.tolist() == [1, 0]


# FlexMatch


def test_flexmatch_thresholds_move_each_in_its_own_way():
    "The published threshold of BoostMIS never does."
    policy, seen = FlexMatch(num_unlabeled=POOL, threshold=0.8), []
    for probs, index, _ in stream(5, 2, 60):
        policy(probs, index=index)
        seen.append(policy.class_thresholds())
    seen = torch.stack(seen)
    assert (seen[0] < 0.1).all() and (seen >= 0).all() and (seen <= 0.8).all()
    assert (seen[-1].max() - 0.8).abs() < 1e-6 and seen[-1].min() < 0.79 and len(seen.unique()) > 20


def test_flexmatch_remembers_the_last_sure_class_of_each_image():
    policy = FlexMatch(num_unlabeled=3, threshold=0.9)
    policy(torch.tensor([[0.95, 0.05], [0.6, 0.4]]), index=torch.tensor([2, 0]))
    assert policy.selected.tolist() == [-1, -1, 0]
    policy(torch.tensor([[0.05, 0.95]]), index=torch.tensor([2]))
    assert policy.selected.tolist() == [-1, -1, 1]
    policy(torch.tensor([[0.6, 0.4]]), index=torch.tensor([2]))  # unsure: keeps what was
    assert policy.selected.tolist() == [-1, -1, 1]


def test_flexmatch_judges_by_the_thresholds_from_before_the_batch():
    policy = FlexMatch(num_unlabeled=2, threshold=0.9)
    first = policy(torch.tensor([[0.95, 0.05], [0.05, 0.95]]), index=torch.tensor([0, 1]))
    assert first.weights.tolist() == [1, 1] and first.logs["threshold"] == 0
    assert policy(torch.tensor([[0.6, 0.4]]), index=torch.tensor([0])).weights.tolist() == [0]


@quick
@given(st.lists(st.integers(-1, 2), min_size=1, max_size=50))
def test_the_most_learnt_class_has_the_highest_threshold(selected):
    limits = flexible_thresholds(torch.tensor(selected), 3, 0.95)
    counts = torch.tensor([selected.count(c) for c in range(3)])
    assert torch.equal(limits.argsort(stable=True), counts.argsort(stable=True))
    assert torch.isclose(limits.max(), torch.tensor(0.95)) == (counts.max() >= selected.count(-1))


# FreeMatch


def test_freematch_thresholds_follow_the_confidence():
    policy = FreeMatch(momentum=0.9)
    for _ in range(100):
        policy(torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    assert torch.allclose(policy.class_thresholds(), torch.tensor([0.85, 0.85 * 0.45 / 0.55]), atol=1e-4)
    assert torch.allclose(policy.histogram, torch.tensor([0.5, 0.5]))


@quick
@given(st.integers(1, 20), st.integers(2, 5), seeds, st.sampled_from([0.1, 3.0, 100.0]))
def test_fairness_is_finite_with_a_finite_gradient(n, k, seed, scale):
    rng = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(n, k, generator=rng)).requires_grad_()
    loss = fairness_loss(logits, torch.rand(k, generator=rng).softmax(0), torch.rand(k, generator=rng).softmax(0))
    loss.backward()
    assert torch.isfinite(loss) and loss <= 1e-6 and torch.isfinite(logits.grad).all()


def test_fairness_is_the_formula_of_the_paper():
    logits, p, h = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.5]]), torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.8])
    probs = logits.softmax(1).tolist()
    a = [0.3 / 0.2, 0.7 / 0.8]
    b = [sum(row[0] for row in probs) / 3 / (2 / 3), sum(row[1] for row in probs) / 3 / (1 / 3)]
    a, b = ([x / sum(v) for x in v] for v in (a, b))
    assert math.isclose(fairness_loss(logits, p, h), sum(x * math.log(y) for x, y in zip(a, b)), abs_tol=1e-6)


def test_fairness_leaves_a_class_without_predictions_out():
    "As the reference code does; a tiny number in its place would make the absent class rule the loss."
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = fairness_loss(logits, torch.tensor([0.3, 0.7]), torch.tensor([0.2, 0.8]))
    loss.backward()
    assert loss.abs() < 1e-6 and logits.grad.abs().max() < 1e-6


def test_fairness_sees_the_kept_images_only():
    policy, logits = FreeMatch(), torch.tensor([[2.0, 0.0], [0.0, 1.0], [9.0, 0.0], [0.0, 9.0]], requires_grad=True)
    keep = PseudoLabels(torch.zeros(4, dtype=torch.long), torch.tensor([1.0, 1, 0, 0]), {})
    policy.fairness(logits, keep).backward()
    assert logits.grad[:2].any() and not logits.grad[2:].any()
    assert policy.fairness(logits, keep._replace(weights=torch.zeros(4))) is None


# SoftMatch


@quick
@given(seeds, st.floats(0.2, 1), st.floats(1e-4, 1))
def test_gaussian_weights_rise_to_1_at_the_mean(seed, centre, variance):
    c = torch.rand(50, generator=torch.Generator().manual_seed(seed)).sort().values
    weights = gaussian_weights(c, torch.tensor(centre), torch.tensor(variance))
    assert (weights.diff() >= 0).all() and ((weights >= 0) & (weights <= 1)).all() and (weights[c >= centre] == 1).all()


def test_softmatch_weighs_by_aligned_and_labels_by_raw_probabilities():
    policy = SoftMatch(momentum=0.5)
    pool = torch.tensor([[0.1, 0.9]] * 9 + [[0.45, 0.55]])
    for _ in range(30):
        answer = policy(pool)
    assert answer.targets[-1] == 1, "the raw probability says 1, the aligned one says 0"
    assert align(pool, policy.class_probs, 0.5)[-1].argmax() == 0
    assert answer.weights[-1] == 1 > answer.weights[0]


# AdaMatch and alignment


@quick
@given(st.integers(1, 20), st.integers(2, 5), seeds)
def test_aligned_rows_are_distributions_and_equal_means_change_nothing(n, k, seed):
    rng = torch.Generator().manual_seed(seed)
    probs, current, wanted = (torch.randn(size, generator=rng).softmax(-1) for size in ((n, k), (k,), (k,)))
    aligned = align(probs, current, wanted)
    assert torch.allclose(aligned.sum(1), torch.ones(n), atol=1e-5) and (aligned >= 0).all()
    assert torch.allclose(align(probs, current, current), probs, atol=1e-5)
    ratio = (aligned[:, 0] / aligned[:, 1]) / (probs[:, 0] / probs[:, 1])
    assert torch.allclose(ratio, (wanted / current)[0] / (wanted / current)[1], rtol=1e-3)


def test_adamatch_is_relative_to_the_confidence_on_labelled_images():
    probs = torch.tensor([[0.72, 0.28], [0.28, 0.72], [0.62, 0.38], [0.38, 0.62]])  # balanced: alignment changes nothing
    for sure, kept in ((0.7, [1, 1, 0, 0]), (0.9, [0, 0, 0, 0]), (0.6, [1, 1, 1, 1])):
        labeled = torch.tensor([[sure, 1 - sure], [1 - sure, sure]])
        assert AdaMatch(threshold=0.95)(probs, labeled_probs=labeled).weights.tolist() == kept


def test_adamatch_with_balanced_labels_relabels_an_unbalanced_pool():
    "The trap: what is labelled 50 : 50 by design tilts a pool of 26 : 74."
    pool, even = torch.tensor([[0.95, 0.05]] * 5 + [[0.05, 0.95]] * 13 + [[0.4, 0.6]] * 2), torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    like_pool = pool.mean(0, keepdim=True)
    answers = []
    for labeled in (even, like_pool):
        policy = AdaMatch(momentum=0.5)
        for _ in range(40):
            answer = policy(pool, labeled_probs=labeled)
        answers.append(answer.targets)
    assert answers[0].bincount().tolist() == [7, 13] and torch.equal(answers[1], pool.argmax(1))


# faults


def test_an_unknown_policy_is_named():
    with pytest.raises(InputError, match="'lenient' is unknown: choose one of fixed, flexmatch"):
        make_policy("lenient")


@pytest.mark.parametrize("n", [0, -3])
def test_flexmatch_asks_for_the_size_of_the_pool(n):
    with pytest.raises(InputError, match=f"num_unlabeled is {n}"):
        make_policy("flexmatch", num_unlabeled=n)


@pytest.mark.parametrize("setting", ["threshold", "momentum"])
@pytest.mark.parametrize("value", [95, -0.1, float("nan")])
def test_fractions_are_checked(setting, value):
    users = ("fixed", "flexmatch", "adamatch") if setting == "threshold" else ("freematch", "softmatch", "adamatch")
    for name in users:
        with pytest.raises(InputError, match=f"{setting} is"):
            make(name, **{setting: value})


@pytest.mark.parametrize("name, missing", [("flexmatch", "index"), ("adamatch", "labeled_probs")])
def test_what_a_policy_needs_is_asked_for(name, missing):
    with pytest.raises(InputError, match=f"{missing} is missing"):
        make(name)(torch.tensor([[0.5, 0.5]]))


@each_policy
def test_settings_of_other_policies_are_ignored(name):
    everything = dict(num_classes=3, num_unlabeled=5, threshold=0.9, momentum=0.9, sigmas=1.0, fairness_weight=0.1)
    assert isinstance(make_policy(name, **everything), Policy)
