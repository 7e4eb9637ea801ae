"""The benchmark: the plain step computes what ours does, FLOPs counted are FLOPs needed, numbers are sane, bad input is refused."""
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_data

from multimix import bench as B
from multimix.cli import main
from multimix.data import InputError
from multimix.losses import ViewKey
from multimix.methods import METHODS, PRESETS, make_config
from multimix.model import MultiMix, released_names
from multimix.operations import OPS, magnitude
from multimix.plain import AMOUNTS, Published, pil_batch, pil_pipeline, plain_loss, plain_views
from multimix.step import Trainer, forward_views, keys_read, make_views, total_loss, train_step, views_read

CPU = torch.device("cpu")
TINY = dict(size=32, batch=2, device="cpu", preset="released", amp="no")
pytestmark = pytest.mark.usefixtures("seeded_weights")


@pytest.fixture(scope="module")
def measured() -> dict:
    "The whole step of the benchmark, tiny."
    return B.bench("step", size=32, batch=2, rounds=3)


# the plain step


@pytest.fixture
def published():
    "The published network, in float64 and without dropout, so bold that about half of its confidences pass the threshold of 0.7."
    model = Published(0).double().eval()
    x = torch.from_numpy(tiny_data().cls_unlabeled.images[:, None]) / 255.0
    with torch.no_grad():
        logits = model.encoder(x.double())[1]
        for part in model.encoder.fc.parameters():
            part *= math.log(0.7 / 0.3) / (logits[:, 0] - logits[:, 1]).abs().median()
    return model


@pytest.fixture
def trainer(published):
    "A trainer of the preset 'released' with the published weights, in float64 and without dropout."
    trainer = Trainer(make_config("released", size=32, batch=4, unlabeled=8, dropout=0.0, steps=6), tiny_data())
    trainer.model.load_state_dict(MultiMix.from_released(published.state_dict()).state_dict())
    trainer.model.double()
    return trainer


def both_losses(published, trainer):
    "Our loss and the plain one, of the same views."
    keys = [*keys_read(trainer.terms), ViewKey("seg_unlabeled", "clean")]  # which the plain step decodes for a loss of zero
    views = make_views(keys, trainer.streams, 0, trainer.config, torch.Generator().manual_seed(0))
    views = {key: (images.double(), known) for key, (images, known) in views.items()}
    named = {f"{key.stream} {key.view}": value for key, value in views.items()}
    seg, cls = named["seg_labeled clean"], named["cls_labeled weak"]
    theirs = plain_loss(published, seg=seg[0], masks=seg[1].targets, seg_unlabeled=named["seg_unlabeled clean"][0], cls=cls[0],
                        labels=cls[1].labels, weak=named["cls_unlabeled weak"][0], strong=named["cls_unlabeled strong"][0])
    ours, logs = total_loss(trainer.terms, forward_views(trainer.model, trainer.model, trainer.terms, views))
    return ours, logs, theirs


def test_the_plain_step_has_our_loss(published, trainer):
    ours, logs, theirs = both_losses(published, trainer)
    assert 0 < logs["kept"] < 1 and theirs["unsupervised"] > 0
    assert ours.item() == pytest.approx(theirs["total"].item(), rel=1e-5)
    for name, term in {"ce": "ce", "dice": "dice", "pseudo": "unsupervised"}.items():
        assert logs[name].item() == pytest.approx(theirs[term].item(), rel=1e-5), name


def test_the_plain_step_has_our_gradient_of_every_parameter(published, trainer):
    ours, _, theirs = both_losses(published, trainer)
    ours.backward()
    theirs["total"].backward()
    names = released_names()
    expected = {name: p.grad for name, p in published.named_parameters() if "conv_last_saliency" not in name}
    found = {name: p.grad for name, p in trainer.model.named_parameters()}
    largest = max(g.abs().max() for g in expected.values())
    assert len(found) == len(expected) and largest > 0
    for name, gradient in expected.items():
        layer, _, kind = name.rpartition(".")
        mine = found[f"{names[layer]}.{kind}"]
        zero = kind == "bias" and ("dconv" in layer)  # a bias before a normalisation moves nothing: rounding is all there is
        assert (mine - gradient).norm() <= 1e-5 * gradient.norm() + (1e-9 * largest if zero else 0), name
        assert zero or gradient.norm() > 0, name


def test_the_saliency_of_the_plain_step_leaves_no_trace(published):
    x = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    published.train()
    saliency = published.saliency(x)
    assert saliency.shape == x.shape and saliency.min() >= 0 and saliency.max() > 0 and all(p.grad is None for p in published.parameters())
    assert all(m.training for m in published.modules())


@pytest.mark.parametrize("name", OPS)
def test_plain_strengths_are_those_of_the_library(name):
    expected = magnitude(name, torch.arange(1, 10)).tolist()
    found = [AMOUNTS[name](v, 1) for v in range(1, 10)]
    if name in ("AutoContrast", "Equalize", "Identity"):
        assert found == [0] * 9
    else:  # levels may be rounded
        assert found == pytest.approx(expected, abs=1 if name == "Solarize" else 1e-9)


def test_plain_views_are_what_the_step_reads():
    data = tiny_data()
    batches = {name: stream.batch(0) for name, stream in data.streams(2, 2).items()}
    views = plain_views(batches["seg_labeled"].images, batches["seg_labeled"].masks, batches["seg_unlabeled"].images,
                        batches["cls_labeled"].images, batches["cls_labeled"].labels, batches["cls_unlabeled"].images)
    assert {name: tuple(v.shape) for name, v in views.items()} == dict.fromkeys(
        ("seg", "masks", "seg_unlabeled", "cls", "weak", "strong"), (2, 1, 32, 32)) | {"labels": (2,)}
    assert views["seg"].min() < 0 and views["seg"].abs().max() <= 1 and 0 <= views["strong"].min() <= views["strong"].max() <= 1


@pytest.mark.parametrize("strong, most", [(False, 8), (True, 1)])
def test_the_crop_of_the_pipeline_moves_no_further_than_published(strong, most):
    "A bright dot in the middle, or its mirror image, is found again not further than `most` of 64 pixels away; and it does move."
    picture = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    picture[..., 31:33, 31:33] = 255
    chain = pil_pipeline(64, strong)
    geometry = type(chain)([step for step in chain.transforms if getattr(step, "__name__", "") != "strong_picture"])
    shifts = {int(geometry(Image.fromarray(picture[0, 0].numpy()))[0].max(1).values.argmax()) - 31 for _ in range(60)}
    assert max(map(abs, shifts)) <= most and len(shifts) > 1
    assert pil_batch(picture, strong).shape == (1, 1, 64, 64)


# FLOPs


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_computes_what_its_terms_read_and_nothing_else(preset, method):
    trainer = Trainer(make_config(preset, method=method, size=32, batch=2, unlabeled=3, width=4), B.some_data(32, 2))
    assert B.count_flops(lambda: train_step(trainer)) == sum(B.flops_needed(trainer).values())


def test_flops_of_a_layer_are_two_for_each_weight_and_pixel():
    model = MultiMix(width=4)
    layers = [*B.encoder_layers(model, 64), *B.decoder_layers(model, 64)]
    assert [side for _, side in layers] == [64, 64, 32, 32, 16, 16, 8, 8, 4, 4, 8, 8, 16, 16, 32, 32, 64, 64, 64]
    x = torch.rand(1, 4, 64, 64)
    with torch.no_grad():
        assert B.count_flops(lambda: layers[1][0](x)) == B.layer_flops(layers[1:2]) == 2 * 4 * 4 * 9 * 64 * 64


def test_the_published_network_costs_what_is_known_of_it():
    "At 256 pixels 2.13 GFLOP an image for the encoder, 4.84 for the decoder; the plain step six times the one, three times the other."
    model = MultiMix()
    encoder, decoder = B.layer_flops(B.encoder_layers(model, 256)), B.layer_flops(B.decoder_layers(model, 256))
    assert (encoder / 1e9, decoder / 1e9) == (pytest.approx(2.13, abs=0.01), pytest.approx(4.84, abs=0.01))
    one = 6 * encoder / 64 + 3 * decoder / 64  # image of 32 pixels
    assert B.count_flops(B.plain_run(32, 1, "cpu")) == pytest.approx(5 * one, rel=0.01)


# what is measured


def test_a_step_is_measured_whole(measured):
    json.dumps(measured)
    step = measured["step"]
    assert {"seconds_per_step", "images_per_second", "flops_per_step", "peak_flops", "fraction_of_peak", "peak_memory_bytes",
            "baseline_seconds_per_step", "speedup", "speedup_range", "seconds_per_step_range"} <= set(step)
    assert measured["settings"] == TINY | {"rounds": 3} and measured["machine"]["torch"] == torch.__version__
    numbers = [v for name, v in step.items() if isinstance(v, int | float)]
    assert all(math.isfinite(v) and v > 0 for v in numbers)


def test_flops_counted_are_flops_needed(measured):
    step = measured["step"]
    assert step["flops_per_step"] == step["flops_needed"] == sum(step["flops_needed_parts"].values())
    assert step["baseline_flops_per_step"] > step["flops_per_step"]


def test_the_speedup_is_the_median_ratio_of_pairs(measured):
    step = measured["step"]
    ratios = sorted(a / b for a, b in zip(step["rounds"]["plain"], step["rounds"]["ours"]))
    assert len(ratios) == 3 and [step["speedup_range"][0], step["speedup"], step["speedup_range"][1]] == pytest.approx(ratios)
    assert step["seconds_per_step"] == sorted(step["rounds"]["ours"])[1]
    assert step["images_per_second"] == pytest.approx(10 / step["seconds_per_step"])


def test_the_share_of_the_peak_is_a_share(measured):
    step = measured["step"]
    assert 0 < step["fraction_of_peak"] < 1.5 and step["convolution_flops"] <= step["peak_flops"]
    assert step["fraction_of_peak"] == pytest.approx(step["flops_per_step"] / step["seconds_per_step"] / step["peak_flops"])


def test_the_table_names_what_was_measured(measured):
    text = B.table(measured)
    assert all(words in text for words in ("seconds per step", "speedup", "fraction of peak", "GFLOP/s", "MB", "size 32"))


def test_turns_are_taken_and_the_first_call_does_not_count():
    calls = []
    seconds = B.interleave(2, CPU, a=lambda: calls.append("a"), b=lambda: calls.append("b"))
    assert calls == ["a", "b"] * 3 and [len(v) for v in seconds.values()] == [2, 2]
    assert B.spread("x", B.ratios([8.0, 3.0, 2.0], [2.0, 1.0, 1.0])) == {"x": 3.0, "x_range": [2.0, 4.0]}


@pytest.mark.skipif(B.peak_memory(lambda: None, CPU) is None, reason="this system does not tell how much memory a process held")
def test_peak_memory_sees_what_was_given_back():
    before = B.peak_memory(lambda: None, CPU)  # a system under pressure may take pages away in between, hence the wide margin
    assert B.peak_memory(lambda: np.ones(50_000_000).sum(), CPU) > before + 200e6


def test_data_are_measured():
    found = B.bench_data(32, 2, "cpu", rounds=1, files=5, side=48)
    for name in ("weak", "strong", "step"):
        part = found[name]
        assert part["speedup"] == pytest.approx(part["cached_images_per_second"] / part["jpeg_images_per_second"])
        assert part["speedup"] > 0
    seconds = [1 / found[name]["cached_images_per_second"] for name in ("weak", "strong", "step")]
    assert seconds[2] == pytest.approx(0.8 * seconds[0] + 0.2 * seconds[1]), "a step has four batches in weak views and one in strong ones"


def test_the_share_of_augmentation_is_measured():
    found = B.bench_augment(**TINY, rounds=1)
    assert found["share"] > 0 and found["seconds_of_views"] > 0


@pytest.mark.parametrize("amp", ["no", "bf16"])
def test_explanations_are_measured(amp):
    found = B.bench_explain(32, 2, "cpu", amp, rounds=1, steps=3)
    assert found["flops_needed"] == B.count_flops(lambda: bare_passes(3))
    assert found["times_the_floor"] == pytest.approx(found["seconds_per_image"] / found["floor_seconds_per_image"])


def bare_passes(steps):
    x = torch.rand(steps, 1, 32, 32, requires_grad=True)
    torch.autograd.grad(MultiMix(decoder=False).encode(x, dropout=False).logits[:, 1].sum(), x)


def test_views_that_no_term_reads_are_not_counted():
    trainer = B.some_trainer(32, 2, "cpu", "released", "no")
    masks, logits, taught = B.views_counted(trainer)
    assert (masks + logits, taught) == (sum(2 * len(keys) for keys in views_read(trainer.terms)[:2]), 2)


# the command


def test_the_command_prints_a_table_and_writes_json(tmp_path, capfd):
    file = tmp_path / "step.json"
    assert main(["bench", "step", "--size", "32", "--batch", "2", "--rounds", "1", "--device", "cpu", "--json", str(file)]) == 0
    assert "speedup" in capfd.readouterr().out
    assert json.loads(file.read_text())["step"]["speedup"] > 0 and [p.name for p in tmp_path.iterdir()] == ["step.json"]


@pytest.mark.parametrize("words, said", [
    (["walk"], "walk"),
    (["step", "--size", "100"], "100"),
    (["step", "--size", "many"], "--size"),
    (["step", "--batch", "0"], "batch"),
    (["data", "--rounds", "0"], "rounds"),
    (["step", "--preset", "best"], "best"),
    (["step", "--amp", "fp4"], "fp4"),
    (["step", "--device", "abacus"], "abacus"),
    (["step", "--json", "nowhere/step.json"], "nowhere"),
], ids=" ".join)
def test_bad_words_are_refused_in_one_line(tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["bench", *words])
    except SystemExit as stop:
        code = stop.code
    printed, errors = capfd.readouterr()
    assert (code, printed) == (2, "") and errors.count("\n") == 1 and errors.startswith("multimix: error: ") and said in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [dict(part="walk"), dict(size=33), dict(rounds=0), dict(batch=0)], ids=str)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError):
        B.bench(**wrong)


def test_the_script_of_the_full_training_measures_keeps_and_goes_on(tmp_path):
    out, script = tmp_path / "small.json", Path(__file__).parents[1] / "benchmarks/full_training.py"
    line = [sys.executable, script, "--device", "cpu", "--size", "32", "--steps", "2", "--batch", "2", "--labels", "20", "--seeds", "0",
            "--plain-rounds", "1", "--out", out]
    subprocess.run([*line, "--amp", "no"], check=True)
    first = json.loads(out.read_text())["runs"]["no-0"]
    done = subprocess.run([*line, "--amp", "no", "bf16"], capture_output=True, text=True, check=True)
    found = json.loads(out.read_text())
    assert set(found["runs"]) == {"no-0", "bf16-0"} and "plain" in done.stdout
    assert found["runs"]["no-0"] == first, "what is done is not done again"
    assert first["seconds"] > 0 and 0 <= first["auroc"] <= 1 and 0 <= first["dice"] <= 1 and first["gpu_busy"] is None
    assert found["plain_seconds"] == pytest.approx(2 * found["plain_seconds_per_step"])
    other = subprocess.run([*line, "--preset", "corrected"], capture_output=True, text=True)
    assert other.returncode == 2 and "holds other settings" in other.stderr
