"""Mean Teacher and cross pseudo supervision: small cases by hand, who learns from whom, the ramp, and a second network in a run."""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config, tiny_data

from multimix import more_terms
from multimix.data import InputError
from multimix.losses import SEG_LABELED, SEG_UNLABELED, Prediction, Term, ViewKey
from multimix.methods import add_noise, make_peer, make_terms
from multimix.more_terms import CrossPseudo, MeanTeacher, PeerDice, Ramped, cross_loss, ramp, teacher_loss
from multimix.step import Trainer, keys_read, make_views, step_loss, train_step

quick = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31 - 1)
NOISY = ViewKey("seg_unlabeled", "noisy")
METHODS = ("mean_teacher", "cps", "multimix_mt", "multimix_cps")
pytestmark = pytest.mark.usefixtures("seeded_weights")


def maps(seed, n=3, scale=3.0):
    return (scale * torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def changed(before: dict, module) -> bool:
    return any(not torch.equal(v, before[k]) for k, v in module.state_dict().items())


def kept(module) -> dict:
    return {k: v.clone() for k, v in module.state_dict().items()}


# by hand


def test_teacher_loss_by_hand():
    student, teacher = torch.tensor([0.0, math.log(3)]).reshape(1, 1, 1, 2), torch.tensor([0.0, -math.log(3)]).reshape(1, 1, 1, 2)
    assert teacher_loss(student, teacher).item() == pytest.approx((0 + 0.5**2) / 2)  # probabilities ½, ¾ and ½, ¼
    assert teacher_loss(student, student) == 0


def test_cross_loss_by_hand():
    "One is lung at ¾, the other not at ¼: each pays -ln ¼ for what the other says."
    one, other = (torch.full((1, 1, 1, 1), sign * math.log(3)) for sign in (1, -1))
    assert cross_loss(one, other).item() == pytest.approx(-2 * math.log(0.25))
    assert cross_loss(one, one).item() == pytest.approx(-2 * math.log(0.75))


@quick
@given(seeds)
def test_cross_loss_is_the_cross_entropy_of_two_classes(seed):
    "As in the paper, which has a softmax over classes: background with logit 0, and the structure."
    one, other = maps(seed), maps(seed + 1)
    pair, rival = (torch.cat([torch.zeros_like(z), z], 1) for z in (one, other))
    expected = F.cross_entropy(pair, rival.argmax(1)) + F.cross_entropy(rival, pair.argmax(1))
    assert torch.isclose(cross_loss(one, other), expected, atol=1e-5) and torch.isclose(cross_loss(other, one), expected, atol=1e-5)


@pytest.mark.parametrize("loss, named", [(teacher_loss, "teacher"), (cross_loss, "other")])
def test_shapes_that_torch_would_stretch_are_refused(loss, named):
    with pytest.raises(InputError, match=f"{named} has the shape"):
        loss(torch.zeros(3, 1, 6, 6), torch.zeros(3, 1, 6, 1))


# who learns from whom


def test_the_teacher_gets_no_gradient_and_the_student_moves_toward_it():
    student, teacher = maps(0), maps(1)
    loss, logs = MeanTeacher()({SEG_UNLABELED: Prediction(masks=student), NOISY: Prediction(teacher_masks=teacher)})
    loss.backward()
    assert teacher.grad is None and logs == {}
    assert torch.equal(student.grad < 0, student.sigmoid() < teacher.sigmoid())


def test_each_network_learns_from_the_others_hard_masks_only():
    one, other = maps(0), maps(1)
    cross_loss(one, other).backward()
    assert torch.equal(one.grad < 0, other > 0) and torch.equal(other.grad < 0, one > 0)
    pull = one.grad.clone()
    one.grad = None
    cross_loss(one, (other * 7).detach().requires_grad_()).backward()  # surer, and of the same opinion
    assert torch.equal(one.grad, pull)


@pytest.mark.parametrize("method", ["cps", "multimix_cps"])
def test_a_loss_of_one_network_leaves_the_other_alone(method):
    trainer = Trainer(tiny_config(method=method), tiny_data())
    terms = {t.name: t for t in trainer.terms}
    for name, flows in (("dice", (True, False)), ("peer_dice", (False, True)), ("cps", (True, True))):
        for t in trainer.terms:
            t.weight = float(t.name == name)
            t.at = lambda step, steps: None
        parts = trainer.model, terms["peer_dice"].peer
        for part in parts:
            part.zero_grad()
        step_loss(trainer, 0)[0].backward()
        assert tuple(any(p.grad is not None and p.grad.any().item() for p in part.parameters()) for part in parts) == flows, name


def test_the_teacher_of_a_run_is_the_average_and_gets_no_gradient():
    trainer = Trainer(tiny_config(method="mean_teacher", ema=0.5, ramp_up=0.0, dropout=0.0, noise=0.0), tiny_data())
    train_step(trainer)
    assert step_loss(trainer, 1)[1]["mean_teacher"].item() < 1e-12  # the first average is a copy, and without noise it sees the same
    for _ in range(2):
        train_step(trainer)
    loss, logs = step_loss(trainer, 3)
    loss.backward()
    assert logs["mean_teacher"] > 0 and all(p.grad is None for p in trainer.average.parameters())


# the ramp


@quick
@given(st.floats(-1, 3), st.floats(-1, 3))
def test_the_ramp_rises_to_1_and_stays(a, b):
    assert 0 < ramp(a) <= 1 and (a > b or ramp(a) <= ramp(b)) and ramp(max(a, 1.0)) == 1
    assert ramp(0) == pytest.approx(math.exp(-5)) and ramp(0.5) == pytest.approx(math.exp(-1.25))


def test_the_weight_rises_over_the_first_part_of_the_run_whatever_came_before():
    term = Ramped(2.0, ramp_up=0.5)
    for step in (90, 0, 25, 50, 25):  # no memory
        term.at(step, 100)
        assert term.weight == pytest.approx(2 * ramp(step / 50))
    at_once = Ramped(2.0, ramp_up=0.0)
    at_once.at(0, 100)
    assert at_once.weight == 2 and not term.state_dict()
    with pytest.raises(InputError, match="ramp_up is 2"):
        Ramped(1.0, ramp_up=2)


def test_the_step_ramps_up():
    trainer = Trainer(tiny_config(method="cps", steps=10, ramp_up=1.0, mask_weight=0.3), tiny_data())
    for step in (0, 5, 9):
        loss, logs = step_loss(trainer, step)
        w = trainer.config.dice_weight
        expected = w * logs["dice"] + w * logs["peer_dice"] + 0.3 * ramp(step / 10) * logs["cps"]
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


# the noisy view


@pytest.mark.parametrize("seg_view", ["weak", "clean"])
def test_the_teacher_sees_what_the_student_sees_and_noise(seg_view):
    config = tiny_config(method="mean_teacher", seg_view=seg_view, batch=4)
    views = make_views(keys_read(make_terms(config)), tiny_data().streams(4, 3), 0, config, torch.Generator().manual_seed(0))
    student, teacher = views[ViewKey("seg_unlabeled", seg_view)], views[NOISY]
    noise = teacher[0] - student[0]
    assert torch.equal(student[1].index, teacher[1].index) and 0.05 < noise.std() < 0.11 and noise.abs().max() <= 0.2 + 1e-6
    assert noise.mean().abs() < 0.02 and not torch.allclose(noise[0], noise[1])


def test_noise_comes_from_its_generator_alone():
    x, state = torch.zeros(3, 1, 8, 8), torch.get_rng_state()
    first, again, other = (add_noise(x, 0.1, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(add_noise(x, 0.0, torch.Generator()), x)
    rows = torch.rand(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(add_noise(x[1:], 0.1, lambda n, columns: rows[1:]), first[1:])  # a part of the batch has its own rows of the noise


def test_noise_without_the_view_it_is_put_on_is_refused():
    with pytest.raises(InputError, match="the view 'noisy' of 'seg_unlabeled' is its view 'weak' with noise: the terms must read both"):
        make_views([NOISY], tiny_data().streams(2, 3), 0, tiny_config(), torch.Generator())


# a second network in a run


def test_the_second_network_is_another_one_and_the_seed_decides_it():
    first, again, other = (Trainer(tiny_config(method="cps", seed=seed), tiny_data()) for seed in (0, 0, 1))
    peers = [t.terms[1].peer for t in (first, again, other)]
    assert not changed(peers[0].state_dict(), peers[1]) and changed(peers[0].state_dict(), peers[2])
    assert changed(first.model.state_dict(), peers[0]) and not peers[0].bridge
    assert not changed(peers[0].state_dict(), make_peer(first.config))


def test_the_second_network_is_trained_at_the_rates_of_the_first():
    trainer = Trainer(tiny_config(method="cps", decoder_lr=3.0, lr=0.01), tiny_data())
    rest, decoder = trainer.optimizer.param_groups
    peer, before = trainer.terms[1].peer, kept(trainer.terms[1].peer)
    assert {id(p) for p in peer.decoder.parameters()} < {id(p) for p in decoder["params"]}
    assert {id(p) for p in peer.encoder.parameters()} < {id(p) for p in rest["params"]}
    train_step(trainer)
    assert changed(before, peer) and trainer.evaluated is trainer.model


@pytest.mark.parametrize("method", METHODS)
def test_methods_learn(method):
    config = tiny_config(method=method, steps=25, lr=0.01, schedule="constant", batch=4, dropout=0.0, width=8)
    trainer = Trainer(config, tiny_data())
    losses = [train_step(trainer)["dice"].item() for _ in range(25)]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_a_term_that_reads_a_network_nobody_owns_is_refused():
    class Lonely(Term):
        reads_masks = reads_peer = (SEG_LABELED,)

    with pytest.raises(InputError, match="none owns one as `peer`: add PeerDice"):
        step_loss(Trainer(tiny_config(method="unet"), tiny_data(), more_terms=[Lonely()]), 0)


def test_terms_read_what_they_declare():
    peer = make_peer(tiny_config())
    assert PeerDice(peer).reads_peer == (SEG_LABELED,)
    assert CrossPseudo().reads_peer == CrossPseudo().reads_masks == (SEG_LABELED, SEG_UNLABELED)
    term = MeanTeacher(student=ViewKey("seg_unlabeled", "clean"))
    assert (term.reads_masks, term.reads_teacher_masks) == ((ViewKey("seg_unlabeled", "clean"),), (NOISY,))
    views = {key: Prediction(masks=maps(0), peer=maps(1), targets=(maps(2) > 0).float()) for key in (SEG_LABELED, SEG_UNLABELED)}
    assert torch.isclose(CrossPseudo()(views)[0], 2 * cross_loss(maps(0), maps(1))) and 0 < PeerDice(peer)(views)[0] < 1


def test_everything_public_says_what_it_is():
    assert [name for name in more_terms.__all__ if callable(getattr(more_terms, name)) and not getattr(more_terms, name).__doc__] == []
