"""The report: one file that needs nothing else, that says what is wrong, and is written whole or not at all."""

import base64
import json
import os
from html.parser import HTMLParser

import numpy as np
import pytest

from multimix import report as rp
from multimix.data import ImageSet, InputError, MultiTaskData
from multimix.evaluation import Predictions, evaluate
from multimix.figures import new_figure

CLASSES = ("normal", "pneumonia")


@pytest.fixture(scope="module")
def run():
    "Data, predictions and results of a model that is good at home and guesses away."
    rng, tests, predictions = np.random.default_rng(0), {}, {}
    for domain, skill in (("in_domain", 6), ("cross_domain", 0)):
        labels, masks = np.arange(80) % 2, np.zeros((80, 1, 32, 32), np.uint8)
        masks[:, :, 6:26, 6:26] = 1
        test = ImageSet(
            rng.integers(0, 256, (80, 32, 32), dtype=np.uint8), [str(i) for i in range(80)], labels=labels, masks=masks, classes=CLASSES
        )
        p = 1 / (1 + np.exp(-rng.normal(skill * (labels - 0.5), 1)))
        answer = Predictions(np.stack([1 - p, p], 1).astype(np.float32), (masks * 0.8).astype(np.float32))
        tests[domain], predictions[domain] = ({task: x for task in ("classification", "segmentation")} for x in (test, answer))
    data = MultiTaskData(tests=tests, classes=CLASSES)
    settings = {
        "method": "multimix",
        "preset": "corrected",
        "seed": 0,
        "labels": 40,
        "masks": 10,
        "size": 32,
        "steps": 300,
        "seconds": 71.25,
    }
    return data, predictions, settings | evaluate(None, data, predictions=predictions, bootstrap=200)


class Page(HTMLParser):
    "Tags that are opened and never closed, addresses that are asked for, and the text."

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.tags, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


HISTORY = [{"step": s, "loss": 1 / s} for s in (10, 20, 30)]


def test_the_page_needs_nothing_beside_itself(run, tmp_path):
    data, predictions, results = run
    figures = rp.report_figures(predictions, data, HISTORY)
    assert set(figures) == {
        "learning_curves",
        "roc",
        "reliability",
        "confusion",
        "dice",
        "agreement",
        "boundaries_in_domain",
        "boundaries_cross_domain",
    }
    path = rp.write_report(tmp_path, results, HISTORY, figures)
    assert path == tmp_path / "report.html" and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert len(page.addresses) == 8 and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert all(base64.b64decode(a.split(",")[1])[:4] == b"\x89PNG" for a in page.addresses)
    assert "http" not in text and "@import" not in text and "url(" not in text and 'name="viewport"' in text


def test_every_number_stands_in_the_page_with_its_interval(run):
    *_, results = run
    text = rp.report_html(results)
    for domain in ("in_domain", "cross_domain"):
        for task in ("classification", "segmentation"):
            m = results[domain][task]
            table = rp.metrics_html(m)
            assert table in text and f"{m['n']} test images" in text
            for name, (low, high) in m["ci95"].items():
                assert f"<b>{m[name]:.3f}</b>" in table and f"{low:.3f} to {high:.3f}" in table
    assert f"constant: {results['in_domain']['classification']['constant_accuracy']:.3f}" in text
    words = "".join(Page(text).text)
    assert "multimix · corrected" in words and "71.25" in words and "300" in words


def test_results_read_back_from_json_give_the_same_page(run):
    *_, results = run
    assert rp.report_html(json.loads(json.dumps(results))) == rp.report_html(results)


def test_a_good_result_earns_no_warning_and_a_bad_one_does(run):
    *_, results = run
    assert rp.findings({"in_domain": results["in_domain"]}) == []
    assert "None of the usual warnings" in rp.report_html({"in_domain": results["in_domain"]})
    away = rp.findings(results)
    assert away and all(note.startswith("Cross domain, classification") for note in away)
    assert any("guessing" in note for note in away) and any("constant classifier" in note for note in away)


FINE = {
    "accuracy": 0.9,
    "balanced_accuracy": 0.9,
    "auroc": 0.95,
    "auprc": 0.95,
    "f1_normal": 0.9,
    "f1_pneumonia": 0.9,
    "ece": 0.02,
    "n": 624,
    "constant_accuracy": 0.625,
    "ci95": {"accuracy": [0.88, 0.92], "auroc": [0.93, 0.97]},
}
LUNGS = {"dice": 0.95, "jaccard": 0.91, "n": 123, "ci95": {}}


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        ("classification", {"accuracy": 0.625}, "is not above the constant classifier's 0.625"),
        ("classification", {"ci95": {"accuracy": [0.6, 0.95]}}, "not clearly above the constant classifier's 0.625"),
        ("classification", {"auroc": 0.45, "ci95": {}}, "worse than guessing"),
        ("classification", {"auroc": 0.4, "ci95": {"auroc": [0.35, 0.45]}}, "worse than guessing"),
        ("classification", {"ci95": {"auroc": [0.49, 0.97]}}, "can't be told from guessing"),
        ("classification", {"auroc": None, "ci95": {"auroc": None}}, "one class only"),
        ("classification", {"f1_normal": 0.0}, "'normal'"),
        ("classification", {"ece": 0.2}, "ECE"),
        ("classification", {"n": 12}, "only 12"),
        ("segmentation", {"dice": 0.7, "jaccard": 0.6}, "low"),
        ("segmentation", {"dice": 0.926, "jaccard": 0.95}, "impossible"),
    ],
)
def test_each_warning_has_its_cause(task, change, words):
    sound = FINE if task == "classification" else LUNGS
    assert rp.findings({"in_domain": {task: sound}}) == []
    [note] = rp.findings({"in_domain": {task: sound | change}})
    assert words in note


def test_what_comes_from_outside_is_escaped(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"note": "<script>alert(1)</script>", "policy": {"name": "<i>"}}))
    evil = {f"f1_{'<b>'}" if k == "f1_normal" else k: v for k, v in FINE.items()} | {"f1_<b>": 0.0}
    figure, [[ax]] = new_figure(2, 2)
    text = rp.write_report(tmp_path, {"method": "a<b", "in_domain": {"classification": evil}}, figures={'"><script>': figure}).read_text()
    page = Page(text)
    assert "script" not in page.tags and "i" not in page.tags and not page.open
    assert "alert(1)" in "".join(page.text) and "a<b" in "".join(page.text)


def test_a_missing_value_is_said_not_invented():
    table = rp.metrics_html(FINE | {"auroc": None, "ci95": {"auroc": None}})
    assert "no value" in table and "None" not in table and "nan" not in table


def test_curves_are_drawn_from_the_history_where_no_figure_is_given(tmp_path):
    (tmp_path / "history.csv").write_text("step,loss\n1,2\n2,1\n")
    text = rp.write_report(tmp_path, {"in_domain": {}, "cross_domain": {}}, tmp_path / "history.csv").read_text()
    assert text.count("<img") == 1 and "Learning curves" in text
    assert rp.write_report(tmp_path, {}, []).read_text().count("<img") == 0


def test_a_missing_folder_is_named_and_not_made(tmp_path):
    with pytest.raises(InputError, match="no-such"):
        rp.write_report(tmp_path / "no-such", {})
    assert not (tmp_path / "no-such").exists()


@pytest.mark.parametrize("step", ["replace", "chmod"])
def test_a_failure_leaves_the_old_report_and_nothing_else(tmp_path, monkeypatch, step):
    path = rp.write_report(tmp_path, {"method": "first"})
    old = path.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        rp.write_report(tmp_path, {"method": "second"})
    assert path.read_text() == old and [p.name for p in tmp_path.iterdir()] == ["report.html"]
    monkeypatch.undo()
    assert "second" in rp.write_report(tmp_path, {"method": "second"}).read_text()


def test_figures_fit_what_there_is(run):
    data, predictions, _ = run
    masks_only = {"in_domain": {"segmentation": predictions["in_domain"]["segmentation"]}}
    assert set(rp.report_figures(masks_only, data)) == {"dice", "agreement", "boundaries_in_domain"}
    classes_only = {"in_domain": {"classification": predictions["in_domain"]["classification"]._replace(masks=None)}}
    assert set(rp.report_figures(classes_only, data)) == {"roc", "reliability", "confusion"}
    assert rp.report_figures({}, data) == {}
