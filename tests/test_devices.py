"""One run in several processes, on CPU with gloo: the losses of one process, the same state in all, a kill, a restart, the launchers."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launched import HERE, launch, run_together, surroundings
from launched_runs import IN_SINGLE, KILLED, RUNS, losses_and_state, train_slowly
from tiny import tiny_data

from multimix.augmentation import strong_view, weak_view
from multimix.data import InputError
from multimix.devices import ALONE, Processes, connect, gather_predictions, main_first, on_main, share_batch, share_draws, sum_gradients
from multimix.losses import Prediction
from multimix.pseudo_labels import POLICIES

PROGRAM = str(HERE / "launched_runs.py")


@pytest.fixture(autouse=True)
def one_thread():
    "As in the processes that are started: sums in another order round differently."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    "The folder where two processes left what they did, and what they said."
    folder = tmp_path_factory.mktemp("together")
    ends = run_together(2, [PROGRAM, str(folder)])
    assert [code for code, _ in ends] == [0, 0], "\n".join(text for _, text in ends)
    return folder, [text for _, text in ends]


def two(together, name: str) -> list[dict]:
    return [torch.load(together[0] / f"{name}-{rank}-of-2.pt", weights_only=True) for rank in (0, 1)]


def same(a, b) -> bool:
    "Equal to the last bit, through dicts and lists."
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or a != a


def furthest(logs: list[dict], others: list[dict]) -> float:
    "The largest difference of anything logged."
    assert [row.keys() for row in logs] == [row.keys() for row in others]
    return max(abs(row[k] - other[k]) for row, other in zip(logs, others) for k in row)


# two processes


@pytest.mark.parametrize("name", [name for name in RUNS if name not in IN_SINGLE])
def test_two_processes_have_the_losses_of_one(together, name):
    "Twenty steps of each policy, and of batches that don't divide by two, without dropout."
    one, (main, _) = losses_and_state(name), two(together, name)
    assert len(one["logs"]) == 20 and furthest(one["logs"], main["logs"]) < 1e-10
    for part in ("model", "average", "terms"):
        for key, value in one["state"][part].items():
            assert torch.allclose(value.double(), main["state"][part][key].double(), atol=1e-6), (part, key)


def test_single_precision_rounds_differently_and_no_more(together):
    one, (main, _) = losses_and_state("single precision"), two(together, "single precision")
    assert furthest(one["logs"], main["logs"]) < 1e-5


def test_the_policies_are_told_apart_by_these_runs(together):
    "A test of the tests: the runs differ, and what the policies keep changes on the way."
    runs = {name: two(together, name)[0] for name in POLICIES}
    assert len({row["logs"][-1]["loss"] for row in runs.values()}) >= 3
    assert len({row["kept"] for row in two(together, "uneven")[0]["logs"]}) >= 2


@pytest.mark.parametrize("name", RUNS)
def test_all_processes_hold_the_same(together, name):
    "Weights, averaged weights, policy, optimizer, schedule and logs, to the last bit, also where dropout differs."
    main, other = two(together, name)
    assert main["processes"] == (0, 2) and other["processes"] == (1, 2)
    assert same(main["logs"], other["logs"])
    assert [part for part in main["state"] if not same(main["state"][part], other["state"][part])] == []


def test_dropout_is_each_processs_own():
    assert ALONE.seed(7) == Processes(0, 4).seed(7) == 7
    assert len({Processes(rank, 4).seed(7) for rank in range(4)} | {Processes(1, 4).seed(8)}) == 5


def test_an_error_of_the_main_process_is_raised_on_all(together):
    assert all("every process hears: the disk of the main process is full" in text for text in together[1])


def test_the_connection_is_closed_before_python_ends():
    "One that is left open aborts a process now and then, after its work is done."
    program = """import atexit
import torch.distributed
from multimix.devices import connect
atexit.register(lambda: print("open at the end:", torch.distributed.is_initialized()))
connect(), connect()
print("open:", torch.distributed.is_initialized())"""
    ends = run_together(2, ["-c", program])
    assert all(code == 0 and "open: True" in text and "open at the end: False" in text for code, text in ends), ends


def test_all_processes_return_the_same_run(together):
    assert len({line for text in together[1] for line in text.splitlines() if line.startswith("seconds: ")}) == 1


# killed and resumed, started by accelerate


def rows(folder) -> list[dict]:
    file = folder / "history.csv"
    return list(csv.DictReader(file.open())) if file.exists() else []


def test_a_killed_process_ends_the_launch_and_a_restart_goes_on(together, tmp_path):
    folder, deadline = tmp_path / "run", time.monotonic() + 120
    launched = launch(2, [PROGRAM, "train", str(folder), "0.3"])
    while len(rows(folder)) < 3 or not (folder / "last.pt").exists():
        assert launched.poll() is None and time.monotonic() < deadline, launched.communicate()
        time.sleep(0.01)
    os.kill(int((tmp_path / "run-pid-1").read_text()), signal.SIGKILL)
    said = launched.communicate(timeout=120)[1]
    assert launched.returncode != 0 and ("SIGKILL" in said or "-9" in said)
    assert 2 <= torch.load(folder / "last.pt", weights_only=True)["step"] < KILLED["steps"]
    shutil.copytree(folder, tmp_path / "alone")

    again = launch(2, [PROGRAM, "train", str(folder), "0"])
    assert again.wait(timeout=240) == 0, again.communicate()
    whole, resumed = (torch.load(f / "last.pt", weights_only=True) for f in (together[0] / "whole", folder))
    assert [part for part in whole if part != "seconds" and not same(whole[part], resumed[part])] == []
    assert rows(folder) == rows(together[0] / "whole")

    alone = train_slowly(str(tmp_path / "alone"))
    assert furthest(whole["history"], alone.history) < 1e-4 and alone.history[-1]["step"] == KILLED["steps"]


def test_accelerate_launches_the_command(tmp_path):
    words = "train --method umtl_ssl --steps 2 --size 32 --labels 10 --masks 3 --batch 3 --out run".split()
    launched = launch(2, ["-m", "multimix", *words], cwd=tmp_path)
    out, err = launched.communicate(timeout=240)
    assert launched.returncode == 0, err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "best.pt", "config.json", "history.csv", "last.pt", "predictions.npz", "report.html", "results.json"]
    assert out.count("in_domain    classification") == 1 and json.loads((tmp_path / "run/results.json").read_text())["steps"] == 2
    assert json.loads((tmp_path / "run/config.json").read_text())["batch"] == 3 and len(rows(tmp_path / "run")) == 1


def test_a_notebooks_launcher_starts_three(tmp_path):
    "Forked from one process, with batches of three and five images."
    words = [sys.executable, PROGRAM, "notebook", str(tmp_path)]
    ended = subprocess.run(words, env=surroundings(), capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    found = [torch.load(tmp_path / f"uneven-{rank}-of-3.pt", weights_only=True) for rank in range(3)]
    assert all(same(found[0]["logs"], other["logs"]) and same(found[0]["state"], other["state"]) for other in found[1:])
    assert furthest(losses_and_state("uneven")["logs"], found[0]["logs"]) < 1e-5


# parts


@given(st.integers(1, 300), st.integers(1, 16))
def test_rows_cover_the_batch_once_and_evenly(n, count):
    if n < count:
        with pytest.raises(InputError, match=f"a batch of {n} can't be shared out to {count} processes"):
            Processes(0, count).rows(n)
        return
    parts = [range(n)[Processes(rank, count).rows(n)] for rank in range(count)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("view", [weak_view, strong_view])
def test_shared_views_are_those_of_the_whole_batch(view, count):
    batch = tiny_data().streams(8, 7)["seg_labeled"].batch(3)
    whole = view(batch.images, batch.masks, generator=torch.Generator().manual_seed(5))
    for rank in range(count):
        processes = Processes(rank, count)
        mine, draws = share_batch(processes, batch), share_draws(processes, torch.Generator().manual_seed(5), 8)
        found = view(mine.images, mine.masks, generator=draws)
        assert torch.equal(found.images, whole.images[processes.rows(8)]) and torch.equal(found.masks, whole.masks[processes.rows(8)])
        assert torch.equal(mine.index, batch.index[processes.rows(8)])


def test_one_process_alone_changes_and_sends_nothing():
    generator, batch, predictions = torch.Generator(), object(), {("cls_labeled", "weak"): Prediction()}
    assert share_draws(ALONE, generator, 3) is generator and share_batch(ALONE, batch) is batch
    assert gather_predictions(ALONE, predictions, {}) is predictions and sum_gradients(ALONE, []) is None
    assert on_main(ALONE, lambda: 3) == 3 and ALONE.main and connect("cpu") == ALONE
    with pytest.raises(ZeroDivisionError), main_first(ALONE):
        raise ZeroDivisionError
    assert not torch.distributed.is_initialized()


def test_without_a_launcher_accelerate_is_not_imported():
    code = ("import sys; from tiny import *; from multimix.training import train; train(tiny_config(method='enc', steps=1), tiny_data(), "
            "progress=False); import multimix.experiments; sys.exit('accelerate' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], env=surroundings()).returncode == 0


def test_a_launch_without_accelerate_says_what_to_install(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(InputError, match="2 processes were launched, which needs accelerate: pip install accelerate"):
        connect("cpu")


def test_python_m_multimix_is_the_command():
    found = subprocess.run([sys.executable, "-m", "multimix", "train", "--steps", "x"], env=surroundings(), capture_output=True, text=True)
    assert found.returncode == 2 and found.stderr.startswith("multimix: error: ") and found.stderr.count("\n") == 1
