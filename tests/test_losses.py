"""The terms of the loss: ranges, gradients, the pinned erratum, and what a term declares to read."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from multimix import losses
from multimix.data import InputError
from multimix.losses import (
    CLS_LABELED,
    CONSISTENCIES,
    SEG_LABELED,
    SEG_UNLABELED,
    CrossEntropy,
    DiceTerm,
    Prediction,
    PseudoLabel,
    SegConsistency,
    Term,
    ViewKey,
    batch_mean_mask_kl,
    bernoulli_kl,
    dice_loss,
    pixel_mask_kl,
    pseudo_label_loss,
    softmax_mask_kl,
)
from multimix.pseudo_labels import PseudoLabels, make_policy

POLICIES = ("fixed", "flexmatch", "freematch", "softmatch", "adamatch")
quick = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
scales = st.sampled_from([0.0, 0.1, 1.0, 10.0, 1000.0])


def maps(shape, seed, scale=3.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def binary(shape, seed):
    return (maps(shape, seed) > 0).float()


# Dice


@quick
@given(shapes, seeds, scales, st.sampled_from([0.01, 1.0, 100.0]))
def test_dice_lies_between_0_and_1(shape, seed, scale, smooth):
    loss = dice_loss(maps(shape, seed, scale), binary(shape, seed + 1), smooth)
    assert -1e-6 <= loss <= 1 + 1e-6


@quick
@given(shapes, seeds)
def test_dice_of_the_truth_is_0_and_of_its_opposite_near_1(shape, seed):
    masks = binary(shape, seed)
    assert dice_loss(200 * masks - 100, masks) < 1e-6
    area = shape[2] * shape[3]
    assert torch.isclose(dice_loss(100 - 200 * masks, masks), torch.tensor(1 - 1 / (area + 1.0)), atol=1e-5)


@quick
@given(shapes, seeds, st.sampled_from([0.5, 1.0, 20.0]))
def test_dice_is_the_mean_of_what_is_counted_image_by_image(shape, seed, smooth):
    logits, masks = maps(shape, seed), binary(shape, seed + 1)
    by_hand = []
    for z, y in zip(logits.flatten(0, 1).double(), masks.flatten(0, 1).double()):
        p = 1 / (1 + (-z).exp())
        by_hand.append(1 - (2 * float((p * y).sum()) + smooth) / (float(p.sum()) + float(y.sum()) + smooth))
    assert math.isclose(dice_loss(logits, masks, smooth), sum(by_hand) / len(by_hand), abs_tol=1e-5)


def test_dice_on_an_empty_mask_is_defined_and_falls_as_less_is_claimed():
    empty = torch.zeros(2, 1, 8, 8)
    losses_ = [dice_loss(empty + z, empty).item() for z in (5.0, 0.0, -5.0, -100.0)]
    assert losses_ == sorted(losses_, reverse=True) and losses_[-1] == 0
    logits = (empty - 3).requires_grad_()
    dice_loss(logits, empty).backward()
    assert (logits.grad > 0).all()


def test_dice_pulls_every_pixel_toward_its_truth():
    masks = binary((3, 2, 6, 6), 0)
    logits = torch.zeros_like(masks, requires_grad=True)
    dice_loss(logits, masks).backward()
    assert torch.equal(logits.grad < 0, masks > 0) and torch.equal(logits.grad > 0, masks == 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dice_counts_in_float32_when_the_network_does_not(dtype):
    masks = torch.ones(1, 1, 300, 300)  # 90,000 pixels: no half precision can count them
    assert torch.isclose(dice_loss((masks * 8).to(dtype), masks), dice_loss(masks * 8, masks), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 2, 8, 8), (1, 1, 8, 8), (4, 1, 8, 1)])
def test_dice_refuses_masks_that_torch_would_stretch(shape):
    with pytest.raises(InputError, match=r"masks has the shape .*\(4, 1, 8, 8\)"):
        dice_loss(torch.zeros(4, 1, 8, 8), torch.zeros(shape))


# pseudo-label loss


@quick
@given(st.integers(1, 20), st.integers(2, 5), seeds)
def test_images_left_out_count_in_the_mean(n, k, seed):
    logits = maps((n, k), seed).requires_grad_()
    targets = maps((n, k), seed + 1).argmax(1)
    weights = binary((n,), seed + 2)
    loss = pseudo_label_loss(logits, targets, weights)
    by_hand = sum(-logits[i].log_softmax(0)[targets[i]] for i in range(n) if weights[i]) / n
    assert torch.isclose(loss, torch.as_tensor(by_hand, dtype=torch.float32), atol=1e-5)
    loss.backward()
    assert not logits.grad[weights == 0].any()


@quick
@given(st.integers(1, 20), st.integers(2, 5), seeds)
def test_hard_targets_are_soft_targets_with_one_peak(n, k, seed):
    logits, targets = maps((n, k), seed), maps((n, k), seed + 1).argmax(1)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    soft = pseudo_label_loss(logits, F.one_hot(targets, k).float(), weights)
    assert torch.isclose(pseudo_label_loss(logits, targets, weights), soft, atol=1e-5)


def test_nothing_kept_is_zero_with_a_zero_gradient():
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = pseudo_label_loss(logits, torch.zeros(6, dtype=torch.long), torch.zeros(6))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_pseudo_label_loss_refuses_weights_that_torch_would_stretch():
    with pytest.raises(InputError, match="weights has the shape"):
        pseudo_label_loss(torch.zeros(6, 2), torch.zeros(6, dtype=torch.long), torch.zeros(6, 1))


# consistency


@quick
@given(st.integers(1, 4), st.integers(1, 9), seeds, scales, scales)
def test_released_consistency_of_one_channel_is_zero_with_zero_gradient(n, side, seed, scale, other):
    "Erratum E4: a softmax over one channel is the constant 1."
    labeled, unlabeled = maps((n, 1, side, side), seed, scale).requires_grad_(), maps((n, 1, side, side), seed + 1, other).requires_grad_()
    loss = softmax_mask_kl(labeled, unlabeled)
    loss.backward()
    assert loss == 0 and not labeled.grad.any() and not unlabeled.grad.any()


def test_released_consistency_of_two_channels_is_the_categorical_kl():
    labeled, unlabeled = maps((3, 2, 5, 5), 0), maps((3, 2, 5, 5), 1)
    p, q = (torch.distributions.Categorical(logits=x.movedim(1, -1)) for x in (labeled, unlabeled))
    expected = torch.distributions.kl_divergence(p, q).mean() / 2  # the released mean counts the two channels too
    assert torch.isclose(softmax_mask_kl(labeled, unlabeled), expected, atol=1e-6) and expected > 0.1


@quick
@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_bernoulli_kl_is_that_of_torch(p, q):
    p, q = torch.tensor(p, dtype=torch.float64), torch.tensor(q, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(torch.distributions.Bernoulli(p), torch.distributions.Bernoulli(q))
    assert torch.isclose(bernoulli_kl(p, q), expected, atol=1e-9)
    assert bernoulli_kl(p, p) == 0


def test_bernoulli_kl_of_opposite_certainties_is_finite():
    p = torch.tensor([0.0, 1.0])
    assert torch.allclose(bernoulli_kl(p, 1 - p), torch.full((2,), -math.log(1e-6)), rtol=0.01)


@quick
@given(shapes, seeds, scales)
def test_consistencies_are_never_negative(shape, seed, scale):
    for kl in CONSISTENCIES.values():
        assert kl(maps(shape, seed, scale), maps(shape, seed + 1, scale)) >= -1e-6


@quick
@given(shapes, seeds)
def test_batch_mean_is_zero_for_equal_means_whatever_the_order(shape, seed):
    labeled = maps(shape, seed)
    assert batch_mean_mask_kl(labeled, labeled.flip(0)).abs() < 1e-6
    assert batch_mean_mask_kl(labeled, torch.cat([labeled, labeled])).abs() < 1e-6


def test_batch_mean_pulls_the_unlabelled_side_only():
    labeled, unlabeled = maps((4, 1, 6, 6), 0).requires_grad_(), maps((5, 1, 6, 6), 1).requires_grad_()
    batch_mean_mask_kl(labeled, unlabeled).backward()
    assert labeled.grad is None
    assert torch.isfinite(unlabeled.grad).all() and (unlabeled.grad.abs().sum((1, 2, 3)) > 0).all()


def test_batch_mean_pulls_the_mean_toward_the_labelled_one():
    labeled, unlabeled = maps((4, 1, 6, 6), 0), maps((5, 1, 6, 6), 1).requires_grad_()
    (slope,) = torch.autograd.grad(batch_mean_mask_kl(labeled, unlabeled), unlabeled)
    assert batch_mean_mask_kl(labeled, unlabeled - 5 * slope) < batch_mean_mask_kl(labeled, unlabeled)
    lower = unlabeled.sigmoid().mean(0) < labeled.sigmoid().mean(0)
    assert torch.equal(slope < 0, lower.expand_as(slope))


def test_pixel_consistency_compares_strangers():
    labeled, unlabeled = maps((4, 1, 6, 6), 0).requires_grad_(), maps((6, 1, 6, 6), 1).requires_grad_()
    loss = pixel_mask_kl(labeled, unlabeled)
    p, q = (torch.distributions.Bernoulli(logits=x) for x in (labeled, unlabeled[:4]))
    assert torch.isclose(loss, torch.distributions.kl_divergence(p, q).mean(), atol=1e-5)
    assert not torch.isclose(loss, pixel_mask_kl(labeled, unlabeled[:4].flip(0)), atol=1e-3)
    loss.backward()
    assert labeled.grad.any() and not unlabeled.grad[4:].any()


@pytest.mark.parametrize("kind", CONSISTENCIES)
@pytest.mark.parametrize("shape", [(3, 2, 6, 6), (3, 1, 6, 1), (3, 6, 6)])
def test_consistencies_refuse_maps_that_torch_would_stretch(kind, shape):
    with pytest.raises(InputError, match="unlabeled has the shape"):
        CONSISTENCIES[kind](torch.zeros(3, 1, 6, 6), torch.zeros(shape))


@pytest.mark.parametrize("kind", CONSISTENCIES)
def test_consistencies_take_batches_of_different_length(kind):
    assert torch.isfinite(CONSISTENCIES[kind](maps((4, 1, 6, 6), 0), maps((7, 1, 6, 6), 1)))


# terms

WEAK, STRONG = ViewKey("cls_unlabeled", "weak"), ViewKey("cls_unlabeled", "strong")


def make_views(seed=0, n=8, k=2):
    "Every view that the paper's terms may read, with all that is known of it."
    return {
        CLS_LABELED: Prediction(logits=maps((n, k), seed).requires_grad_(), labels=torch.arange(n) % k),
        WEAK: Prediction(teacher=maps((n, k), seed + 1).requires_grad_(), index=torch.arange(n)),
        STRONG: Prediction(logits=maps((n, k), seed + 2).requires_grad_()),
        SEG_LABELED: Prediction(masks=maps((n, 1, 6, 6), seed + 3).requires_grad_(), targets=binary((n, 1, 6, 6), seed + 4)),
        SEG_UNLABELED: Prediction(masks=maps((n, 1, 6, 6), seed + 5).requires_grad_()),
    }


TERMS = {
    "ce": CrossEntropy,
    "dice": DiceTerm,
    "consistency": SegConsistency,
    **{f"pseudo, {p}": (lambda p=p: PseudoLabel(make_policy(p, num_unlabeled=8))) for p in POLICIES},
}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_runs_on_the_views_it_declares_and_no_others(name):
    term, views = TERMS[name](), make_views()
    declared = {*term.reads_logits, *term.reads_masks, *term.reads_teacher}
    loss, logs = term({key: views[key] for key in declared})
    assert loss.shape == () and torch.isfinite(loss) and loss.requires_grad
    assert all(torch.as_tensor(value).shape == () and not torch.as_tensor(value).requires_grad for value in logs.values())
    loss.backward()
    assert views[WEAK].teacher.grad is None


def test_supervised_terms_are_their_formulas():
    views = make_views()
    loss, logs = CrossEntropy()(views)
    assert torch.isclose(loss, F.cross_entropy(views[CLS_LABELED].logits, views[CLS_LABELED].labels))
    assert logs["train_accuracy"] == (views[CLS_LABELED].logits.argmax(1) == views[CLS_LABELED].labels).float().mean()
    assert torch.equal(DiceTerm()(views)[0], dice_loss(views[SEG_LABELED].masks, views[SEG_LABELED].targets))


def test_cross_entropy_of_two_views_is_the_mean_of_both():
    views, strong = make_views(), ViewKey("cls_labeled", "strong")
    views[strong] = Prediction(logits=-views[CLS_LABELED].logits.detach(), labels=views[CLS_LABELED].labels)
    both, apart = CrossEntropy(CLS_LABELED, strong), [CrossEntropy(key)(views)[0] for key in (CLS_LABELED, strong)]
    assert both.reads_logits == (CLS_LABELED, strong)
    assert torch.isclose(both(views)[0], sum(apart) / 2) and not torch.isclose(*apart)


def test_weights_of_the_paper_are_the_defaults():
    assert (DiceTerm().weight, SegConsistency().weight, CrossEntropy().weight) == (5.0, 0.01, 1.0)


class Told(nn.Module):
    "A policy that keeps what it is told to keep, and adds what it is told to add."

    def __init__(self, keep, extra=None):
        super().__init__()
        self.keep, self.extra, self.seen = keep, extra, None

    def forward(self, probs, index=None, labeled_probs=None):
        self.seen = probs, index, labeled_probs
        return PseudoLabels(probs.argmax(1), self.keep, {"mine": torch.tensor(7.0)})

    def fairness(self, strong_logits, pseudo):
        return None if self.extra is None else self.extra * strong_logits.sum()


def test_pseudo_label_term_hands_over_probabilities_and_pulls_only_what_is_kept():
    keep, views = torch.tensor([1.0, 0, 0.5, 0, 0, 0, 0, 1]), make_views()
    policy = Told(keep)
    loss, logs = PseudoLabel(policy)(views)
    probs, index, labeled = policy.seen
    assert torch.equal(probs, views[WEAK].teacher.softmax(1)) and torch.equal(index, views[WEAK].index)
    assert torch.equal(labeled, views[CLS_LABELED].logits.softmax(1)) and not labeled.requires_grad and not probs.requires_grad
    assert torch.isclose(loss, pseudo_label_loss(views[STRONG].logits, views[WEAK].teacher.argmax(1), keep))
    assert logs["kept"] == keep.mean() and logs["mine"] == 7 and torch.isclose(logs["confidence"], probs.amax(1).mean())
    loss.backward()
    assert torch.equal(views[STRONG].logits.grad.any(1), keep > 0) and views[CLS_LABELED].logits.grad is None


def test_pseudo_label_term_adds_the_fairness_of_its_policy():
    keep, views = torch.ones(8), make_views()
    plain, fair = (PseudoLabel(Told(keep, extra))(views)[0] for extra in (None, 0.25))
    assert torch.isclose(fair, plain + 0.25 * views[STRONG].logits.sum())


def test_the_state_of_a_policy_is_part_of_its_term():
    terms = nn.ModuleList([CrossEntropy(), PseudoLabel(make_policy("flexmatch", num_unlabeled=8))])
    assert list(terms.state_dict()) == ["1.policy.selected"]


def test_an_unknown_consistency_is_named():
    with pytest.raises(InputError, match="'kl' is unknown.*released, pixel, batch_mean"):
        SegConsistency("kl")


def test_a_new_term_needs_ten_lines():
    class Entropy(Term):
        name = "entropy"

        def __init__(self, weight=0.1):
            super().__init__(weight)
            self.reads_logits = (STRONG,)

        def forward(self, views):
            log_p = views[STRONG].logits.log_softmax(1)
            return -(log_p.exp() * log_p).sum(1).mean(), {}

    views = make_views()
    loss, _ = Entropy()(views)
    assert 0 < loss <= math.log(2) and not Entropy().state_dict()
    (slope,) = torch.autograd.grad(loss, views[STRONG].logits)
    views[STRONG].logits = views[STRONG].logits - slope
    assert Entropy()(views)[0] < loss


def test_everything_public_says_what_it_is():
    assert [name for name in losses.__all__ if callable(getattr(losses, name)) and not getattr(losses, name).__doc__] == []
