"""The loop: exact resume (also after SIGKILL), checkpoints, folders that guard themselves, live curves, tiny data."""
import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config, tiny_data

import multimix.training as training
from multimix.data import InputError
from multimix.losses import Term, ViewKey
from multimix.methods import METHODS
from multimix.pseudo_labels import POLICIES
from multimix.step import Trainer, train_step
from multimix.training import (
    LiveCurves,
    Loop,
    RunFolder,
    is_better,
    load_trainer_state,
    read_config,
    replacing,
    save_atomic,
    train,
    trainer_state,
    write_history,
)

EVERY_STEP = Loop(log_every=1, validate_every=2, save_every=1)


@pytest.fixture(autouse=True)
def one_thread():
    "Sums in another order round differently, so runs are compared on one thread, here and in the processes that are killed."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same(a, b) -> bool:
    "Equal to the last bit, through dicts and lists."
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def load(folder: Path, name: str = "last.pt") -> dict:
    return torch.load(folder / name, weights_only=True)


def assert_same_end(folder: Path, other: Path) -> None:
    "Weights, averaged weights, optimizer, policy, history, best: all but the seconds."
    ours, theirs = ({k: v for k, v in load(f).items() if k != "seconds"} for f in (folder, other))
    assert ours.keys() == theirs.keys()
    assert [part for part in ours if not same(ours[part], theirs[part])] == []
    assert (folder / "history.csv").read_text() == (other / "history.csv").read_text()


def validate(model) -> dict:
    "A made-up score that depends on the weights."
    weight = sum(p.double().sum() for p in model.parameters()).item()
    return {"score": weight, "twice": 2 * weight}


class Killed(BaseException):
    "Like KeyboardInterrupt: nobody catches it on the way."


def kill_after(step: int):
    def on_log(history):
        if history[-1]["step"] == step:
            raise Killed

    return on_log


# killed for good: another process, SIGKILL

FLEX = dict(policy="flexmatch", threshold=0.5, ema=0.9, teacher="ema", steps=8, width=8)
PROGRAM = """
import sys
import time
import torch
from test_training import FLEX, validate
from tiny import tiny_config, tiny_data
from multimix.training import Loop, train

torch.set_num_threads(1)
train(tiny_config(**FLEX), tiny_data(), sys.argv[1], resume=True, validate=validate, loop=Loop(1, 2, int(sys.argv[2])), progress=False,
      on_log=lambda history: time.sleep(float(sys.argv[3])))
"""


def start(folder: Path, save_every: int) -> subprocess.Popen:
    "A run in another process, slowed down a little so that it can be met at a certain step."
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, str(Path(here).parent), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(folder), str(save_every), "0.2"], env=environment)


def rows(folder: Path) -> int:
    "Rows of the history that is on the disk."
    file = folder / "history.csv"
    return len(list(csv.DictReader(file.open()))) if file.exists() else 0


def wait_and_kill(child: subprocess.Popen, ready, delay: float = 0.0) -> None:
    deadline = time.monotonic() + 300
    while not ready():
        assert child.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.005)
    time.sleep(delay)
    child.kill()
    assert child.wait() == -9


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    torch.set_num_threads(1)
    train(tiny_config(**FLEX), tiny_data(), folder, validate=validate, loop=Loop(1, 2, 1), progress=False)
    return folder


@pytest.mark.parametrize("step, delay", [(1, 0.0), (3, 0.1), (6, 0.22)])
def test_a_killed_run_ends_like_one_that_was_not(tmp_path, uninterrupted, step, delay):
    "Killed when `step` is on the disk and a moment later, wherever that falls: in a step, in a validation, in a save."
    folder = tmp_path / "run"
    wait_and_kill(start(folder, 1), lambda: (folder / "last.pt").exists() and rows(folder) >= step, delay)
    assert max(1, step - 1) <= load(folder)["step"] < 8  # history.csv has a step a moment before last.pt
    train(tiny_config(**FLEX), tiny_data(), folder, resume=True, validate=validate, loop=Loop(1, 2, 1), progress=False)
    assert_same_end(folder, uninterrupted)
    assert same(load(folder, "best.pt"), load(uninterrupted, "best.pt"))


@pytest.mark.parametrize("lost", [False, True])
def test_a_run_killed_soon_goes_on_from_its_first_step_or_starts_again(tmp_path, uninterrupted, lost):
    folder = tmp_path / "run"
    wait_and_kill(start(folder, 100), lambda: (folder / "config.json").exists(), 0.3)
    if (folder / "last.pt").exists():  # of the first step; a moment earlier there is none
        assert load(folder)["step"] == 1
        assert "images of" in refused(tiny_config(**FLEX), tiny_data(seed=5), folder, resume=True)
    if lost:
        (folder / "last.pt").unlink(missing_ok=True)
    train(tiny_config(**FLEX), tiny_data(), folder, resume=True, validate=validate, loop=Loop(1, 2, 1), progress=False)
    assert_same_end(folder, uninterrupted)


def test_a_run_resumed_by_another_process(tmp_path, uninterrupted):
    folder, config = tmp_path / "run", tiny_config(**FLEX)
    with pytest.raises(Killed):
        train(config, tiny_data(), folder, validate=validate, loop=Loop(1, 2, 1), progress=False, on_log=kill_after(5))
    assert start(folder, 1).wait() == 0
    assert_same_end(folder, uninterrupted)


# the same in this process


@pytest.mark.parametrize("killed_at", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_resumes_exactly(tmp_path, policy, killed_at):
    config = tiny_config(policy=policy, threshold=0.5, ema=0.9, teacher="ema", steps=5)
    settings = dict(loop=EVERY_STEP, progress=False, validate=validate)
    train(config, tiny_data(), tmp_path / "whole", **settings)
    with pytest.raises(Killed):  # the killed step is done but not saved
        train(config, tiny_data(), tmp_path / "parts", on_log=kill_after(killed_at + 1), **settings)
    assert load(tmp_path / "parts")["step"] == killed_at
    train(config, tiny_data(), tmp_path / "parts", resume=True, **settings)
    assert_same_end(tmp_path / "parts", tmp_path / "whole")
    state = load(tmp_path / "whole")["terms"]
    fresh = Trainer(config, tiny_data()).terms.state_dict()
    assert bool(state) == (policy != "fixed") and all(not same(state[k], fresh[k]) for k in state), "the memory was used"


@pytest.mark.parametrize("method, changes", [
    *((method, {}) for method in METHODS), ("multimix", dict(preset="released")), ("multimix", dict(preset="paper")),
    ("umtl_s", dict(schedule="cosine", weight_decay=0.01)), ("umtl_s", dict(schedule="step")), ("umtl_s", dict(schedule="constant")),
    ("multimix", dict(amp="bf16")),
])
def test_every_method_resumes_exactly(tmp_path, method, changes):
    config, settings = tiny_config(method=method, steps=4, **changes), dict(loop=EVERY_STEP, progress=False)
    train(config, tiny_data(), tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        train(config, tiny_data(), tmp_path / "parts", on_log=kill_after(3), **settings)
    train(config, tiny_data(), tmp_path / "parts", resume=True, **settings)
    assert_same_end(tmp_path / "parts", tmp_path / "whole")


def test_a_run_on_two_threads_resumes_exactly(tmp_path):
    torch.set_num_threads(2)  # `one_thread` puts the number back
    config, settings = tiny_config(steps=5, width=16), dict(loop=EVERY_STEP, progress=False)
    train(config, tiny_data(), tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        train(config, tiny_data(), tmp_path / "parts", on_log=kill_after(4), **settings)
    assert load(tmp_path / "parts")["step"] == 3 and torch.get_num_threads() == 2
    train(config, tiny_data(), tmp_path / "parts", resume=True, **settings)
    assert_same_end(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("loop, killed_at", [(Loop(1, 2, 3), 5), (Loop(2, 3, 2), 4), (Loop(3, 100, 100), 3), (Loop(100, 1, 1), 2)])
def test_the_rhythm_of_saving_changes_nothing(tmp_path, loop, killed_at):
    config, settings = tiny_config(method="umtl", steps=5), dict(loop=loop, progress=False, validate=validate)
    whole = train(config, tiny_data(), None, **settings)
    with pytest.raises(Killed):
        train(config, tiny_data(), tmp_path / "run", on_log=kill_after(killed_at), **settings)
    resumed = train(config, tiny_data(), tmp_path / "run", resume=True, **settings)
    assert same(whole.model.state_dict(), resumed.model.state_dict()) and whole.history == resumed.history


def test_terms_of_ones_own_resume_exactly(tmp_path):
    class Memory(Term):
        name = "memory"
        reads_logits = (ViewKey("cls_unlabeled", "weak"),)

        def __init__(self):
            super().__init__(0.1)
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, views):
            probs = views[self.reads_logits[0]].logits.softmax(1).mean(0)
            self.mean.copy_(0.5 * self.mean + 0.5 * probs.detach())
            return (probs - self.mean).abs().sum() + probs[0], {}

    config, settings = tiny_config(method="enc", steps=4), dict(loop=EVERY_STEP, progress=False)
    train(config, tiny_data(), tmp_path / "whole", more_terms=[Memory()], **settings)
    with pytest.raises(Killed):
        train(config, tiny_data(), tmp_path / "parts", more_terms=[Memory()], on_log=kill_after(3), **settings)
    train(config, tiny_data(), tmp_path / "parts", resume=True, more_terms=[Memory()], **settings)
    assert_same_end(tmp_path / "parts", tmp_path / "whole")
    assert load(tmp_path / "whole")["terms"]["1.mean"].any()


def test_a_finished_run_resumes_to_itself(tmp_path):
    config = tiny_config(method="umtl", steps=3)
    first = train(config, tiny_data(), tmp_path / "run", loop=EVERY_STEP, progress=False)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    again = train(config, tiny_data(), tmp_path / "run", loop=EVERY_STEP, progress=False, resume=True)
    assert same(first.model.state_dict(), again.model.state_dict()) and again.history == first.history
    assert again.seconds == first.seconds and again.images_per_second == first.images_per_second > 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_resume_where_there_is_no_run_starts_one(tmp_path):
    config = tiny_config(method="enc", steps=2)
    assert train(config, tiny_data(), tmp_path / "new", resume=True, progress=False).history[-1]["step"] == 2


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(tiny_config(method="enc", steps=2), tiny_data(), None, loop=EVERY_STEP, progress=False, validate=validate)
    assert list(tmp_path.iterdir()) == []


# whole files or none


def test_a_save_that_is_cut_short_leaves_the_last_one(tmp_path, monkeypatch):
    config, save = tiny_config(method="umtl", steps=4), torch.save
    train(config, tiny_data(), tmp_path / "whole", loop=EVERY_STEP, progress=False)

    def cut_short(state, path):
        save(state, path)
        if state.get("step") == 3:
            with open(path, "r+b") as f:
                f.truncate(1000)
            raise Killed

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(Killed):
        train(config, tiny_data(), tmp_path / "cut", loop=EVERY_STEP, progress=False)
    monkeypatch.setattr(torch, "save", save)
    assert load(tmp_path / "cut")["step"] == 2 and rows(tmp_path / "cut") == 3
    train(config, tiny_data(), tmp_path / "cut", loop=EVERY_STEP, progress=False, resume=True)
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("kind, said", [(OSError, "[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 0"),
                                        (RuntimeError, "CUDA error: an illegal memory access was encountered")])
def test_a_full_disk_is_told_from_other_trouble(tmp_path, monkeypatch, kind, said):
    save_atomic({"step": 1}, tmp_path / "last.pt")
    before = contents(tmp_path)

    def fail(state, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(kind) as raised:
        save_atomic({"step": 2}, tmp_path / "last.pt")
    full = f"{tmp_path / 'last.pt'} could not be written (is the disk full?): make room and resume"
    assert str(raised.value) == (full if kind is OSError else said)
    assert contents(tmp_path) == before


def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]
    with replacing(tmp_path / "a") as beside:
        beside.write_text("new")
    assert (tmp_path / "a").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_history_columns_may_come_late(tmp_path):
    write_history(tmp_path / "h.csv", [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 1e-17, "val_score": 0.5}])
    found = list(csv.DictReader((tmp_path / "h.csv").open()))
    assert [list(r) for r in found] == [["step", "loss", "val_score"]] * 2
    assert float(found[1]["loss"]) == 1e-17 and found[0]["val_score"] == ""


def test_the_history_on_the_disk_is_the_one_returned(tmp_path):
    run = train(tiny_config(steps=4), tiny_data(), tmp_path / "run", loop=Loop(1, 2, 4), progress=False, validate=validate)
    found = [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader((tmp_path / "run/history.csv").open())]
    assert found == run.history and [row["step"] for row in run.history] == [1, 2, 3, 4]
    assert {"loss", "ce", "pseudo", "dice", "consistency", "kept", "confidence", "lr"} <= set(run.history[0])
    assert ["val_score" in row for row in run.history] == [False, True, False, True]


def test_a_checkpoint_holds_all_that_a_run_is_and_nothing_that_runs(tmp_path):
    config = tiny_config(policy="softmatch", ema=0.9, steps=2)
    train(config, tiny_data(), tmp_path / "run", progress=False, validate=lambda model: {"score": np.float64(0.5), "of": np.float32(1)})
    assert set(load(tmp_path / "run")) == {"step", "config", "images", "model", "average", "terms", "optimizer", "schedule", "scaler",
                                           "history", "best", "seconds"}  # weights_only: no program in it
    best = load(tmp_path / "run", "best.pt")
    assert best["config"] == load(tmp_path / "run")["config"] == asdict(config) == json.loads((tmp_path / "run/config.json").read_text())
    assert best["score"] == 0.5 and best["step"] == 2


def test_state_goes_round(tmp_path):
    config = tiny_config(policy="adamatch", ema=0.5, schedule="cosine")
    trainer, other = Trainer(config, tiny_data()), Trainer(config, tiny_data())
    for _ in range(2):
        train_step(trainer)
    save_atomic(trainer_state(trainer), tmp_path / "state.pt")
    load_trainer_state(other, load(tmp_path, "state.pt"))
    assert same(trainer_state(other), trainer_state(trainer)) and other.step == 2


# best and last


def scripted(scores):
    scores = iter(scores)
    return lambda model: {"score": next(scores)}


@pytest.mark.parametrize("keep, expected", [("best", 3), ("first", 1)])
def test_e5_which_checkpoint_is_kept(tmp_path, keep, expected):
    "The released code keeps the first for ever, since nothing it compares ever changes."
    config = tiny_config(method="enc", steps=4, keep=keep)
    train(config, tiny_data(), tmp_path / "run", loop=Loop(1, 1, 4), progress=False, validate=scripted([0.5, 0.4, 0.9, 0.7]))
    assert load(tmp_path / "run", "best.pt")["step"] == expected
    assert load(tmp_path / "run")["best"] == {"best": 0.9, "first": 0.5}[keep]


def test_e5_of_the_presets():
    assert tiny_config("released").keep == "first" and tiny_config("corrected").keep == tiny_config("paper").keep == "best"


def test_is_better():
    nan = float("nan")
    assert is_better(0.1, None, "best") and is_better(0.1, None, "first")
    assert is_better(0.2, 0.1, "best") and not is_better(0.1, 0.1, "best") and not is_better(0.2, 0.1, "first")
    assert is_better(0.1, nan, "best") and not is_better(nan, 0.1, "best")


def test_best_holds_the_weights_that_were_judged(tmp_path):
    judged, scores = [], scripted([0.2, 0.9, 0.1])

    def watched(model):
        judged.append({k: v.clone() for k, v in model.state_dict().items()})
        return scores(model)

    train(tiny_config(method="enc", steps=3, ema=0.5), tiny_data(), tmp_path / "run", loop=Loop(1, 1, 1), progress=False, validate=watched)
    assert same(load(tmp_path / "run", "best.pt")["model"], judged[1])
    assert not same(judged[1], judged[2])


def test_the_best_score_survives_a_resume(tmp_path):
    config, settings = tiny_config(method="enc", steps=4), dict(loop=Loop(1, 1, 1), progress=False)
    with pytest.raises(Killed):
        train(config, tiny_data(), tmp_path / "run", validate=scripted([0.3, 0.9, 0.1]), on_log=kill_after(3), **settings)
    train(config, tiny_data(), tmp_path / "run", validate=scripted([0.1, 0.5]), resume=True, **settings)
    assert load(tmp_path / "run", "best.pt")["step"] == 2 and load(tmp_path / "run")["best"] == 0.9


def test_what_train_returns():
    data, config = tiny_data(), tiny_config(method="umtl_s", steps=3, ema=0.5)
    run = train(config, data, progress=False, loop=Loop(2, 100, 100))
    assert not run.model.training and run.config == config and [row["step"] for row in run.history] == [2, 3]
    trainer = Trainer(config, data)
    for _ in range(3):
        train_step(trainer)
    assert same(run.model.state_dict(), trainer.evaluated.state_dict())
    assert run.images_per_second == pytest.approx(3 * 4 / run.seconds)  # two labelled and two segmentation images a step


# folders that guard themselves


def refused(*args, **kw) -> str:
    with pytest.raises(InputError) as raised:
        train(*args, progress=False, **kw)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def run_of_two(tmp_path) -> Path:
    train(tiny_config(method="umtl", steps=2), tiny_data(), tmp_path / "run", loop=EVERY_STEP, progress=False)
    return tmp_path / "run"


def contents(folder: Path) -> dict:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_a_folder_takes_one_run(run_of_two):
    before = contents(run_of_two)
    assert "already holds a run" in refused(tiny_config(method="umtl", steps=2), tiny_data(), run_of_two)
    assert contents(run_of_two) == before


@pytest.mark.parametrize("named, value", [("lr", 0.5), ("seed", 3), ("method", "umtl_s"), ("steps", 9)])
def test_a_run_is_resumed_with_its_own_settings(run_of_two, named, value):
    before, config = contents(run_of_two), tiny_config(**(dict(method="umtl", steps=2) | {named: value}))
    message = refused(config, tiny_data(), run_of_two, resume=True)
    assert f"another {named}:" in message and str(run_of_two) in message
    assert contents(run_of_two) == before


def test_a_run_of_an_older_version_is_named_by_the_setting_it_lacks(run_of_two):
    kept = json.loads((run_of_two / "config.json").read_text())
    (run_of_two / "config.json").write_text(json.dumps({k: v for k, v in kept.items() if k != "decoder_lr"}))
    assert "decoder_lr" in refused(tiny_config(method="umtl", steps=2), tiny_data(), run_of_two, resume=True)
    (run_of_two / "config.json").write_text(json.dumps(kept | {"gone": 1}))
    assert "gone" in refused(tiny_config(method="umtl", steps=2), tiny_data(), run_of_two, resume=True)


@pytest.mark.parametrize("data", ["other pixels", "other images", "no masks left over", "other labels", "other masks", "other classes"])
def test_a_run_is_resumed_with_its_own_images(run_of_two, data):
    before, ours = contents(run_of_two), tiny_data()
    other = {"other images": tiny_data(seed=5), "no masks left over": replace(ours, seg_unlabeled=None),
             "other pixels": replace(ours, cls_labeled=replace(ours.cls_labeled, images=255 - ours.cls_labeled.images)),
             "other labels": replace(ours, cls_labeled=replace(ours.cls_labeled, labels=1 - ours.cls_labeled.labels)),
             "other masks": replace(ours, seg_labeled=replace(ours.seg_labeled, masks=1 - ours.seg_labeled.masks)),
             "other classes": replace(ours, cls_labeled=replace(ours.cls_labeled, classes=ours.cls_labeled.classes[::-1]))}[data]
    message = refused(tiny_config(method="umtl", steps=2), other, run_of_two, resume=True)
    assert message.startswith(f"{run_of_two}: the images of ") and message.endswith("name the same (--data)")
    assert contents(run_of_two) == before


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_checkpoint_that_cant_be_read_is_named(run_of_two, damage):
    file = run_of_two / "last.pt"
    file.write_bytes(file.read_bytes()[:2000] if damage is None else damage)
    assert f"{file} can't be read" in refused(tiny_config(method="umtl", steps=2), tiny_data(), run_of_two, resume=True)


@pytest.mark.parametrize("content, said", [
    (b"[]", " can't be read"), (b"null", " can't be read"), (b"3", " can't be read"), (b"\xff", " can't be read"), (b"", " can't be read"),
    (b'{"method": "unheard"}', ": method 'unheard' is unknown"), (b'{"lr": "fast"}', ": lr is 'fast'"),
    (b'{"steps": null}', ": steps is None"),
    (b'{"teacher_dropout": 1}', ": teacher_dropout is 1"), (b'{"policy": ["fixed"]}', ": policy ['fixed'] is unknown")])
def test_a_config_that_cant_be_right_is_named(run_of_two, content, said):
    file = run_of_two / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_config(run_of_two)
    assert str(raised.value).startswith(f"{file}{said}")
    assert refused(tiny_config(method="umtl", steps=2), tiny_data(), run_of_two, resume=True) == str(raised.value)


@pytest.mark.parametrize("error, said", [(PermissionError(13, "Permission denied"), "Permission denied"), (OSError("no room"), "no room")])
def test_a_checkpoint_that_the_system_keeps_back_is_not_to_be_taken_away(run_of_two, monkeypatch, error, said):
    def load_nothing(*args, **kw):
        raise error

    monkeypatch.setattr(torch, "load", load_nothing)
    message = refused(tiny_config(method="umtl", steps=2), tiny_data(), run_of_two, resume=True)
    assert f"{run_of_two / 'last.pt'} can't be read ({said})" in message and "take it away" not in message
    error = MemoryError()
    with pytest.raises(MemoryError):
        train(tiny_config(method="umtl", steps=2), tiny_data(), run_of_two, progress=False, resume=True)


@pytest.mark.parametrize("change", [
    lambda state: [1, 2], lambda state: {}, lambda state: state["model"], lambda state: {k: v for k, v in state.items() if k != "model"},
    lambda state: {k: v for k, v in state.items() if k != "history"}, lambda state: state | {"model": [1]},
    lambda state: state | {"model": Trainer(tiny_config(method="enc"), tiny_data()).model.state_dict()},
    lambda state: state | {"optimizer": Trainer(tiny_config(method="multimix", decoder_lr=2.0), tiny_data()).optimizer.state_dict()
                           | {"param_groups": []}}])
def test_a_checkpoint_of_something_else_is_named(run_of_two, change):
    torch.save(change(load(run_of_two)), run_of_two / "last.pt")
    before = contents(run_of_two)
    message = refused(tiny_config(method="umtl", steps=2), tiny_data(), run_of_two, resume=True)
    assert message.startswith(f"{run_of_two / 'last.pt'} is no") and "to start the run anew" in message
    assert contents(run_of_two) == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["last.pt", "best.pt", "history.csv", "results.json", "report.html", "predictions.npz"])
def test_what_is_left_of_a_run_is_not_written_over(tmp_path, name, resume):
    (tmp_path / name).write_text("of a run")
    message = refused(tiny_config(method="enc", steps=1), tiny_data(), tmp_path, resume=resume)
    assert f"{tmp_path / name} is there without a config.json" in message and "choose another folder" in message
    assert contents(tmp_path) == {name: b"of a run"}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("resume", [False, True])
def test_of_two_runs_begun_at_once_in_a_folder_one_is_refused(tmp_path, monkeypatch, resume, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError("no links here")))
    config, other = tiny_config(method="enc", steps=1), tiny_config(method="enc", steps=1, seed=7)
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    assert first.start(config, resume) is second.start(other, resume) is None
    assert first.begin(config) and not first.begin(config)
    with pytest.raises(InputError, match=f"{tmp_path / 'run'} already holds a run: resume it, or choose another folder"):
        second.begin(other)
    assert json.loads((tmp_path / "run/config.json").read_text()) == asdict(config) and len(contents(tmp_path / "run")) == 1


def test_a_run_that_another_overtakes_changes_nothing(tmp_path, monkeypatch):
    "The other one begins while this one does its first step."
    begin, config = RunFolder.begin, tiny_config(method="enc", steps=2)

    def overtaken(folder, its_config):
        monkeypatch.setattr(RunFolder, "begin", begin)
        train(tiny_config(method="enc", steps=1), tiny_data(), folder.path, progress=False)
        before.update(contents(folder.path))
        return begin(folder, its_config)

    before = {}
    monkeypatch.setattr(RunFolder, "begin", overtaken)
    assert "already holds a run" in refused(config, tiny_data(), tmp_path / "run")
    assert contents(tmp_path / "run") == before and "last.pt" in before


def test_files_of_others_do_not_matter(tmp_path):
    (tmp_path / "claim.json").write_text("{}")
    (tmp_path / "error.txt").write_text("Traceback")
    assert train(tiny_config(method="enc", steps=1), tiny_data(), tmp_path, progress=False).history
    assert {"claim.json", "error.txt", "config.json", "last.pt"} <= set(contents(tmp_path))


@pytest.mark.parametrize("method, missing, said", [
    ("multimix", "cls_unlabeled", "images without their class"), ("multimix", "seg_unlabeled", "images without their mask"),
    ("umtl", "seg_labeled", "images with a mask"), ("enc", "cls_labeled", "images with a class"),
    ("enc_ssl", "cls_unlabeled", "images without their class")])
def test_a_run_that_cant_start_leaves_nothing(tmp_path, method, missing, said):
    data = replace(tiny_data(), **{missing: None})
    assert f"{method!r} needs {said}, and the data have none" in refused(tiny_config(method=method), data, tmp_path / "deep" / "run")
    assert list(tmp_path.iterdir()) == []


def test_images_of_a_wrong_size_leave_nothing(tmp_path):
    data = tiny_data()
    odd = replace(data, cls_labeled=replace(data.cls_labeled, images=data.cls_labeled.images[:, :30, :30]))
    assert "16" in refused(tiny_config(method="enc"), odd, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    class Broken(Term):
        name = "broken"
        reads_logits = (ViewKey("cls_labeled", "weak"),)

        def forward(self, views):
            return views[self.reads_logits[0]].logits.sum() * float("nan"), {}

    message = refused(tiny_config(method="enc", steps=3), tiny_data(), tmp_path / "run", loop=EVERY_STEP, more_terms=[Broken()])
    assert "nan at step 1" in message and not (tmp_path / "run/last.pt").exists()


def test_run_folder_none_is_silent():
    folder = RunFolder(None)
    assert folder.start(tiny_config(), resume=True) is None and folder.begin(tiny_config()) is False


# tiny data


def test_e14_three_masks_and_batches_of_ten():
    "The released loaders drop what doesn't fill a batch, and then divide by the number of batches, zero."
    data = tiny_data(labels=2, masks=3)
    run = train(tiny_config(batch=10, unlabeled=30, steps=2), data, progress=False, loop=EVERY_STEP)
    assert len(data.seg_labeled) == 3 and all(np.isfinite(row["loss"]) for row in run.history)


def test_e14_all_labels_known():
    "The paper's 'Full' rows: nothing is left unlabelled, which the released code can't train on."
    data = tiny_data(labels=None, masks=None)
    assert data.cls_unlabeled is None and data.seg_unlabeled is None
    for method in ("unet", "enc", "umtl", "umtl_s"):
        assert train(tiny_config(method=method, labels="all", masks="all", steps=1), data, progress=False).history
    assert "without their class" in refused(tiny_config(method="enc_ssl", labels="all"), data)


# rhythm, bar and curves


def test_the_last_step_is_always_logged_validated_and_saved():
    loop = Loop(4, 6, 100)
    found = {what: [s for s in range(1, 15) if loop.due(what, s, 14)] for what in ("log", "validate", "save")}
    assert found == {"log": [4, 8, 12, 14], "validate": [6, 12, 14], "save": [14]}


def test_callbacks_see_every_logged_row():
    seen = []
    train(tiny_config(method="enc", steps=5), tiny_data(), progress=False, loop=Loop(2, 3, 9), validate=validate,
          on_log=lambda history: seen.append([row["step"] for row in history]))
    assert seen == [[2], [2, 3], [2, 3, 4], [2, 3, 4, 5]]


def test_the_bar_shows_where_the_run_stands(tmp_path, capsys):
    config = tiny_config(method="enc", steps=3)
    with pytest.raises(Killed):
        train(config, tiny_data(), tmp_path / "run", loop=EVERY_STEP, progress=False, on_log=kill_after(2))
    assert capsys.readouterr().err == ""
    train(config, tiny_data(), tmp_path / "run", loop=EVERY_STEP, resume=True)
    shown = capsys.readouterr().err
    assert "enc" in shown and "3/3" in shown and "1/3" in shown


HISTORY = [{"step": 10, "loss": 1.0, "ce": 0.7, "lr": 1e-3}, {"step": 20, "loss": 0.8, "ce": 0.5, "lr": 1e-4, "val_score": 0.6}]


def test_live_curves_do_nothing_outside_a_notebook(monkeypatch):
    monkeypatch.setattr(LiveCurves, "draw", lambda *a: pytest.fail("nobody is watching"))
    LiveCurves()(HISTORY)
    monkeypatch.setitem(sys.modules, "IPython", None)
    LiveCurves()(HISTORY)


def test_live_curves_draw_in_place(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown, updated = [], []

    class Handle:
        def update(self, picture):
            updated.append(picture)

    monkeypatch.setattr(display, "display", lambda picture, display_id: shown.append(picture) or Handle())
    monkeypatch.setattr(training, "in_notebook", lambda: True)
    curves = LiveCurves(every=2)
    for n in (1, 2, 3, 4):
        curves((HISTORY * 2)[:n])
    assert len(shown) == 1 and len(updated) == 1
    assert all(picture.data.startswith(b"\x89PNG") and len(picture.data) < 100_000 for picture in shown + updated)


def test_live_curves_keep_no_chance_and_no_figure():
    import matplotlib.pyplot as plt

    before, figures = torch.get_rng_state(), plt.get_fignums()
    pytest.importorskip("IPython.display")
    LiveCurves().draw(HISTORY)
    assert torch.equal(before, torch.get_rng_state()) and plt.get_fignums() == figures
