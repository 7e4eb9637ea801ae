"""Every ablation of the claim trains, is judged and loads again; what is known of unlabelled images is counted and never learnt from."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config, tiny_data

from multimix.experiments import load_run, run_experiment
from multimix.methods import make_config
from multimix.phantom import phantom_data
from multimix.pseudo_labels import POLICIES, pseudo_precision
from multimix.step import Trainer, step_loss, train_step
from multimix.training import Loop, judge_guesses, train, trainer_state

pytestmark = pytest.mark.usefixtures("seeded_weights")


@pytest.fixture(scope="module")
def data():
    return phantom_data(size=32, labels=6, masks=3, n=40, test=8)


ABLATIONS = [  # several at once: each of them is tested alone where it is built
    dict(bridge="off", policy="flexmatch", threshold=0.5), dict(bridge="shuffled", consistency="released", policy="freematch"),
    dict(bridge="constant", consistency="pixel", policy="softmatch", ema=0.9, teacher="ema"),
    dict(saliency_scale="none", policy="adamatch", threshold=0.7), dict(preset="released", bridge="shuffled"),
    dict(preset="paper", bridge="constant", amp="bf16"), dict(method="multimix_mt", bridge="shuffled"),
    dict(method="multimix_cps", bridge="off"),
]


@pytest.mark.parametrize("changes", ABLATIONS, ids=lambda c: ", ".join(f"{k}={v}" for k, v in c.items()))
def test_every_ablation_is_a_setting_of_a_run(changes, data, tmp_path):
    small = dict(size=32, batch=2, unlabeled=3, width=4, steps=2, device="cpu", progress=False)
    results = run_experiment(data, tmp_path / "run", **small, **changes)
    kept = json.loads((tmp_path / "run/config.json").read_text())
    assert {k: kept[k] for k in changes} == changes
    loaded = load_run(tmp_path / "run")
    assert loaded.model.bridge == (changes.get("bridge") != "off") and loaded.history[-1]["step"] == 2
    assert 0 <= results["in_domain"]["segmentation"]["dice"] <= 1 and 0 <= results["in_domain"]["classification"]["accuracy"] <= 1


# precision of the pseudo-labels


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=12),
       st.lists(st.integers(-1, 2), max_size=8))
def test_precision_is_what_one_counts(guesses, truth):
    index, targets, weights = (torch.tensor(part) for part in zip(*guesses))
    kept = sum(w for i, _, w in guesses if i < len(truth) and truth[i] >= 0)
    right = sum(w for i, t, w in guesses if i < len(truth) and truth[i] == t)
    found = pseudo_precision(index, targets, weights, np.array(truth, dtype=np.int64))
    assert found is None if kept == 0 else found == pytest.approx(right / kept)


def run(data, **changes):
    "Trained on `data`, which holds the truth of what is unlabelled, or does not."
    config = tiny_config(threshold=0.5, steps=4, ema=0.9, **changes)
    trainer = Trainer(config, data)
    logs = [{k: float(v) for k, v in train_step(trainer).items()} for _ in range(4)]
    return logs, trainer_state(trainer), judge_guesses(trainer)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_truth_of_unlabelled_images_does_not_touch_the_training(policy):
    "Known, unknown, or wrong: the same losses, gradients, weights and policy, to the last bit; only the count differs."
    data = tiny_data()
    truth = data.withheld["cls_unlabeled"]
    assert len(truth) == len(data.cls_unlabeled) and data.cls_unlabeled.labels is None
    kinds = {"known": truth, "wrong": 1 - truth}
    runs = {kind: run(replace(data, withheld={"cls_unlabeled": t}), policy=policy) for kind, t in kinds.items()}
    runs["unknown"] = run(replace(data, withheld={}), policy=policy)
    for logs, state, _ in runs.values():
        assert logs == runs["known"][0]
        for part in ("model", "average", "terms"):
            assert all(torch.equal(v, runs["known"][1][part][k]) for k, v in state[part].items())
    counted = {kind: found for kind, (_, _, found) in runs.items()}
    assert counted["unknown"] == {} and counted["known"]["pseudo_precision"] == pytest.approx(1 - counted["wrong"]["pseudo_precision"])


def test_no_term_and_no_view_knows_the_truth(monkeypatch):
    trainer = Trainer(tiny_config(threshold=0.5), tiny_data())
    seen = []
    for term in trainer.terms:
        forward = term.forward
        monkeypatch.setattr(term, "forward", lambda views, forward=forward: seen.append(views) or forward(views))
    loss, _ = step_loss(trainer, 0)
    assert seen and all(p.labels is None for views in seen for key, p in views.items() if "unlabeled" in key.stream)
    gradients = torch.autograd.grad(loss, list(trainer.model.parameters()), allow_unused=True)
    trainer.truth = None
    again = torch.autograd.grad(step_loss(trainer, 0)[0], list(trainer.model.parameters()), allow_unused=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(gradients, again))


def test_the_count_is_that_of_the_last_steps_guesses():
    data = tiny_data()
    trainer = Trainer(tiny_config(threshold=0.5, unlabeled=9), data)
    assert judge_guesses(trainer) == {}
    train_step(trainer)
    guesses = trainer.terms[1].guesses
    assert guesses.index.tolist() == trainer.streams["cls_unlabeled"].indices(0).tolist() and (guesses.weights == 1).all()
    right = guesses.targets.numpy() == data.withheld["cls_unlabeled"][guesses.index]
    assert judge_guesses(trainer) == {"pseudo_precision": pytest.approx(right.mean())}


def test_the_history_has_the_precision_where_something_was_kept():
    rows = train(tiny_config(threshold=0.5, steps=3), tiny_data(), loop=Loop(1, 9, 9), progress=False).history
    assert all(row["kept"] == 1 and 0 <= row["pseudo_precision"] <= 1 for row in rows)
    rows = train(tiny_config(threshold=1.0, steps=2), tiny_data(), loop=Loop(1, 9, 9), progress=False).history
    assert not any("pseudo_precision" in row for row in rows)
    rows = train(tiny_config(method="umtl", steps=2), tiny_data(), loop=Loop(1, 9, 9), progress=False).history
    assert not any("pseudo_precision" in row or "kept" in row for row in rows)


def test_images_without_a_known_truth_are_left_out_of_the_count():
    data = tiny_data()
    truth = data.withheld["cls_unlabeled"]
    some = replace(data, withheld={"cls_unlabeled": np.where(np.arange(len(truth)) % 2, truth, -1)[: len(truth) // 2]})
    assert 0 <= run(some, unlabeled=30)[2]["pseudo_precision"] <= 1
    assert make_config().threshold == 0.95
