"""One training step: the published loss, nothing computed that no term reads, where gradients flow, chance, schedules."""
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import Published, reference_step
from tiny import tiny_config, tiny_data

from multimix.data import InputError, sub_seed
from multimix.losses import Term, ViewKey
from multimix.methods import METHODS, PRESETS, make_config, make_model, make_terms
from multimix.model import MultiMix
from multimix.phantom import phantom_data
from multimix.step import (
    Trainer,
    decode_views,
    forward_views,
    keys_read,
    make_schedule,
    make_views,
    more_read,
    parameter_groups,
    seeded,
    step_loss,
    total_loss,
    train_step,
    views_read,
)

CPU = torch.device("cpu")
each_method = pytest.mark.parametrize("method", METHODS)
WEAK, STRONG = ViewKey("cls_unlabeled", "weak"), ViewKey("cls_unlabeled", "strong")
CLS, SEG, SEG_U = ViewKey("cls_labeled", "weak"), ViewKey("seg_labeled", "weak"), ViewKey("seg_unlabeled", "weak")
pytestmark = pytest.mark.usefixtures("seeded_weights")


def draw(config, step=0, seed=0):
    "The views of the config's method, as `make_views` gives them, with those of a term that is always 0."
    return make_views(keys_read(make_terms(config, mask_channels=2)), tiny_data().streams(config.batch, config.unlabeled), step, config,
                      torch.Generator().manual_seed(seed))


# the published loss


def published_model(seed):
    "The published network, so bold that about half of its confidences pass the threshold of 0.7."
    model = Published(seed).eval()
    x = torch.from_numpy(tiny_data().cls_unlabeled.images[:, None]) / 255
    with torch.no_grad():
        logits = model.encoder(x)[1]
        margins = (logits[:, 0] - logits[:, 1]).abs()
        model.encoder.fc.weight *= 0.847 / margins.median()  # log(0.7 / 0.3)
        model.encoder.fc.bias *= 0.847 / margins.median()
    return model


def published_loss(model, views):
    "The reference's terms for our views, under our names."
    seg, seg_u = views[ViewKey("seg_labeled", "clean")], views[ViewKey("seg_unlabeled", "clean")]
    found = reference_step(model, seg[0], seg[1].targets, seg_u[0], views[CLS][0], views[CLS][1].labels, views[WEAK][0], views[STRONG][0])
    names = {"ce": "ce", "dice": "dice", "unsupervised": "pseudo", "kl": "consistency", "total": "loss"}
    return {names[name]: value for name, value in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_released_step_equals_the_published_one(seed):
    "Total and each term to 1e-5, from a checkpoint with the published names, dropout off."
    published = published_model(seed)
    config = tiny_config("released", width=16, batch=4, unlabeled=8)
    model = MultiMix.from_released(published.state_dict()).eval()
    terms, views = make_terms(config), draw(config, step=seed, seed=seed)
    expected = published_loss(published, views)
    loss, logs = total_loss(terms, forward_views(model, model, terms, views))
    assert set(expected) <= set(logs) and 0 < logs["kept"] < 1
    for name, value in expected.items():
        assert logs[name].item() == pytest.approx(value.item(), abs=1e-5), name
    assert loss.item() == pytest.approx(expected["loss"].item(), abs=1e-5)


def test_released_step_has_the_published_gradients():
    "In double precision: how convolutions round depends on the machine."
    published = published_model(0).double()
    config = tiny_config("released", width=16, batch=4, unlabeled=8)
    model = MultiMix.from_released(published.state_dict()).double().eval()
    terms, views = make_terms(config), {key: (images.double(), known) for key, (images, known) in draw(config).items()}
    published_loss(published, views)["loss"].backward()
    total_loss(terms, forward_views(model, model, terms, views))[0].backward()
    pairs = {"encoder.dconv_down1.0": model.encoder.blocks[0].conv1, "encoder.dconv_down5.3": model.encoder.blocks[4].conv2,
             "encoder.fc": model.encoder.head,
             "decoder.dconv_up4.0": model.decoder.blocks[0].conv1, "decoder.conv_last": model.decoder.head}
    for name, ours in pairs.items():
        theirs = published.get_submodule(name).weight.grad
        assert theirs.abs().max() > 0 and (ours.weight.grad - theirs).abs().max() < 1e-6 * theirs.abs().max(), name


def test_released_step_of_a_trainer_equals_the_published_one():
    "The same through `step_loss`, which draws its own views, in a batch of the published size."
    config = tiny_config("released", width=16, batch=10, unlabeled=10, dropout=0.0)
    trainer, published = Trainer(config, tiny_data()), published_model(1)
    trainer.model.load_state_dict(MultiMix.from_released(published.state_dict()).state_dict())
    loss, logs = step_loss(trainer, 5)
    with seeded(sub_seed(config.seed, "step", 5), CPU) as generator:
        views = make_views([*keys_read(trainer.terms), ViewKey("seg_unlabeled", "clean")], trainer.streams, 5, config, generator)
    for name, value in published_loss(published, views).items():
        assert logs[name].item() == pytest.approx(value.item(), abs=1e-5), name
    assert loss.requires_grad and sum(len(images) for images, _ in views.values()) == 50


def test_released_step_has_four_terms_and_the_consistency_is_zero():
    "E4 and E18: the published sum has no class KL, and its mask KL has neither value nor gradient, so that of one channel reads nothing."
    config = tiny_config("released")
    assert make_terms(config)[3].reads_masks == () and make_terms(config)[3]({})[0] == 0
    terms, model = make_terms(config, mask_channels=2), make_model(config)
    assert [(t.name, t.weight) for t in terms] == [("ce", 1.0), ("pseudo", 0.25), ("dice", 5.0), ("consistency", 0.01)]
    predictions = forward_views(model, model, terms, draw(config))
    value, _ = terms[3](predictions)
    value.backward()
    assert value == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())


# nothing that no term reads


def watch(model, seen: Counter, who: str, monkeypatch) -> None:
    "Count the images that pass the parts of `model`, with and without dropout."
    encode, decode, saliency = model.encode, model.decode, model.saliency

    def counted_encode(x, dropout=None):
        seen[who, "encoded", torch.is_grad_enabled()] += len(x)
        return encode(x, dropout)

    def counted_decode(x, *args, **kw):
        seen[who, "decoded", torch.is_grad_enabled()] += len(x)
        return decode(x, *args, **kw)

    def counted_saliency(x):
        before = seen.copy()
        out = saliency(x)
        seen.clear()
        seen.update(before)  # the encoder pass inside is counted as saliency
        seen[who, "saliency", torch.is_grad_enabled()] += len(x)
        return out

    for name, replaced in (("encode", counted_encode), ("decode", counted_decode), ("saliency", counted_saliency)):
        monkeypatch.setattr(model, name, replaced)


@pytest.mark.parametrize("preset", PRESETS)
@each_method
def test_the_step_computes_what_is_read_and_no_more(method, preset, monkeypatch):
    "E10 and E17: the saliency and the masks of images that no term reads are not computed, and a teacher decodes where it is followed."
    config = tiny_config(preset, method=method, batch=2, unlabeled=3, ema=0.9, teacher="ema")
    trainer, seen, terms = Trainer(config, tiny_data()), Counter(), METHODS[method].terms
    watch(trainer.model, seen, "student", monkeypatch)
    watch(trainer.average.module, seen, "teacher", monkeypatch)
    for t in trainer.terms:
        if hasattr(t, "peer"):
            watch(t.peer, seen, "peer", monkeypatch)
    step_loss(trainer, 0)
    unlabeled = "consistency" in terms and preset != "released" or "mean_teacher" in terms or "cps" in terms  # E4: zero needs no masks
    drawn, followed, rivals = 2 * ("dice" in terms) + 2 * unlabeled, 2 * ("mean_teacher" in terms), 4 * ("cps" in terms)
    expected = {("student", "encoded", True): drawn + 2 * ("ce" in terms) + 3 * ("pseudo" in terms), ("student", "decoded", True): drawn,
                ("student", "saliency", True): drawn * METHODS[method].bridge,
                ("teacher", "encoded", False): 3 * ("pseudo" in terms) + followed * (not METHODS[method].bridge),
                ("teacher", "encoded", True): followed * METHODS[method].bridge,  # the encoder pass of the map, whose features are detached
                ("teacher", "decoded", False): followed, ("peer", "encoded", True): rivals, ("peer", "decoded", True): rivals}
    assert seen == Counter({key: n for key, n in expected.items() if n})


@each_method
def test_views_are_drawn_only_where_read(method, monkeypatch):
    asked = []
    streams = tiny_data().streams(2, 3)
    for stream in streams.values():
        monkeypatch.setattr(stream, "batch", lambda step, s=stream, batch=stream.batch: asked.append(s.name) or batch(step))
    terms = make_terms(tiny_config(method=method))
    views = make_views(keys_read(terms), streams, 0, tiny_config(), torch.Generator().manual_seed(0))
    reads = ("reads_logits", "reads_masks", "reads_teacher", "reads_teacher_masks", "reads_peer")
    assert set(views) == {k for t in terms for name in reads for k in getattr(t, name)}
    assert sorted(asked) == sorted({key.stream for key in views})  # one batch a stream, whatever the number of its views


def test_what_is_read_is_listed_once_and_in_a_fixed_order():
    terms = list(make_terms(tiny_config()))
    masks, logits, taught = views_read(terms)
    assert (masks, logits, taught) == ([SEG, SEG_U], [CLS, STRONG], [WEAK]) == views_read(terms[::-1])
    assert keys_read(terms) == masks + logits + taught and more_read(terms) == ([], [])
    noisy = ViewKey("seg_unlabeled", "noisy")
    assert more_read(make_terms(tiny_config(method="mean_teacher"))) == ([noisy], [])
    assert more_read(make_terms(tiny_config(method="cps"))) == ([], [SEG, SEG_U])
    assert keys_read(make_terms(tiny_config(method="mean_teacher"))) == [SEG, SEG_U, noisy]  # what the noise is put on comes first


def test_predictions_hold_what_was_asked_for_and_nothing_else():
    config = tiny_config()
    model, terms = make_model(config), make_terms(config)
    predictions = forward_views(model, model, terms, draw(config))
    has = {key: {name for name in ("logits", "masks", "teacher") if getattr(p, name) is not None} for key, p in predictions.items()}
    assert has == {SEG: {"logits", "masks"}, SEG_U: {"logits", "masks"}, CLS: {"logits"}, STRONG: {"logits"}, WEAK: {"teacher"}}
    assert predictions[CLS].labels is not None and predictions[STRONG].labels is None and predictions[SEG].targets is not None


def test_a_view_read_for_both_masks_and_classes_is_computed_once():
    class Both(Term):
        name = "both"
        reads_logits = reads_masks = (SEG,)

        def forward(self, views):
            return views[SEG].logits.sum() + views[SEG].masks.sum(), {}

    config = tiny_config(method="umtl_s")
    assert views_read([Both()]) == ([SEG], [], [])
    model = make_model(config)
    views = make_views([SEG], tiny_data().streams(2, 3), 0, config, torch.Generator().manual_seed(0))
    assert torch.isfinite(total_loss([Both()], forward_views(model, model, [Both()], views))[0])


@pytest.mark.parametrize("missing, needed, without", [
    ("cls_labeled", "images with a class", ["unet"]), ("seg_labeled", "images with a mask", ["enc", "enc_ssl"]),
    ("cls_unlabeled", "images without their class", ["enc", "umtl_s"]), ("seg_unlabeled", "images without their mask", ["unet", "umtl_s"])])
def test_missing_images_are_named_and_so_are_methods_that_do_without(missing, needed, without):
    streams = {name: s for name, s in tiny_data().streams(2, 3).items() if name != missing}
    with pytest.raises(InputError, match=f"'multimix' needs {needed}, and the data have none: give some, or") as raised:
        make_views(keys_read(make_terms(tiny_config())), streams, 0, tiny_config(), torch.Generator())
    assert " or ".join(map(repr, without)) in str(raised.value)
    for method in without:
        config = tiny_config(method=method)
        assert make_views(keys_read(make_terms(config)), streams, 0, config, torch.Generator())


def test_a_stream_that_there_never_is_is_named():
    with pytest.raises(InputError, match="needs the stream 'xrays', and .* one of cls_labeled, seg_labeled, cls_unlabeled, seg_unlabeled"):
        make_views([ViewKey("xrays", "weak")], tiny_data().streams(2, 3), 0, tiny_config(), torch.Generator())


def test_a_term_of_ones_own_joins_the_methods_terms():
    class Size(Term):
        name = "size"
        reads_masks = (SEG_U,)

        def forward(self, views):
            return views[SEG_U].masks.square().mean(), {"seen": torch.tensor(1.0)}

    trainer = Trainer(tiny_config(method="umtl"), tiny_data(), more_terms=[Size(0.5)])
    logs = train_step(trainer)
    assert logs["loss"].item() == pytest.approx((logs["ce"] + trainer.terms[1].weight * logs["dice"] + 0.5 * logs["size"]).item())
    assert logs["seen"] == 1


# gradients


@pytest.mark.parametrize("term, consistency, flows", [
    ("ce", "batch_mean", {CLS}), ("pseudo", "batch_mean", {STRONG}), ("dice", "batch_mean", {SEG}),
    ("consistency", "batch_mean", {SEG_U}), ("consistency", "pixel", {SEG, SEG_U}),
])
def test_gradients_flow_through_the_terms_views_only(term, consistency, flows):
    config = tiny_config(consistency=consistency, threshold=0.5)
    model, terms = make_model(config).eval(), make_terms(config)
    views = {key: (images.requires_grad_(), known) for key, (images, known) in draw(config).items()}
    [chosen] = [t for t in terms if t.name == term]
    chosen(forward_views(model, model, terms, views))[0].backward()
    assert {key for key, (images, _) in views.items() if images.grad is not None and images.grad.any()} == flows
    if term == "pseudo":
        assert all(p.grad is None or not p.grad.any() for p in model.decoder.parameters())


def test_the_teacher_gets_no_gradient_and_gives_none():
    config = tiny_config(ema=0.5, teacher="ema", threshold=0.5)
    trainer = Trainer(config, tiny_data())
    train_step(trainer)
    assert all(p.grad is None for p in trainer.average.parameters())
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainer.model.parameters()}
    predictions = forward_views(trainer.model, trainer.model, trainer.terms, draw(config))
    assert not predictions[WEAK].teacher.requires_grad and predictions[STRONG].logits.requires_grad


def test_the_average_is_the_exponential_one():
    trainer = Trainer(tiny_config(method="umtl_s", ema=0.8, lr=0.01), tiny_data())
    train_step(trainer)
    average = {k: v.clone() for k, v in trainer.model.state_dict().items()}  # the first update copies
    assert all(torch.equal(trainer.evaluated.state_dict()[k], v) for k, v in average.items())
    for _ in range(3):
        train_step(trainer)
        average = {k: 0.8 * average[k] + 0.2 * v for k, v in trainer.model.state_dict().items()}
    assert trainer.evaluated is trainer.average.module
    for name, value in trainer.evaluated.state_dict().items():
        assert torch.allclose(value, average[name], atol=1e-6), name
        assert "conv" not in name or "weight" not in name or not torch.equal(value, trainer.model.state_dict()[name])


def test_without_an_average_the_weights_themselves_are_judged():
    trainer = Trainer(tiny_config(ema=0.0, teacher="student"), tiny_data())
    assert trainer.average is None and trainer.evaluated is trainer.model


@pytest.mark.parametrize("teacher", ["ema", "student"])
def test_the_teacher_is_who_the_config_says(teacher):
    trainer = Trainer(tiny_config(method="enc_ssl", ema=0.9, teacher=teacher, dropout=0.0), tiny_data())
    with torch.no_grad():
        trainer.average.module.encoder.head.bias += torch.tensor([5.0, -5.0])
    confidence = step_loss(trainer, 0)[1]["confidence"].item()
    assert (confidence > 0.99) == (teacher == "ema")


def test_the_decoder_has_its_own_rate():
    config = tiny_config(method="umtl", lr=0.01, decoder_lr=3.0)
    model = make_model(config)
    rest, decoder = parameter_groups(model, config)
    assert {id(p) for p in decoder["params"]} == {id(p) for p in model.decoder.parameters()}
    assert (rest["lr"], decoder["lr"]) == (0.01, pytest.approx(0.03))
    assert len(rest["params"]) + len(decoder["params"]) == len(list(model.parameters()))
    assert len(parameter_groups(make_model(tiny_config(method="enc")), config)) == 1


# views


def test_weak_and_strong_view_are_of_the_same_images():
    "With nothing but a flip left of the views, each strong one is its weak one or the mirror image of it."
    config = tiny_config(method="enc_ssl", strong_ops=0, cutout=0.0, strong_pad=0.0, weak_pad=0.0, unlabeled=7)
    for step in (0, 1, 20):
        views = draw(config, step)
        assert torch.equal(views[WEAK][1].index, views[STRONG][1].index)
        for weak, strong in zip(views[WEAK][0], views[STRONG][0]):
            assert torch.equal(strong, weak) or torch.equal(strong, weak.flip(2))


def test_e11_fixed_batches_repeat_every_epoch():
    data, released, ours = tiny_data(), tiny_config("released", batch=2, unlabeled=3), tiny_config(batch=2, unlabeled=3)
    epoch = len(data.cls_labeled) // 2
    assert epoch == 3
    for config in (released, ours):
        epochs = [[draw(config, step)[CLS][1].index.tolist() for step in range(e * epoch, (e + 1) * epoch)] for e in range(4)]
        assert all(e == epochs[0] for e in epochs) == config.fixed_batches
        assert all(sorted(i for batch in e for i in batch) == list(range(6)) for e in epochs)
    first, again = (draw(released, step, sub_seed(released.seed, "step", step))[CLS] for step in (0, epoch))
    assert first[1].index.tolist() == again[1].index.tolist() and not torch.equal(first[0], again[0]), "other views of the same images"


@pytest.mark.parametrize("preset, cls_range, seg_range", [("released", (0, 1), (-1, 1)), ("paper", (-1, 1), (-1, 1)),
                                                          ("corrected", (0, 1), (0, 1))])
def test_e12_input_ranges(preset, cls_range, seg_range):
    views = draw(tiny_config(preset, batch=3, unlabeled=3))
    for key, (images, _) in views.items():
        low, high = seg_range if key.stream.startswith("seg") else cls_range
        assert low <= images.min() and images.max() <= high
        assert low == 0 or images.min() < -0.2


@pytest.mark.parametrize("teacher_dropout", [True, False])
def test_e19_dropout_of_the_teacher(teacher_dropout):
    config = tiny_config(method="enc_ssl", unlabeled=12, width=8)
    model, terms = make_model(config).train(), make_terms(config)
    first, second = (forward_views(model, model, terms, draw(config), teacher_dropout)[WEAK].teacher for _ in range(2))
    plain = model.encode(draw(config)[WEAK][0], dropout=False).logits
    assert torch.equal(first, second) == torch.allclose(first, plain, atol=1e-6) == (not teacher_dropout)
    assert model.training


def test_e19_the_step_takes_it_from_the_config(monkeypatch):
    seen = {}
    for dropout in (True, False):
        trainer = Trainer(tiny_config(method="enc_ssl", teacher_dropout=dropout), tiny_data())
        encode, passes = trainer.model.encode, seen.setdefault(dropout, [])
        monkeypatch.setattr(trainer.model, "encode", lambda x, dropout=None, e=encode, p=passes: p.append(dropout) or e(x, dropout))
        step_loss(trainer, 0)
    assert seen == {True: [None, True], False: [None, False]}


# chance


def global_states():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


@pytest.mark.parametrize("method", ["enc", "multimix"])
def test_a_step_leaves_global_chance_alone_and_ignores_it(method):
    ends = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = global_states()
        trainer = Trainer(tiny_config(method=method), tiny_data())
        logs = [train_step(trainer) for _ in range(2)]
        assert global_states() == before
        ends.append((logs[1]["loss"].item(), [p.detach().clone() for p in trainer.model.parameters()]))
    assert ends[0][0] == ends[1][0] and all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1]))


def test_the_chance_of_a_step_hangs_on_seed_and_step():
    trainers = [Trainer(tiny_config(seed=seed), tiny_data()) for seed in (0, 0, 1)]
    same, again, other = (step_loss(t, 3)[0].item() for t in trainers)
    assert same == again != other
    assert step_loss(trainers[0], 4)[0].item() != same == step_loss(trainers[0], 3)[0].item()


def test_every_step_of_every_run_has_a_seed_of_its_own():
    assert len({sub_seed(seed, "step", step) for seed in range(20) for step in range(200)}) == 4000


def test_seeded_puts_chance_back_when_the_block_fails():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(3, CPU):
        torch.rand(5)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


# schedules


def rates(config):
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=config.lr)
    schedule, seen = make_schedule(optimizer, config), []
    for _ in range(config.steps):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return np.array(seen)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "step", "constant"])
def test_schedules_last_the_whole_run(schedule, steps):
    found = rates(tiny_config(schedule=schedule, steps=steps, lr=0.01))
    assert len(found) == steps and (found > 0).all() and found.max() <= 0.01 + 1e-12


def test_shapes_of_the_schedules():
    names = ("one_cycle", "cosine", "step", "constant")
    one_cycle, cosine, step, constant = (rates(tiny_config(schedule=name, steps=90, lr=1.0)) for name in names)
    assert 20 < one_cycle.argmax() < 35 and one_cycle[0] < 0.1 and one_cycle[-1] < 0.01 and one_cycle.max() == pytest.approx(1, abs=1e-3)
    assert cosine[0] == 1 and (np.diff(cosine) < 0).all() and cosine[45] == pytest.approx(0.5, abs=0.02) and cosine[-1] < 0.01
    assert np.allclose(step, np.repeat([1, 0.1, 0.01], 30))
    assert (constant == 1).all()


def test_e3_the_published_decay_stops_the_learning():
    "A tenth every 8 epochs of 100: 99.9 % of all the way is walked before epoch 24; at the end float32 weights don't even feel a step."
    rate = 1e-4 * 0.1 ** (np.arange(100) // 8)
    assert rate[:24].sum() > 0.9985 * rate.sum()
    before_after = {}
    for lr in (rate[0], rate[-1]):
        trainer = Trainer(tiny_config("released", method="enc", schedule="constant", lr=float(lr)), tiny_data())
        before = [p.detach().clone() for p in trainer.model.parameters() if p.ndim > 1]
        train_step(trainer)
        after = [p for p in trainer.model.parameters() if p.ndim > 1]
        before_after[lr] = torch.cat([(a != b).flatten() for a, b in zip(after, before)]).float().mean().item()
    assert before_after[rate[0]] > 0.99 and before_after[rate[-1]] < 1e-3


def test_e3_our_steps_reach_over_the_whole_run_whatever_its_length():
    for steps in (9, 900):
        found = rates(tiny_config("released", steps=steps))
        assert found[-1] == pytest.approx(1e-6) and (found == found[0]).mean() == pytest.approx(1 / 3)


def test_both_groups_follow_the_schedule():
    trainer = Trainer(tiny_config(method="umtl", decoder_lr=4.0, lr=0.01, steps=6, schedule="one_cycle"), tiny_data())
    for _ in range(5):
        train_step(trainer)
        rest, decoder = trainer.schedule.get_last_lr()
        assert decoder == pytest.approx(4 * rest)


# mixed precision


def test_bf16_is_near_and_keeps_float32_weights():
    losses = {}
    for amp in ("no", "bf16"):
        trainer = Trainer(tiny_config(amp=amp, dropout=0.0, pseudo_weight=0.0), tiny_data())
        losses[amp] = train_step(trainer)["loss"].item()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.05) and losses["bf16"] != losses["no"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("amp", ["no", "bf16", "fp16"])
def test_a_gpu_trains_and_leaves_its_chance_alone(amp):
    data, before = tiny_data(), torch.cuda.get_rng_state()
    trainer = Trainer(tiny_config(amp=amp, steps=12), data, "cuda")
    losses = torch.stack([train_step(trainer)["loss"] for _ in range(12)])
    assert torch.isfinite(losses).all() and torch.equal(torch.cuda.get_rng_state(), before)
    assert next(trainer.model.parameters()).device.type == trainer.streams["cls_labeled"].batch(0).images.device.type == "cuda"


def test_decode_views_asks_for_no_saliency_without_a_bridge(monkeypatch):
    config = tiny_config(method="umtl")
    model, views = make_model(config), draw(config)
    monkeypatch.setattr(model, "saliency", lambda x: pytest.fail("no bridge, no saliency"))
    x = views[SEG][0]
    decode_views(model, [SEG], views, x, model.encode(x).maps)
    assert views[SEG][1].masks.shape == views[SEG][1].targets.shape


@pytest.mark.parametrize("broken, said", [
    (lambda d: replace(d, cls_labeled=replace(d.cls_labeled, labels=None)), "cls_labeled: has images without a class"),
    (lambda d: replace(d, cls_labeled=replace(d.cls_labeled, labels=d.cls_labeled.labels - 1)), "cls_labeled: has images without a class"),
    (lambda d: replace(d, classes=("one",)), "cls_labeled: has a class number 1, but the data name only one"),
    (lambda d: replace(d, seg_labeled=replace(d.seg_labeled, masks=None)), "seg_labeled: has no masks"),
    (lambda d: replace(d, seg_val=replace(d.seg_val, masks=None)), "seg_val: has no masks"),
    (lambda d: replace(d, mask_channels=2), "seg_labeled: its masks have 1 channels, the data's mask_channels is 2")])
def test_data_put_together_by_hand_that_do_not_fit_are_refused(broken, said):
    data = phantom_data(32, labels=8, masks=4, n=60, test=4)
    with pytest.raises(InputError, match=said):
        Trainer(make_config(size=32, batch=2, unlabeled=2), broken(data))
