"""The table of methods, the config and its presets.

Where each erratum of the released code (numbered as in nbs/06_methods.ipynb) is pinned:

| erratum | test |
| --- | --- |
| E3 step decay stops the learning | test_step.py: test_e3_* |
| E4 consistency of one channel is 0 | test_losses.py, test_model.py; test_step.py: test_released_step_* |
| E5 the first checkpoint is kept for ever | test_training.py: test_e5_* |
| E6 dropout at test time | test_model.py (modes), test_evaluation.py; here: test_e6_* |
| E7 saliency needs an optimizer, wipes gradients | test_model.py (modes, gradients, dropout) |
| E8 saliency is not scaled | test_model.py (the saliency map); here: test_e8_* |
| E9 the maximum over channels is lost | test_model.py (the saliency map) |
| E10 saliency of every image | test_step.py: test_the_step_computes_* |
| E11 fixed batches; that views are frozen, too, is not repeated | test_step.py: test_e11_* |
| E12 half of the images are normalised | test_step.py: test_e12_* |
| E13 strong views are weak | here: test_e13_*; test_augmentation.py |
| E14 sets smaller than a batch, nothing unlabelled | test_data.py; test_training.py: test_e14_* |
| E15, E21 metrics fail or are missing | test_evaluation.py |
| E16 instance norm on the wrong channels | test_model.py: test_e16_* |
| E17 everything is decoded | test_step.py: test_the_step_computes_* |
| E18 a class KL that nothing uses | test_step.py: test_released_step_* (the sum has four terms) |
| E19 pseudo-labels made with dropout on | test_step.py: test_e19_* |
| E20 no import without a GPU and the data | every test here, on a machine without one; test_cli.py |
| E22 trained weights are missing | test_model.py (checkpoints with the published names) |
| E23 choices that are not stated | here: test_every_difference_of_the_presets_is_a_field |
"""
from dataclasses import FrozenInstanceError, asdict, fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config, tiny_data

from multimix.data import InputError
from multimix.losses import CONSISTENCIES, ViewKey
from multimix.methods import (
    CHOICES,
    COUNTS,
    ERRATA,
    LABELED_VIEWS,
    METHODS,
    PAPER,
    PRESETS,
    RANGES,
    Config,
    check_config,
    make_config,
    make_model,
    make_terms,
    make_view,
)
from multimix.pseudo_labels import POLICIES
from multimix.step import keys_read

DEFAULTS = {f.name: f.default for f in fields(Config)}
each_method = pytest.mark.parametrize("method", METHODS)
each_preset = pytest.mark.parametrize("preset", PRESETS)
pytestmark = pytest.mark.usefixtures("seeded_weights")


# the table


def test_the_table_is_the_papers():
    "MultiMix, section 3.1: the compared models."
    ssl, seg = {"enc_ssl", "umtl_ssl", "umtl_ssl_s", "multimix"}, set(PAPER) - {"enc", "enc_ssl"}
    bridge = {"umtl_s", "umtl_ssl_s", "multimix"}
    for name, method in ((name, METHODS[name]) for name in PAPER):
        assert ("ce" in method.terms) == (name != "unet")
        assert ("pseudo" in method.terms) == (name in ssl)
        assert ("dice" in method.terms) == (name in seg)
        assert ("consistency" in method.terms) == (name == "multimix")
        assert method.bridge == (name in bridge)
    assert len(PAPER) == 8 and not any(METHODS[name].settings for name in PAPER)


def test_the_neighbours_exchange_the_consistency_and_nothing_else():
    assert {"mean_teacher", "cps", "multimix_mt", "multimix_cps"} == set(METHODS) - set(PAPER)
    ours = METHODS["multimix"].terms[:-1]
    for name, extra in (("mt", ("mean_teacher",)), ("cps", ("peer_dice", "cps"))):
        row, alone = METHODS[f"multimix_{name}"], METHODS[{"mt": "mean_teacher", "cps": "cps"}[name]]
        assert row.terms == ours + extra and row.bridge and alone.terms == ("dice", *extra) and not alone.bridge
        assert alone.tasks == ("segmentation",) and row.tasks == ("classification", "segmentation")


def test_a_method_brings_its_settings_and_they_can_be_changed():
    assert (make_config(method="mean_teacher").ema, make_config(method="mean_teacher").teacher) == (0.99, "ema")
    assert make_config("released", method="multimix_mt").teacher == "ema" and make_config("released").teacher == "student"
    assert make_config(method="mean_teacher", ema=0.9).ema == 0.9 and make_config(method="cps").ema == 0


@each_method
def test_model_and_terms_follow_the_row(method):
    config = tiny_config(method=method)
    model, terms = make_model(config), make_terms(config)
    assert tuple(t.name for t in terms) == METHODS[method].terms
    assert (model.decoder is not None) == ("segmentation" in METHODS[method].tasks) == any(t.reads_masks for t in terms)
    assert model.bridge == METHODS[method].bridge
    assert any(t.name == "ce" for t in terms) == ("classification" in METHODS[method].tasks)


def test_terms_take_their_weights_and_views_from_the_config():
    config = make_config(policy="fixed", threshold=0.6, pseudo_weight=0.3, dice_weight=0.7, consistency_weight=0.2, seg_view="clean",
                         consistency="pixel")
    terms = {t.name: t for t in make_terms(config)}
    assert {name: t.weight for name, t in terms.items()} == {"ce": 1.0, "pseudo": 0.3, "dice": 0.7, "consistency": 0.2}
    assert terms["pseudo"].policy.threshold == 0.6 and terms["consistency"].kind == "pixel"
    assert {key.view for name in ("dice", "consistency") for key in terms[name].reads_masks} == {"clean"}


@pytest.mark.parametrize("kind", LABELED_VIEWS)
def test_labelled_images_are_seen_in_the_views_asked_for_and_in_no_other(kind):
    wanted = [ViewKey("cls_labeled", view) for view in LABELED_VIEWS[kind]]
    for method in ("enc", "multimix"):
        read = keys_read(make_terms(make_config(method=method, labeled_view=kind)))
        assert {key for key in read if key.stream == "cls_labeled"} == set(wanted)


def test_the_momentum_reaches_the_policy():
    for policy in ("freematch", "softmatch", "adamatch"):
        assert make_terms(make_config(policy=policy, momentum=0.9), 2, 8)[1].policy.momentum == 0.9


@pytest.mark.parametrize("policy", POLICIES)
def test_the_memory_of_a_policy_is_in_the_state_of_the_terms(policy):
    terms = make_terms(make_config(policy=policy), num_classes=3, num_unlabeled=5)
    assert type(terms[1].policy) is POLICIES[policy]
    assert all(name.startswith("1.policy.") for name in terms.state_dict())
    assert bool(terms.state_dict()) == (policy != "fixed")


# presets


@each_preset
def test_presets_are_valid_and_make_what_they_say(preset):
    config = make_config(preset)
    assert config.preset == preset and check_config(config) is config
    assert {name: getattr(config, name) for name in PRESETS[preset]} == PRESETS[preset]
    assert set(PRESETS[preset]) <= set(DEFAULTS) - {"preset", "method", "seed", "labels", "masks"}


def test_corrected_is_the_default():
    assert make_config() == Config() and PRESETS["corrected"] == {}
    assert make_config(None, steps=None, labels=None) == Config()


def test_published_values():
    "MultiMix, sections 3.1 and 2, and the released code: these numbers are facts, whatever our own defaults become."
    facts = dict(lr=1e-4, decoder_lr=1.0, batch=10, unlabeled=10, threshold=0.7, pseudo_weight=0.25, dice_weight=5.0, policy="fixed",
                 consistency_weight=0.01, ema=0.0, teacher="student", weight_decay=0.0, width=16, dropout=0.25, saliency_scale="none",
                 strong_ops=2, strong_magnitude=10, weak_pad=32 / 256, strong_p=0.5, cutout=0.0, schedule="step", seg_view="clean",
                 labeled_view="weak")
    for preset in ("released", "paper"):
        assert {name: getattr(make_config(preset), name) for name in facts} == facts


def test_presets_hold_still_when_our_defaults_change():
    "Every field that shapes the loss, the views or the network is spelt out in both published presets."
    free = {"seed", "labels", "masks", "balance", "size", "steps", "method", "preset", "amp"}
    for preset in ("released", "paper"):
        assert set(DEFAULTS) - free == set(PRESETS[preset])


def test_every_difference_of_the_presets_is_a_field():
    released, paper = asdict(make_config("released")), asdict(make_config("paper"))
    differ = {name for name in DEFAULTS if released[name] != paper[name]} - {"preset"}
    assert differ <= {name for names in ERRATA.values() for name in names}


@pytest.mark.parametrize("erratum", ERRATA)
def test_errata_are_fields_and_repaired_by_default(erratum):
    for name in ERRATA[erratum]:
        assert getattr(make_config("released"), name) != DEFAULTS[name]
        repaired = make_config("released", **{name: DEFAULTS[name]})
        assert getattr(repaired, name) == DEFAULTS[name]


def test_e6_e8_e19_dropout_and_bridge_of_the_presets():
    released, paper, corrected = (make_config(p) for p in ("released", "paper", "corrected"))
    assert released.eval_dropout and not paper.eval_dropout and not corrected.eval_dropout
    assert released.teacher_dropout and not paper.teacher_dropout and not corrected.teacher_dropout
    assert make_model(released).saliency_scale == "none" and make_model(corrected).saliency_scale == "max"


def test_e8_the_scaled_map_does_not_depend_on_the_size_of_the_gradient():
    model = make_model(tiny_config(method="umtl_s"))
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model.saliency(x)
    with torch.no_grad():
        for p in model.encoder.head.parameters():
            p *= 1e-3
    assert torch.allclose(model.saliency(x), before, atol=1e-5)
    assert torch.allclose(before.amax((1, 2, 3)), torch.ones(2))


def test_e13_strong_views_of_the_presets():
    released, corrected = make_config("released"), make_config("corrected")
    assert released.strong_pad == 4 / 256 < released.weak_pad and (released.strong_p, released.cutout) == (0.5, 0.0)
    assert corrected.strong_pad >= corrected.weak_pad and corrected.strong_p > released.strong_p and corrected.cutout > 0
    images = torch.randint(0, 256, (400, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    untouched = {}
    for config in (released, corrected):
        config = make_config(config.preset, strong_pad=0.0)
        view = make_view(images, None, "strong", config, torch.Generator().manual_seed(1)).images
        plain = images / 255
        untouched[config.preset] = torch.stack([(view == v).all((1, 2, 3)) for v in (plain, plain.flip(3))]).any(0).float().mean().item()
    assert untouched["released"] >= 0.25 - 3 * (0.25 * 0.75 / 400) ** 0.5
    assert untouched["corrected"] < 0.1


# what can't be


@pytest.mark.parametrize("changes, named", [
    (dict(method="u-net"), "method 'u-net'"), (dict(preset="best"), "preset 'best'"), (dict(policy="mixmatch"), "policy 'mixmatch'"),
    (dict(consistency="kl"), "consistency 'kl'"), (dict(schedule="cosin"), "schedule 'cosin'"), (dict(amp=True), "amp True"),
    (dict(keep="last"), "keep 'last'"), (dict(input_range="0-1"), "input_range '0-1'"), (dict(balance="even"), "balance 'even'"),
    (dict(saliency_scale="quantile"), "saliency_scale 'quantile'"), (dict(teacher="mean"), "teacher 'mean'"),
    (dict(seg_view="strong"), "seg_view 'strong'"), (dict(tresholds=1), "unknown setting tresholds"), (dict(steps=0), "steps is 0"),
    (dict(labels="some"), "labels is 'some'"), (dict(masks=2.5), "masks is 2.5"), (dict(batch="all"), "batch is 'all'"),
    (dict(lr="fast"), "lr is 'fast'"), (dict(lr=float("nan")), "lr is nan"), (dict(ema=1.0), "ema is 1.0"),
    (dict(dropout=1.0), "dropout is 1.0"), (dict(threshold=95), "threshold is 95"), (dict(cutout=-0.1), "cutout is -0.1"),
    (dict(strong_magnitude=30), "strong_magnitude is 30"), (dict(method=["enc"]), "method ['enc']"), (dict(batch=0), "batch is 0"),
    (dict(ema=0.0, teacher="ema"), "teacher 'ema'"), (dict(bridge="noise"), "bridge 'noise'"), (dict(ramp_up=1.5), "ramp_up is 1.5"),
    (dict(method="umtl", bridge="shuffled"), "bridge 'shuffled' needs a method with a bridge"), (dict(noise=-1), "noise is -1"),
    (dict(method="cps", bridge="constant"), "'cps' has none"), (dict(mask_weight="big"), "mask_weight is 'big'"),
    (dict(method="mean_teacher", teacher="student"), "method 'mean_teacher' follows a teacher"), (dict(method="multimix_mt", ema=0), "ema"),
])
def test_wrong_settings_are_named_in_one_line(changes, named):
    with pytest.raises(InputError) as raised:
        make_config(**changes)
    assert named in str(raised.value) and "\n" not in str(raised.value)


def test_a_choice_that_is_wrong_lists_the_right_ones():
    for name, choices in CHOICES.items():
        with pytest.raises(InputError) as raised:
            make_config(**{name: "no such thing"})
        assert all(str(choice) in str(raised.value) for choice in choices)


@given(st.data())
def test_settings_in_range_pass_and_outside_fail(data):
    name = data.draw(st.sampled_from(sorted(RANGES)))
    low, high = RANGES[name]
    whole = name in ("strong_ops", "strong_magnitude", "components", "seed")
    value = data.draw(st.integers(low - 5, high + 5) if whole else st.floats(low - 5, high + 5))
    changes = {name: value, "teacher": "student"}
    if low <= value <= high:
        assert getattr(make_config(**changes), name) == value
    else:
        with pytest.raises(InputError, match=name):
            make_config(**changes)


@pytest.mark.parametrize("changes, said", [
    (dict(seed=1.5), "seed is 1.5: it must be a whole number"), (dict(seed="x"), "seed is 'x'"), (dict(labels=True), "labels is True"),
    (dict(lr=True), "lr is True"), (dict(eval_dropout="no"), "eval_dropout is 'no': it must be True or False"),
    (dict(fixed_batches=1), "fixed_batches is 1")])
def test_a_value_of_another_kind_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        make_config(**changes)


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_whole_and_positive(name):
    assert getattr(make_config(**{name: 1}), name) == 1
    for wrong in (0, -1, 1.0, "3"):
        with pytest.raises(InputError, match=name):
            make_config(**{name: wrong})


def test_a_config_is_frozen_and_plain():
    config = make_config("released")
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0
    assert all(isinstance(value, (int, float, str, bool)) for value in asdict(config).values())
    assert Config(**asdict(config)) == config


def test_flexmatch_without_unlabelled_images_is_refused():
    with pytest.raises(InputError, match="num_unlabeled"):
        make_terms(make_config(policy="flexmatch"), num_unlabeled=0)


# views


@pytest.mark.parametrize("view", ["clean", "weak", "strong"])
def test_a_view_is_drawn_from_its_generator_alone(view):
    images = torch.from_numpy(tiny_data().cls_unlabeled.images[:4, None])
    state = torch.get_rng_state()
    first, second = (make_view(images, None, view, make_config(), torch.Generator().manual_seed(3)).images for _ in range(2))
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
    assert first.dtype == torch.float32 and first.shape == images.shape and first.min() >= 0 and first.max() <= 1


def test_masks_move_with_their_images():
    seg = tiny_data().seg_labeled
    mask = torch.from_numpy(seg.masks).float()
    view = make_view((mask[:, :1] * 255).byte(), mask, "weak", make_config(), torch.Generator().manual_seed(0))
    assert torch.equal(view.images, view.masks) and not torch.equal(view.masks, mask)


def test_consistencies_are_the_ones_that_can_be_chosen():
    assert {make_config(preset).consistency for preset in PRESETS} == set(CONSISTENCIES)


def test_the_published_presets_keep_the_papers_threshold_and_ours_weighs_by_softmatch():
    policies = {preset: make_config(preset).policy for preset in PRESETS}
    assert policies == {"corrected": "softmatch", "released": "fixed", "paper": "fixed", "robust": "fixed"}
