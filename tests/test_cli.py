"""The `multimix` command in processes of its own: what it prints, what it returns, and what it leaves behind."""
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import multimix
from multimix.cli import main, make_parser, stopped_text, summary
from multimix.phantom import make_phantom

COMMAND = shutil.which("multimix", path=str(Path(sys.executable).parent))
TINY = ["--size", "32", "--batch", "4", "--seed", "1"]


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict:
    "Caches in a folder of the tests; nothing else from outside."
    return {**os.environ, "MULTIMIX_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def run(environment, tmp_path):
    "Call the command in an empty folder; gives the finished process."

    def call(*words, ok=True):
        done = subprocess.run([COMMAND, *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert not ok or done.returncode == 0, done.stderr
        return done

    return call


def save_images(folder: Path, images: np.ndarray, suffix: str) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"person{i}_bacteria_{i}.{suffix}")


@pytest.fixture(scope="session")
def xrays(tmp_path_factory) -> Path:
    "A folder in the layout of the public sets, filled with a few phantoms: kermany and montgomery."
    root = tmp_path_factory.mktemp("xrays")
    phantoms = make_phantom(72, size=48, seed=5)
    for split, part in (("train", slice(0, 48)), ("test", slice(48, 72))):
        for label, name in enumerate(("NORMAL", "PNEUMONIA")):
            chosen = phantoms.images[part][phantoms.labels[part] == label]
            save_images(root / f"kermany/chest_xray/{split}/{name}", chosen, "jpeg")
    save_images(root / "montgomery/images", phantoms.images[:8], "png")
    save_images(root / "montgomery/masks", phantoms.masks[:8, 0] * 255, "png")
    return root


@pytest.fixture
def broken(xrays, tmp_path) -> Path:
    "A copy of `xrays` to be damaged."
    return Path(shutil.copytree(xrays, tmp_path / "broken"))


def assert_refused(done, *said: str) -> None:
    "One line on stderr, besides progress bars, that says `said`; nothing on stdout; exit code 2."
    lines = [line for line in re.split(r"[\r\n]+", done.stderr) if line.strip() and not re.search(r"(it|step)/s\]$", line)]
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert len(lines) == 1 and lines[0].startswith("multimix: error: "), done.stderr
    assert [word for word in said if word not in lines[0]] == [], lines[0]


def left_behind(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# what can be answered without a run


def test_version(run):
    assert run("--version").stdout.strip() == f"multimix {multimix.__version__}"


def test_help_names_every_choice(run):
    from multimix.methods import METHODS, PRESETS
    from multimix.pseudo_labels import POLICIES

    text = run("train", "--help").stdout
    assert [name for name in (*METHODS, *PRESETS, *POLICIES) if name not in text] == []


def test_version_and_help_do_not_load_torch(environment):
    code = "import sys; from multimix.cli import make_parser; make_parser(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


# bad input


@pytest.mark.parametrize("words, said", [
    (["train", "--size", "100"], "100"),
    (["train", "--preset", "best"], "best"),
    (["train", "--data", "nowhere"], "nowhere"),
    (["train", "--labels", "1000000"], "labels"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_request_is_refused(run, tmp_path, words, said):
    assert_refused(run(*words, "--out", "run", ok=False), said)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("words, said", [
    ([], "train|evaluate|explain|table|report|app|download|audit|bench"),
    (["trian"], "trian"),
    (["train", "--step", "5"], "--step"),
    (["train", "--steps", "many"], "--steps"),
    (["train", "--steps", "0"], "steps"),
    (["train", "--batch", "0"], "batch"),
    (["train", "--labels", "-4"], "labels"),
    (["train", "--masks", "-4"], "masks"),
    (["train", "--masks", "1000000"], "masks"),
    (["train", "--size", "0"], "size"),
    (["train", "--method", "multimics"], "multimics"),
    (["train", "--policy", "lenient"], "lenient"),
    (["train", "--balance", "tilted"], "balance 'tilted'"),
    (["train", "--amp", "int8"], "int8"),
    (["train", "--device", "abacus"], "abacus"),
    (["train", "--resume", "--out", "nowhere"], "nowhere"),
    (["evaluate", "nowhere"], "nowhere"),
    (["explain", "nowhere", "image.png"], "nowhere"),
    (["explain", "nowhere"], "IMAGE"),
    (["report", "nowhere"], "nowhere"),
    (["app"], "RUN"),
    (["app", "nowhere", "--port", "eight"], "--port"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_words_are_refused(tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    printed, errors = capfd.readouterr()
    assert_refused(subprocess.CompletedProcess(words, code, printed, errors), said)
    assert left_behind(tmp_path) == []


def test_app_and_report_get_what_the_words_say(monkeypatch, capsys):
    monkeypatch.setattr("multimix.app.serve", lambda *given: print(*given))
    assert main("app one two --images here --port 1 --no-browser".split()) == 0
    assert capsys.readouterr().out.split("\n")[0] == "['one', 'two'] ['here'] 1 127.0.0.1 False"
    monkeypatch.setattr("multimix.table_report.write_table_report", lambda *given, pictures: (*given, pictures))
    assert main("report runs --data phantom --out page.html --against umtl --figures here".split()) == 0
    assert capsys.readouterr().out == "('runs', 'phantom', 'page.html', 'umtl', 'here')\n"


def test_data_without_anything_to_learn_from_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_refused(run("train", "--data", "empty", "--out", "run", ok=False), "empty")
    assert left_behind(tmp_path) == []


def test_a_file_in_place_of_the_data_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert_refused(run("train", "--data", "file", "--out", "run", ok=False), "file")


def test_out_that_is_a_file_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("precious")
    assert_refused(run("train", *TINY, "--steps", "1", "--out", "file", ok=False), "file")
    assert (tmp_path / "file").read_text() == "precious"


def spoil_class(root: Path) -> str:
    for path in (root / "kermany/chest_xray/train/PNEUMONIA").iterdir():
        path.unlink()
    return "PNEUMONIA"


def spoil_image(root: Path) -> str:
    path = sorted((root / "kermany/chest_xray/train/NORMAL").iterdir())[3]
    path.write_bytes(path.read_bytes()[:200])
    return path.name


def spoil_mask_size(root: Path) -> str:
    path = sorted((root / "montgomery/masks").iterdir())[2]
    Image.fromarray(np.zeros((48, 20), np.uint8)).save(path)
    return path.name


def spoil_mask_name(root: Path) -> str:
    path = sorted((root / "montgomery/images").iterdir())[2]
    path.unlink()
    return path.stem


@pytest.mark.parametrize("spoil", [spoil_class, spoil_image, spoil_mask_size, spoil_mask_name], ids=lambda f: f.__name__)
def test_spoilt_folder_is_refused(run, tmp_path, broken, spoil):
    said, before = spoil(broken), left_behind(broken)
    assert_refused(run("train", "--data", broken, *TINY, "--labels", "8", "--method", "enc", "--out", "run", ok=False), said)
    assert not (tmp_path / "run").exists() and left_behind(broken) == before


def test_a_split_that_shares_an_image_is_refused_and_says_how_to_allow_it(run, tmp_path, broken):
    first = sorted((broken / "kermany/chest_xray/train/NORMAL").iterdir())[0]
    shutil.copy(first, broken / "kermany/chest_xray/test/NORMAL/copy.jpeg")
    done = run("train", *TINY, "--steps", "2", "--method", "enc", "--labels", "8", "--data", broken, "--out", "r", ok=False)
    assert_refused(done, "test/NORMAL/copy.jpeg is identical to", first.name, "--allow-shared")
    assert not (tmp_path / "r").exists()


def test_a_shared_split_can_be_allowed(monkeypatch):
    import multimix.experiments as experiments
    asked = []
    monkeypatch.setattr(experiments, "run_experiment", lambda **settings: asked.append(settings["allow_shared"]) or {})
    assert main(["train", "--allow-shared"]) == main(["train"]) == 0 and asked == [True, False]


def test_more_labels_than_there_are_is_refused(run, tmp_path, xrays):
    assert_refused(run("train", "--data", xrays, *TINY, "--labels", "500", "--method", "enc", "--out", "run", ok=False), "500")
    assert not (tmp_path / "run").exists()


def test_method_that_needs_masks_is_refused_where_there_are_none_to_train_on(run, tmp_path, xrays):
    assert_refused(run("train", "--data", xrays, *TINY, "--labels", "8", "--method", "unet", "--out", "run", ok=False), "unet")
    assert not (tmp_path / "run").exists()


# the machine is too small, or nobody listens


@pytest.mark.parametrize("error", [
    MemoryError("Unable to allocate 2.33 TiB for an array with shape (64, 100000, 100000)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\n(12)"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
], ids=lambda error: type(error).__name__)
def test_too_little_memory_is_one_line(monkeypatch, capsys, error):
    monkeypatch.setattr("multimix.experiments.run_experiment", lambda **settings: (_ for _ in ()).throw(error))
    code = main(["train"])
    assert_refused(subprocess.CompletedProcess([], code, *capsys.readouterr()), "not enough memory", "--size", "--batch")


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr("multimix.experiments.run_experiment", lambda **settings: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["train"])


def played_command(tmp_path, redirected: str, environment: dict) -> subprocess.CompletedProcess:
    "Run `multimix evaluate run`, which looks at stderr and prints a long line of a Greek letter, with a shell's redirection."
    (tmp_path / "played.py").write_text("import sys\nfrom multimix import cli, experiments\ncli.summary = lambda results: results\n"
                                        "experiments.evaluate_run = lambda run, **more: sys.stderr.isatty() or 'α' * 100_000\n"
                                        "sys.exit(cli.main(['evaluate', 'run']))\n", encoding="utf-8")
    line = f"{shlex.quote(sys.executable)} played.py {redirected}"
    words = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not shutil.which("bash"), reason="a shell's pipes")
@pytest.mark.parametrize("redirected", ["| true", "| head -c 2 >&2"])
def test_a_reader_that_goes_early_is_no_error(tmp_path, environment, redirected):
    done = played_command(tmp_path, redirected, environment | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 141 and len(done.stderr) <= 1


@pytest.mark.skipif(not shutil.which("bash"), reason="a shell's redirections")
@pytest.mark.parametrize("redirected, letters", [("", 100_000), ("2>&-", 100_000), (">&-", 0), (">&- 2>&-", 0)])
def test_closed_streams_and_other_letters_do_not_spoil_the_end(tmp_path, environment, redirected, letters):
    done = played_command(tmp_path, redirected, environment | {"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\\u03b1") == letters


# runs


@pytest.fixture(scope="module")
def finished(environment, tmp_path_factory) -> Path:
    "A folder that holds `run`, a finished tiny run of multimix on phantoms."
    folder = tmp_path_factory.mktemp("finished")
    words = ["train", *TINY, "--steps", "4", "--balance", "proportional", "--out", "run"]
    done = subprocess.run([COMMAND, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "in_domain" in done.stdout and "dice" in done.stdout
    return folder


def test_run_folder_holds_what_it_should(finished):
    files = {"config.json", "history.csv", "last.pt", "best.pt", "results.json", "report.html"}
    assert files <= set(left_behind(finished / "run")) and not list(finished.rglob("*.part"))
    results = json.loads((finished / "run/results.json").read_text())
    head = {"method": "multimix", "preset": "corrected", "seed": 1, "size": 32, "steps": 4}
    assert {key: results[key] for key in head} == head
    assert json.loads((finished / "run/config.json").read_text())["balance"] == "proportional"
    assert {"labels", "masks", "seconds", "images_per_second", "in_domain", "cross_domain"} <= set(results)
    for domain in ("in_domain", "cross_domain"):
        scores = results[domain]
        assert {"accuracy", "balanced_accuracy", "auroc", "auprc", "f1_normal", "f1_pneumonia", "ece", "n", "constant_accuracy",
                "ci95"} <= set(scores["classification"])
        assert {"dice", "jaccard", "precision", "recall", "hd95", "assd", "ssim", "n", "ci95"} <= set(scores["segmentation"])


def test_report_needs_no_other_file(finished):
    html = (finished / "run/report.html").read_text(encoding="utf-8")
    assert "data:image/" in html and 'src="http' not in html and 'href="http' not in html


def test_evaluate_repeats_the_numbers_of_the_run(run, finished):
    def scores(text):
        return [line for line in text.splitlines() if line.startswith(("in_domain", "cross_domain"))]

    results = json.loads((finished / "run/results.json").read_text())
    assert scores(run("evaluate", finished / "run").stdout) == scores(summary(results)) != []


def test_evaluate_on_other_data(run, finished, xrays):
    printed = run("evaluate", finished / "run", "--data", xrays).stdout
    assert "classification n=24" in " ".join(printed.split())


def test_evaluate_refuses_bad_data(run, finished):
    assert_refused(run("evaluate", finished / "run", "--data", "nowhere", ok=False), "nowhere")


def test_explain_writes_a_figure_for_each_image(run, finished, tmp_path, xrays):
    images = sorted((xrays / "montgomery/images").iterdir())[:2]
    printed = run("explain", finished / "run", *images).stdout.split()
    figures = [(tmp_path / path) for path in printed]
    assert len(set(figures)) == 2
    for figure in figures:
        assert min(Image.open(figure).size) > 32


def test_explain_writes_where_it_is_told(run, finished, tmp_path, xrays):
    image = sorted((xrays / "montgomery/images").iterdir())[0]
    assert run("explain", finished / "run", image, "--out", "figures").stdout.split() == [f"figures/{image.stem}.png"]
    assert left_behind(tmp_path) == [f"figures/{image.stem}.png"]


def test_explain_refuses_what_is_no_image(run, finished, tmp_path):
    (tmp_path / "letter.png").write_text("Dear colleague")
    assert_refused(run("explain", finished / "run", "letter.png", ok=False), "letter.png")
    assert_refused(run("explain", finished / "run", "missing.png", ok=False), "missing.png")


def test_a_folder_that_holds_a_run_is_not_written_over(run, finished):
    before = {path: path.stat().st_mtime_ns for path in (finished / "run").iterdir()}
    assert_refused(run("train", *TINY, "--steps", "4", "--out", finished / "run", ok=False), "resume")
    assert_refused(run("train", *TINY, "--steps", "5", "--out", finished / "run", "--resume", ok=False), "steps")
    assert {path: path.stat().st_mtime_ns for path in (finished / "run").iterdir()} == before


def start_and_stop(environment, folder: Path, words: list[str], number: int, ready: str) -> subprocess.Popen:
    "Start the command, send it signal `number` as soon as the file `ready` is there; gives the ended process."
    errors = (folder / "stderr").open("w+")
    process = subprocess.Popen([COMMAND, *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # ignored where tests run in the background
    deadline = time.monotonic() + 240
    while not (folder / ready).exists():
        assert process.poll() is None and time.monotonic() < deadline, (folder / "stderr").read_text()
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(60)
    errors.close()
    return process


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_run_resumes_to_the_same_weights(run, environment, tmp_path, xrays):
    words = ["train", *TINY, "--data", str(xrays), "--labels", "8", "--method", "enc_ssl", "--steps", "130", "--out"]
    run(*words, "whole")
    killed = start_and_stop(environment, tmp_path, [*words, "broken"], signal.SIGKILL, "broken/last.pt")
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "broken/results.json").exists()
    run(*words, "broken", "--resume")
    whole, broken = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "broken"))
    assert whole["step"] == broken["step"] == 130
    assert all(torch.equal(whole["model"][key], broken["model"][key]) for key in whole["model"])

    def scores(name):
        results = json.loads((tmp_path / name / "results.json").read_text())
        return {key: value for key, value in results.items() if "second" not in key}

    assert scores("whole") == scores("broken")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("out", ["my run", None])
def test_ctrl_c_says_how_to_go_on(environment, tmp_path, xrays, out):
    words = ["train", *TINY, "--data", str(xrays), "--labels", "8", "--method", "enc", "--steps", "5000"]
    folder = out or "runs/enc-corrected-1"
    words += ["--out", out] if out else []
    stopped = start_and_stop(environment, tmp_path, words, signal.SIGINT, f"{folder}/config.json")
    said = (tmp_path / "stderr").read_text()
    assert stopped.returncode == 130 and "Traceback" not in said
    again = ["multimix", *words, *([] if out else ["--out", folder]), "--resume"]
    assert said.splitlines()[-1] == "multimix: stopped; to go on, run: " + shlex.join(again)


@pytest.mark.parametrize("begun", [False, True])
def test_after_a_stop_the_line_to_go_on_with_is_one_that_works(tmp_path, begun):
    words = ["train", "--steps", "5", "--out", str(tmp_path)]
    if begun:
        (tmp_path / "config.json").write_text("{}")
    said = stopped_text(words, make_parser().parse_args(words))
    assert said.endswith(" --resume") is begun and str(tmp_path) in said
    assert "--resume" not in stopped_text(words[:3], make_parser().parse_args(words[:3]))  # nothing was begun: the same line again
