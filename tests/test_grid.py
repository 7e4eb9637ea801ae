"""Tables of runs: grids that are refused, runs that are the same, claims, and tables that are killed, that fail, that share a folder."""
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_config, tiny_data

from multimix import __version__, claims, spread
from multimix.claims import FILE, claimed, is_held, mine, read_claim, take
from multimix.cli import main
from multimix.experiments import choose_config, pick_amp, pick_device, run_experiment
from multimix.grid import READ_BY, canonical, folder_name, read_grid, settings_of, unread, work
from multimix.images import InputError
from multimix.methods import METHODS, make_config
from multimix.spread import begin, flatten, folder_state, run_grid, seconds_left, write_runs
from multimix.training import train

BIN = Path(sys.executable).parent
TINY = dict(size=32, width=4, batch=2, unlabeled=3)
FORK = multiprocessing.get_context("fork")


def grid_file(folder: Path, text: str) -> Path:
    file = folder / "grid.toml"
    file.write_text(text)
    return file


def wait_for(condition, seconds: float = 300):
    "The first true value of `condition()`."
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return found


def dead_claim(**changes) -> dict:
    "A claim of a process that has ended."
    child = subprocess.Popen(["true"])
    child.wait()
    return asdict(mine()) | {"pid": child.pid, "birth": "1", **changes}


# what a grid says


@pytest.mark.parametrize("text, said", [
    ("", "holds no cells"),
    ("size = 32\nseed = 1", "holds no cells"),
    ("size = [32, 64]\n[axes]\nseed = [1]", "size must be a single value at the top"),
    ("[axes]\nseed = 1", "[axes]: seed must be a list"),
    ("[axes]\nseed = []", "[axes]: seed must be a list with at least one value"),
    ("[axes]\nlables = [8]", "[axes]: lables is no setting; did you mean labels?"),
    ("xyzzy = 3\n[axes]\nseed = [1]", "xyzzy is no setting; see multimix.methods.Config"),
    ("[axes]\nmethod = ['u-net']", "[axes]: method 'u-net' is unknown"),
    ("[axes]\nlabels = [8.5]", "labels is 8.5; it must be a whole number or a text"),
    ("[axes]\nlabels = ['most']", "labels is 'most'"),
    ("[axes]\nlabels = [0]", "labels is 0"),
    ("[axes]\nsteps = [true]", "steps is True; it must be a whole number"),
    ("[axes]\nfixed_batches = [1]", "fixed_batches is 1; it must be true or false"),
    ("[axes]\nthreshold = ['0.5']", "threshold is '0.5'; it must be a number"),
    ("[axes]\nthreshold = [1.5]", "threshold is 1.5"),
    ("[axes]\nthreshold = [nan]", "threshold is nan"), ("[axes]\nthreshold = [0.5]", "threshold says nothing to the policy 'softmatch'"),
    ("[axes]\nzoom = [0.2]", "zoom says nothing without other cameras"),
    ("[axes]\ncollimation = [0.2]", "collimation says nothing without a frame"),
    ("[axes]\nsize = [32, 40]", "size=40"),
    ("[axes]\nteacher = ['ema']", "teacher 'ema' needs averaged weights"),
    ("[axes]\nseed = [1]\n[[cells]]\nseed = 2\n[[cells]]\nmethd = 'enc'", "[[cells]] number 2: methd is no setting; did you mean method?"),
    ("[cells]\nseed = 2", "[[cells]] with two brackets"),
    ("axes = 3", "[axes]: must be a table"),
    ("cells = [3]", "[[cells]] number 1: must be a table"),
    ("[axes\nseed = [1]", "is no TOML"),
])
def test_a_wrong_grid_is_refused_by_file_and_key(tmp_path, text, said):
    with pytest.raises(InputError) as error:
        read_grid(grid_file(tmp_path, text))
    assert str(error.value).startswith(str(tmp_path / "grid.toml")) and said in str(error.value) and "\n" not in str(error.value)


def test_a_grid_that_is_no_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "grid.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no TOML"):
        read_grid(tmp_path / "grid.toml")
    with pytest.raises(InputError, match="nowhere.toml: no such file.*paper"):
        read_grid(tmp_path / "nowhere.toml")


def test_the_papers_table_has_its_54_rows_and_five_seeds():
    cells = read_grid("paper")
    rows = {(cell.method, cell.labels, cell.masks) for cell in cells}
    assert len(cells) == 270 and len(rows) == 54 and {cell.seed for cell in cells} == set(range(5))
    both = {(n, k) for n in (100, 1000, "all") for k in (10, 50, "all")}
    for method in ("umtl", "umtl_s", "umtl_ssl", "umtl_ssl_s", "multimix"):
        assert {row[1:] for row in rows if row[0] == method} == both
    assert {row[2] for row in rows if row[0] == "unet"} == {10, 50, "all"}
    for method in ("enc", "enc_ssl"):
        assert {row[1] for row in rows if row[0] == method} == {100, 1000, "all"}
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)


def test_groups_are_added_up_and_runs_that_are_the_same_are_one(tmp_path):
    axes = "decoder_lr = 3\n[axes]\nmethod = ['multimix', 'unet']\nlabels = [8, 16]\nmasks = [3]\nseed = [0, 1]\n"
    first = read_grid(grid_file(tmp_path, axes))
    assert len(first) == 2 * (2 + 1)
    group = "[[cells]]\nmethod = 'multimix'\nlabels = 8\nmasks = 3\nseed = 1\npseudo_weight = [0.5, 1.0]\npreset = 'corrected'\n"
    more = read_grid(grid_file(tmp_path, axes + group))
    assert len(more) == len(first) + 1 and set(first) < set(more)  # 1.0 is the default
    assert {cell.decoder_lr for cell in more} == {3.0} and type(more[0].decoder_lr) is float
    assert read_grid({"decoder_lr": 3.0, "axes": dict(method=["unet"], masks=[3], seed=[1])})[0] in first


def test_what_is_asked_outside_of_the_grid_holds_for_all_cells():
    cells = read_grid({"size": 64, "axes": {"steps": [10, 20], "seed": [0]}}, size=32, steps=5)
    assert [(cell.size, cell.steps) for cell in cells] == [(32, 5)]
    assert read_grid({"axes": {"seed": [0]}}, phantom=True)[0].steps == 300
    with pytest.raises(InputError, match="size=33"):
        read_grid("paper", size=33)


configs = st.builds(
    make_config, st.sampled_from(["corrected", "paper"]), method=st.sampled_from(sorted(METHODS)), labels=st.sampled_from([8, 16, "all"]),
    masks=st.sampled_from([3, "all"]), seed=st.integers(0, 2), threshold=st.sampled_from([0.5, 0.7, 0.95]),
    dice_weight=st.sampled_from([0.2, 5.0]), dropout=st.sampled_from([0.0, 0.25]), lr=st.floats(0, 1))


@settings(max_examples=200, deadline=None)
@given(configs, configs)
def test_runs_share_a_folder_exactly_where_they_are_the_same(a, b):
    a, b = canonical(a), canonical(b)
    assert (folder_name(a) == folder_name(b)) == (a == b)
    assert canonical(a) == a and len(folder_name(a)) <= 200
    kept = make_config(**{"preset": "corrected"} | settings_of(a))  # the name says it all
    assert canonical(kept) == a


def test_a_very_long_name_is_cut_and_stays_the_cells_own():
    names = ("lr", "decoder_lr", "dropout", "dice_weight", "momentum", "cutout", "strong_pad", "weak_pad", "threshold", "weight_decay")
    odd = dict.fromkeys(names, 0.123456789) | dict(labels=8, masks=3)
    names = {folder_name(make_config(seed=seed, **odd)) for seed in range(3)}
    assert len(names) == 3 and all(len(name) <= 200 for name in names)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_is_said_not_to_read_changes_nothing(method):
    others = dict(labels=4, balance="proportional", labeled_view="both", masks=2, dice_weight=3.0, seg_view="clean", unlabeled=2,
                  policy="freematch", threshold=0.1, momentum=0.5, pseudo_weight=3.0, teacher_dropout=True, components=2,
                  consistency="released", consistency_weight=3.0, noise=0.9, mask_weight=3.0, ramp_up=0.9, bridge="off",
                  saliency_scale="none")
    assert set(others) == {name for names in READ_BY.values() for name in names} | {"bridge", "saliency_scale"}
    plain = tiny_config(method=method, labels=6, masks=3, steps=2, threshold=0.4)
    other = replace(plain, **{name: others[name] for name in unread(method)})
    one, two = (train(c, tiny_data(c.labels, c.masks), progress=False).model.state_dict() for c in (plain, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_nobody_reads_makes_no_run_of_its_own():
    grid = dict(axes=dict(method=["umtl", "enc", "multimix"], consistency_weight=[0.01, 0.1, 1.0], momentum=[0.9, 0.99]), policy="fixed")
    assert len(read_grid(grid)) == 5


@pytest.mark.parametrize("preset, threshold, steps", [("corrected", 0.8, 300), ("paper", 0.7, 300), ("robust", 0.8, 1500)])
def test_on_phantoms_a_preset_keeps_what_it_says(preset, threshold, steps):
    cell, = read_grid(dict(axes=dict(seed=[0]), preset=preset), phantom=True)
    assert (cell.threshold, cell.steps, cell.labels) == (threshold, steps, 20)
    alone = choose_config(dict(preset=preset), None, None, False)
    assert (alone.threshold, alone.steps) == (threshold, steps)


# claims


def test_a_claim_is_given_once_and_given_back_also_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "job") as claim:
        assert claim.pid == os.getpid() and is_held(tmp_path / "job") and take(tmp_path / "job") is None
        raise KeyboardInterrupt
    assert not is_held(tmp_path / "job") and list((tmp_path / "job").iterdir()) == []


def test_a_claim_of_another_machine_lives_as_long_as_it_is_touched(tmp_path):
    file = tmp_path / FILE
    file.write_text(json.dumps(asdict(mine()) | {"host": "elsewhere"}))
    assert take(tmp_path) is None
    os.utime(file, (time.time() - claims.LEASE - 5,) * 2)
    assert take(tmp_path).host == claims.host()


def test_a_live_claim_is_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.01)
    with claimed(tmp_path):
        os.utime(tmp_path / FILE, (0, 0))
        wait_for(lambda: (tmp_path / FILE).stat().st_mtime > 0)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"who": 1}'])
def test_a_claim_that_cannot_be_read_is_respected_until_it_is_old(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert take(tmp_path) is None
    os.utime(tmp_path / FILE, (0, 0))
    assert take(tmp_path) is not None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="elsewhere the system doesn't say")
def test_a_process_that_waits_to_be_buried_holds_nothing(tmp_path):
    child = subprocess.Popen(["sleep", "600"])
    (tmp_path / FILE).write_text(json.dumps(asdict(mine()) | {"pid": child.pid, "birth": claims.birth(child.pid)}))
    assert is_held(tmp_path)
    child.kill()  # and not waited for: its number stays taken
    wait_for(lambda: not is_held(tmp_path), seconds=60)
    os.kill(child.pid, 0)
    child.wait()


def test_dead_claims_are_counted_until_something_was_saved(tmp_path):
    for deaths in (1, 2):
        (tmp_path / FILE).write_text(json.dumps(dead_claim(deaths=deaths - 1, ticket="a", tries=deaths - 1)))
        claim = take(tmp_path, "a")
        assert (claim.deaths, claim.tries) == (deaths, deaths)
    (tmp_path / FILE).write_text(json.dumps(dead_claim(deaths=2, ticket="a", tries=2, since=time.time() - 9)))
    (tmp_path / "last.pt").touch()
    claim = take(tmp_path, "b")
    assert (claim.deaths, claim.tries) == (0, 0)


def grab(folder: Path, go, won, tried) -> None:
    go.wait()
    won.put(take(folder) is not None)
    tried.wait()  # a holder lives until all have tried


@pytest.mark.parametrize("door", [False, True], ids=["", "left by a killed process"])
def test_of_many_processes_one_takes_over(tmp_path, door):
    (tmp_path / FILE).write_text(json.dumps(dead_claim()))
    if door:
        (tmp_path / (FILE + ".taking")).touch()
        assert take(tmp_path) is None and take(tmp_path) is None
        os.utime(tmp_path / (FILE + ".taking"), (0, 0))
        assert take(tmp_path) is None  # and the door is open again
    go, won, tried = FORK.Event(), FORK.Queue(), FORK.Barrier(8)
    grabbers = [FORK.Process(target=grab, args=(tmp_path, go, won, tried)) for _ in range(8)]
    [process.start() for process in grabbers]
    go.set()
    assert sum(won.get(timeout=60) for _ in grabbers) == 1
    [process.join() for process in grabbers]
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


# a table whose runs are only played


@pytest.fixture
def played(monkeypatch):
    "Runs that take a moment and write down that they were begun; those with seed 13 fail."

    def play(data, folder, resume, device="auto", progress=False, allow_shared=False, **settings):
        with open(folder / "begun.txt", "a") as file:
            file.write(f"{os.getpid()}\n")
        (folder / "config.json").write_text(json.dumps(settings))
        time.sleep(0.02)
        if settings["seed"] == 13:
            raise ValueError("thirteen\nis unlucky")
        (folder / "results.json").write_text(json.dumps({"seconds": 2.0, "version": "0", "method": settings["method"]}))

    monkeypatch.setattr(spread, "run_experiment", play)
    monkeypatch.setattr(spread, "sleep", lambda seconds: time.sleep(0.02))


def cells_of(seeds, **changes) -> list:
    return read_grid({**TINY, "steps": 3, "labels": 6, **changes, "axes": {"method": ["enc"], "seed": list(seeds)}})


def begun(out: Path) -> list[int]:
    return [len(file.read_text().splitlines()) for file in out.glob("*/begun.txt")]


def test_a_failed_cell_is_kept_and_tried_again_and_the_others_go_on(tmp_path, played, monkeypatch, capsys):
    cells = cells_of([12, 13, 14])
    state = run_grid(cells, out=tmp_path)
    assert [(o.cell.seed, o.status) for o in state.outcomes] == [(12, "finished"), (13, "failed"), (14, "finished")]
    folder = tmp_path / folder_name(cells[1])
    assert "thirteen" in (folder / "error.txt").read_text() and "Traceback" in (folder / "error.txt").read_text()
    assert state.outcomes[1].text == "ValueError: thirteen is unlucky" and not state.left
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "[2/3]" in lines[1] and "failed after" in lines[1] and "left" in lines[1] and "left" not in lines[2]
    assert [folder_state(tmp_path / folder_name(cell)) for cell in cells] == ["finished", "failed", "finished"]
    again = run_grid(cells, out=tmp_path)
    assert [o.cell.seed for o in again.outcomes] == [13] and sorted(begun(tmp_path)) == [1, 1, 2]
    monkeypatch.setattr(spread, "run_experiment", lambda data, folder, *a, **k: (folder / "results.json").write_text('{"seconds": 1}'))
    assert run_grid(cells, out=tmp_path).outcomes[0].status == "finished" and not (folder / "error.txt").exists()


def test_ctrl_c_ends_the_table_and_gives_the_claim_back(tmp_path, played, monkeypatch):
    def stopped(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(spread, "run_experiment", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_grid(cells_of([0, 1]), out=tmp_path)
    assert list(tmp_path.rglob(FILE)) == [] and (tmp_path / "runs.csv").exists()


def play_table(out: Path, go, counts) -> None:
    go.wait()
    counts.put(len(run_grid(cells_of(range(12)), out=out, show=lambda state: None).left))


def test_two_tables_on_one_folder_share_the_cells(tmp_path, played):
    go, counts = FORK.Event(), FORK.Queue()
    tables = [FORK.Process(target=play_table, args=(tmp_path, go, counts)) for _ in range(2)]
    [table.start() for table in tables]
    go.set()
    assert [counts.get(timeout=60) for _ in tables] == [0, 0]
    [table.join() for table in tables]
    assert begun(tmp_path) == [1] * 12 and len(pd.read_csv(tmp_path / "runs.csv")) == 12 and list(tmp_path.rglob(FILE + "*")) == []


def test_a_table_waits_for_a_cell_of_another_and_takes_it_over_where_that_one_dies(tmp_path, played):
    cells = cells_of([0, 1])
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder = tmp_path / folder_name(cells[0])
    folder.mkdir()
    (folder / FILE).write_text(json.dumps(asdict(mine()) | {"pid": other.pid, "birth": claims.birth(other.pid)}))
    assert folder_state(folder) == "at work"
    seen = []

    def show(state):
        seen.append(state.outcomes[-1].cell.seed)
        other.kill()
        other.wait()

    assert not run_grid(cells, out=tmp_path, show=show).left
    assert seen == [1, 0]


@pytest.mark.parametrize("claim, said", [
    ("{", "another process may be, whose claim.json can't be read, at work there"),
    ('{"host": "elsewhere", "pid": 7}', "process 7 on elsewhere is at work there"),
])
def test_a_table_says_once_what_it_waits_for(tmp_path, played, monkeypatch, capsys, claim, said):
    cells, naps = cells_of([0]), []
    folder = tmp_path / folder_name(cells[0])
    folder.mkdir()
    (folder / FILE).write_text(claim)

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            os.utime(folder / FILE, (0, 0))  # nobody has touched it for long
            assert folder_state(folder) == "to do"

    monkeypatch.setattr(spread, "sleep", nap)
    assert not run_grid(cells, out=tmp_path).left and len(naps) == 3
    assert [line for line in capsys.readouterr().err.splitlines() if "waiting" in line] == [f"waiting for {folder}: {said}"]


def test_a_cell_that_kills_its_process_is_tried_alone_and_then_has_failed(tmp_path, played, monkeypatch):
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    rounds = []

    def spread_with_deaths(tasks, jobs, client, one_by_one):
        "As `spread`, with processes that die when they are to run the cell of seed 1."
        rounds.append(([task.cell.seed for task in tasks], one_by_one))
        for task in tasks:
            folder = tmp_path / folder_name(task.cell)
            claim = read_claim(folder / FILE)
            if task.cell.seed == 1 and (claim is None or claim.deaths < spread.DEATHS - 1):
                folder.mkdir(exist_ok=True)
                deaths = 0 if claim is None else claim.deaths + 1
                (folder / FILE).write_text(json.dumps(dead_claim(deaths=deaths)))
                raise TerminatedWorkerError("killed")
            yield task()

    monkeypatch.setattr(spread, "spread", spread_with_deaths)
    state = run_grid(cells_of([0, 1, 2]), out=tmp_path, jobs=2)
    assert {o.cell.seed: o.status for o in state.outcomes} == {0: "finished", 1: "failed", 2: "finished"}
    assert rounds == [([0, 1, 2], False), ([2], False), ([1], True), ([1], True), ([1], True)]
    assert f"its process died {spread.DEATHS} times" in state.outcomes[-1].text and list(tmp_path.rglob(FILE)) == []


def test_processes_that_die_before_any_run_end_the_table(tmp_path, played, monkeypatch):
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    def dying(*a, **k):
        raise TerminatedWorkerError("killed")
        yield

    monkeypatch.setattr(spread, "spread", dying)
    with pytest.raises(RuntimeError, match="die before they begin"):
        run_grid(cells_of([0]), out=tmp_path, jobs=2)


def test_the_time_left_goes_by_method_size_and_steps(tmp_path, played):
    cells = read_grid({**TINY, "steps": 4, "labels": 6, "axes": {"method": ["enc", "umtl"], "seed": [0, 1]}})
    assert seconds_left(begin(cells, tmp_path)) is None
    run_grid(cells[:1], out=tmp_path, show=lambda state: None)  # 2 seconds, as its results say
    assert seconds_left(begin(cells, tmp_path)) == pytest.approx(6)  # the other method is taken to be as fast
    assert seconds_left(begin(cells, tmp_path, workers=3)) == pytest.approx(2)
    larger = [replace(cell, size=64, steps=8) for cell in cells]
    assert work(larger[0]) == 8 * work(cells[0])
    state = begin(cells[:1] + larger, tmp_path)
    state.add(spread.Outcome(larger[1], "finished", 400.0))  # umtl
    rates = {"enc": 2 / work(cells[0]), "umtl": 400 / work(larger[1])}
    assert seconds_left(state) == pytest.approx(sum(rates[cell.method] * work(cell) for cell in state.left)) and len(state.left) == 3


def test_runs_on_other_data_and_impossible_jobs_are_refused(tmp_path, played, xrays):
    run_grid(cells_of([0]), out=tmp_path / "out")
    with pytest.raises(InputError, match="holds runs on phantoms, not on .*xrays"):
        run_grid(cells_of([1]), xrays, tmp_path / "out")
    with pytest.raises(InputError, match="jobs is 0"):
        run_grid(cells_of([1]), out=tmp_path / "new", jobs=0)
    with pytest.raises(InputError, match="labels 31 asked, but .*xrays has"):
        run_grid(cells_of([1], labels=31), xrays, tmp_path / "new")
    with pytest.raises(InputError, match="nowhere"):
        run_grid(cells_of([1]), tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(InputError, match="--scheduler no-address"):
        run_grid(cells_of([1]), out=tmp_path / "new2", scheduler="no-address")
    assert not (tmp_path / "new").exists() and begun(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}"])
@pytest.mark.parametrize("name", ["table.json", "results.json"])
def test_a_damaged_file_beside_the_runs_is_named(tmp_path, played, name, text):
    run_grid(cells_of([0]), out=tmp_path)
    file = tmp_path / name if name == "table.json" else tmp_path / folder_name(cells_of([0])[0]) / name
    file.write_text(text)
    with pytest.raises(InputError, match=f"{re.escape(str(file))}: is damaged"):
        run_grid(cells_of([0]), out=tmp_path)
    file.unlink()
    assert not run_grid(cells_of([0]), out=tmp_path).left


@pytest.mark.parametrize("name", ["config.json", "results.json"])
def test_a_damaged_run_of_another_table_is_named(tmp_path, played, name):
    run_grid(cells_of([0]), out=tmp_path)
    file = tmp_path / folder_name(cells_of([0])[0]) / name
    file.write_text("[]")
    with pytest.raises(InputError, match=f"{re.escape(str(file))}: is damaged"):
        write_runs(tmp_path)


def test_a_table_goes_on_only_with_the_data_it_was_begun_with(tmp_path, played, xrays, monkeypatch):
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "cache"))
    mine = shutil.copytree(xrays, tmp_path / "mine")
    run_grid(cells_of([0]), mine, tmp_path / "out")
    first = json.loads((tmp_path / "out/table.json").read_text())
    assert first["data"] == str(mine) and list(first["checksums"]) == ["32"]
    run_grid(cells_of([1], size=48), mine, tmp_path / "out")  # as it was, and at another size
    assert list(json.loads((tmp_path / "out/table.json").read_text())["checksums"]) == ["32", "48"]
    moved = mine / "kermany/chest_xray/test/NORMAL"
    (moved / "IM-0030.png").rename(moved.parent / "PNEUMONIA/IM-0030.png")  # one label is corrected
    with pytest.raises(InputError, match="mine has other images, labels or masks now than when the runs in .*out were begun"):
        run_grid(cells_of([2]), mine, tmp_path / "out")
    assert len(begun(tmp_path / "out")) == 2
    run_grid(cells_of([2]), mine, tmp_path / "new")


# the command


def test_the_command_lists_runs_and_says_what_failed(tmp_path, played, capsys):
    grid = grid_file(tmp_path, "size = 32\nlabels = 6\nsteps = 3\n[axes]\nmethod = ['enc']\nseed = [12, 13]\n")
    words = ["table", str(grid), "--out", str(tmp_path / "out")]
    assert main([*words, "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 2 and all(line.startswith("to do ") for line in listed) and not (tmp_path / "out").exists()
    assert main(words) == 1
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and "error.txt: ValueError: thirteen is unlucky" in printed[0]
    assert printed[1] == f"1 of 2 runs are finished: {tmp_path / 'out' / 'runs.csv'}"
    assert main([*words, "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["finished", "failed"]
    assert main([*words, "--steps", "4", "--list"]) == 0
    assert capsys.readouterr().out.count("steps=4") == 2
    assert main([*words, "--amp", "bf16", "--list"]) == 0
    assert capsys.readouterr().out.count("amp=bf16") == 2
    assert main([*words, "--amp", "auto", "--list"]) == 0
    assert capsys.readouterr().out.count("amp=bf16") == (2 if pick_amp("auto", pick_device()) == "bf16" else 0)


@pytest.mark.parametrize("words, said", [
    (["nowhere.toml"], "nowhere.toml: no such file"), (["paper", "--jobs", "0"], "jobs is 0"), (["paper", "--size", "100"], "size=100"),
    (["paper", "--data", "nowhere"], "nowhere"), (["paper", "--steps", "0"], "steps is 0"),
    (["paper", "--amp", "double"], "double"), (["paper", "--device", "abacus"], "abacus"),
])
def test_the_command_refuses_bad_input_in_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["table", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("multimix: error: ") and said in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []


# the file of all runs


def test_a_run_is_a_row_with_all_that_it_was_asked_and_found(tmp_path):
    results = {"method": "unet", "seconds": 3.5, "version": "0.1", "in_domain": {"segmentation": {"dice": 0.9, "n": 7, "hd95": None,
               "ci95": {"dice": [0.8, 0.95], "hd95": None}}}, "cross_domain": {}}
    assert flatten(results)["in_domain_segmentation_dice_low"] == 0.8
    for seed in (1, 0):
        cell = make_config(method="unet", masks=3, labels="all", seed=seed)
        folder = tmp_path / folder_name(cell)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(asdict(cell)))
        (folder / "results.json").write_text(json.dumps(results))
    runs = pd.read_csv(write_runs(tmp_path))
    assert runs["seed"].tolist() == [0, 1] and runs["run"].tolist() == sorted(runs["run"])
    assert set(asdict(cell)) <= set(runs) and runs["labels"].isna().all() and runs["masks"].tolist() == [3, 3]
    row = runs.iloc[0]
    assert (row["in_domain_segmentation_dice"], row["in_domain_segmentation_dice_high"]) == (0.9, 0.95)
    assert row["seconds"] == 3.5 and row["version"] == 0.1 and pd.isna(row["in_domain_segmentation_hd95"])
    assert {file.suffix for file in tmp_path.iterdir() if file.is_file()} == {".csv"}


# real runs


@pytest.fixture(scope="module")
def xrays(tmp_path_factory) -> Path:
    "Sixty images of noise in the layout of a public set, with classes."
    root = tmp_path_factory.mktemp("data") / "xrays"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 32, 32), dtype=np.uint8)
    for k, place in enumerate(f"{split}/{name}" for split in ("train", "test") for name in ("NORMAL", "PNEUMONIA")):
        (root / "kermany/chest_xray" / place).mkdir(parents=True)
        for i in range(15):
            Image.fromarray(pixels[15 * k + i]).save(root / "kermany/chest_xray" / place / f"IM-{15 * k + i:04}.png")
    return root


@pytest.fixture
def environment(tmp_path, monkeypatch):
    "One thread a process, here too, and a cache of the test's own."
    monkeypatch.setenv("MULTIMIX_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    torch.set_num_threads(threads)


def table_words(tmp_path: Path, xrays: Path, steps: int, seeds: int) -> tuple[list[str], list[Path]]:
    "The command of a table of `enc` with so many seeds, and the folders of its cells."
    spec = {**TINY, "labels": 6, "steps": steps}
    lines = [f"{name} = {value}" for name, value in spec.items()]
    grid = grid_file(tmp_path, "\n".join([*lines, "[axes]", "method = ['enc']", f"seed = {list(range(seeds))}"]))
    words = [str(BIN / "multimix"), "table", str(grid), "--data", str(xrays), "--out", str(tmp_path / "out"), "--device", "cpu"]
    return words, [tmp_path / "out" / folder_name(cell) for cell in read_grid(grid)]


def stamps(folder: Path) -> dict:
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_a_killed_table_goes_on_where_it_was(tmp_path, xrays, environment):
    words, (first, second) = table_words(tmp_path, xrays, steps=300, seeds=2)
    table = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    last = second / "last.pt"
    wait_for(lambda: last.exists() and torch.load(last, weights_only=True)["step"] > 1)  # that of the first step is there at once
    table.send_signal(signal.SIGKILL)
    table.wait()
    assert not (second / "results.json").exists() and (second / FILE).exists() and folder_state(second) == "begun"
    state = torch.load(second / "last.pt", weights_only=True)
    assert state["step"] in (100, 200)
    state["history"][0]["mark"] = 1.0  # a resumed run keeps it
    torch.save(state, second / "last.pt")
    before = stamps(first)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "2 of 2 runs are finished" in done.stdout and "[2/2]" in done.stderr, done.stderr
    assert stamps(first) == before and "mark" in pd.read_csv(second / "history.csv")
    config = json.loads((second / "config.json").read_text())
    run_experiment(xrays, tmp_path / "plain", progress=False, device="cpu", **config)
    ours, plain = (torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (second, tmp_path / "plain"))
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    runs = pd.read_csv(tmp_path / "out/runs.csv")
    assert runs["seed"].tolist() == [0, 1] and runs["in_domain_classification_auroc"].between(0, 1).all()
    assert runs["version"].tolist() == [__version__] * 2 and list(tmp_path.rglob(FILE)) == []


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a process doesn't learn that its parent has gone")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_table_leaves_no_process_at_work(how, tmp_path, xrays, environment):
    words, folders = table_words(tmp_path, xrays, steps=5000, seeds=2)
    table = subprocess.Popen([*words, "--jobs", "2"], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: all(map(is_held, folders)))
    assert all(read_claim(folder / FILE).pid != table.pid for folder in folders)
    table.send_signal(how)
    table.wait()
    wait_for(lambda: not any(map(is_held, folders)), seconds=60)
    assert {folder_state(folder) for folder in folders} <= {"begun", "to do"}


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_table_in_two_processes_loses_one_and_no_run(tmp_path, xrays, environment):
    words, folders = table_words(tmp_path, xrays, steps=300, seeds=3)
    table = subprocess.Popen([*words, "--jobs", "2"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def saved():
        "The folder of a run that has a checkpoint and is not finished, and who trains it."
        assert table.poll() is None, table.stderr.read()
        begun = [folder for folder in folders if (folder / "last.pt").exists() and not (folder / "results.json").exists()]
        return next(((folder, claim) for folder in begun if (claim := read_claim(folder / FILE)) and claim.pid), None)

    folder, claim = wait_for(saved)
    assert claim.pid != table.pid
    os.kill(claim.pid, signal.SIGKILL)
    wait_for(lambda: claims.birth(claim.pid) != claim.birth)
    assert not (folder / "results.json").exists()
    printed, said = table.communicate(timeout=300)
    assert table.returncode == 0 and f"3 of 3 runs are finished: {tmp_path / 'out/runs.csv'}" in printed, said
    assert all(folder_state(folder) == "finished" for folder in folders) and list(tmp_path.rglob(FILE)) == []
    assert pd.read_csv(tmp_path / "out/runs.csv")["seed"].tolist() == [0, 1, 2]


@pytest.fixture
def cluster(tmp_path, environment):
    "A dask scheduler and two workers, as processes; gives what starts one more process (it ends with the test), the address, the workers."
    pytest.importorskip("distributed", reason="needs the extra dask")
    dask, file, started = shutil.which("dask", path=str(BIN)), tmp_path / "scheduler.json", []

    def start(words, **options):
        started.append(subprocess.Popen(words, cwd=tmp_path, env=environment, **options))
        return started[-1]

    def start_dask(*words):
        log = open(tmp_path / f"dask-{len(started)}.log", "w")
        return start([dask, *words, "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)], stderr=log)

    def address() -> str | None:
        "Where the scheduler listens, once its file is written to the end."
        try:
            return json.loads(file.read_text())["address"]
        except (OSError, ValueError):
            return None

    try:
        start_dask("scheduler", "--port", "0")
        wait_for(address)
        workers = [start_dask("worker", "--nthreads", "1", "--no-nanny") for _ in range(2)]
        yield start, address(), workers
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_cluster_loses_a_worker_and_no_run(tmp_path, xrays, environment, cluster):
    start, address, workers = cluster
    words, folders = table_words(tmp_path, xrays, steps=60, seeds=4)
    log = open(tmp_path / "table.log", "w")
    table = start([*words, "--scheduler", address], stderr=log, stdout=subprocess.PIPE, text=True)

    def at_work():
        "A worker and the folder of the cell that it trains."
        assert table.poll() is None, (tmp_path / "table.log").read_text()
        for folder in folders:
            claim = read_claim(folder / FILE)
            for worker in workers:
                if claim is not None and claim.pid == worker.pid and (folder / "config.json").exists():
                    return worker, folder
        return None

    victim, folder = wait_for(at_work)
    victim.kill()
    victim.wait()
    assert not (folder / "results.json").exists()
    printed = table.communicate(timeout=300)[0]
    assert table.returncode == 0, (tmp_path / "table.log").read_text()
    assert f"4 of 4 runs are finished: {tmp_path / 'out/runs.csv'}" in printed
    assert all((folder / "results.json").exists() for folder in folders) and list(tmp_path.rglob(FILE)) == []
    assert len(pd.read_csv(tmp_path / "out/runs.csv")) == 4
