"""A table of runs: what is read, grouped, compared and refused; the published numbers; the page that needs nothing else."""

import csv
import html
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_table import made_data, made_run

from multimix import published as pb
from multimix import table_report as report
from multimix import table_runs as tr
from multimix import table_text as text
from multimix.comparisons import bootstrap_p, holm
from multimix.data import InputError


@pytest.fixture(scope="module")
def data():
    return made_data(patients=True)


@pytest.fixture(scope="module")
def table(data, tmp_path_factory):
    "umtl_s and multimix at two budgets, enc at one; multimix is better at the classes."
    folder = tmp_path_factory.mktemp("table")
    for seed in range(4):
        made_run(folder, data, "enc", seed, skill=0.5, luck=0.1, masks="all")
        for labels in (100, "all"):
            made_run(folder, data, "umtl_s", seed, skill=0.5, luck=0.1, labels=labels)
            made_run(folder, data, "multimix", seed, skill=2.5, luck=0.1, labels=labels)
    return folder


@pytest.fixture(scope="module")
def runs(table):
    return tr.read_runs(table)


@pytest.fixture(scope="module")
def drawn(runs):
    return tr.all_replicates(runs, draws=200)


@pytest.fixture(scope="module")
def entries(runs):
    return tr.group_runs(runs)


def line(entries, variant, labels=100):
    return next(e for e in entries if e.variant == variant and e.held["labels"] == labels)


def test_lines_stand_in_the_order_of_the_paper_and_leave_out_what_a_method_does_not_use(entries):
    found = [(e.variant, e.held["labels"], e.held["masks"], sorted(e.runs)) for e in entries]
    seeds = [0, 1, 2, 3]
    assert found == [("enc", 100, None, seeds), ("umtl_s", 100, 10, seeds), ("umtl_s", "all", 10, seeds), ("multimix", 100, 10, seeds),
                     ("multimix", "all", 10, seeds)]


def test_the_first_replicate_is_what_results_json_says(runs, drawn):
    for run in runs[::5]:
        for domain in ("in_domain", "cross_domain"):
            for task in run.results[domain].values():
                for metric, value in task.items():
                    if (run.folder, domain, metric) in drawn:
                        assert drawn[run.folder, domain, metric][0] == pytest.approx(value, abs=1e-5)


def test_the_summary_has_means_spreads_and_intervals(runs, entries, drawn):
    summary = tr.summarise_runs(entries, drawn)
    row = summary[(summary.variant == "multimix") & (summary.labels == 100) & (summary.metric == "auroc")
                  & (summary.domain == "in_domain")].iloc[0]
    values = [r.results["in_domain"]["classification"]["auroc"] for r in line(entries, "multimix").runs.values()]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["sd"] == pytest.approx(np.std(values, ddof=1)) and row["seeds"] == 4
    assert 0 <= row["low"] < row["mean"] < row["high"] <= 1 and row["n"] == 60
    constants = summary[summary.metric == "accuracy"]["constant"]
    assert (constants == 0.5).all() and len(constants) == 10


def test_a_gain_is_found_and_the_family_is_corrected(entries, drawn):
    found = tr.compare_runs(entries, drawn, "multimix")
    assert set(found.b) == {"enc", "umtl_s"}
    auroc = found[(found.metric == "auroc") & (found.domain == "in_domain")]
    assert len(auroc) == 3 and (auroc.difference > 0).all() and (auroc.p_holm >= auroc.p).all()
    assert auroc.verdict.str.startswith("multimix above").any()
    assert auroc.wilcoxon.isna().all() and found[found.metric == "dice"].wilcoxon.notna().all()


def test_the_sides_of_a_comparison_can_be_swapped(entries, drawn):
    a, b = line(entries, "multimix"), line(entries, "umtl_s")
    there, back = (tr.compare_entries(x, y, "in_domain", "dice", drawn) for x, y in ((a, b), (b, a)))
    for name in ("difference", "rank_biserial", "d_z"):
        assert there[name] == pytest.approx(-back[name])
    assert there["wilcoxon"] == pytest.approx(back["wilcoxon"])


def test_the_same_answers_twice_are_not_distinguishable(data, tmp_path):
    for seed in range(3):
        place = made_run(tmp_path, data, "umtl_s", seed)
        copy = tmp_path / place.name.replace("umtl_s", "multimix")
        shutil.copytree(place, copy)
        (copy / "results.json").write_text((copy / "results.json").read_text().replace("umtl_s", "multimix"))
    entries = tr.group_runs(runs := tr.read_runs(tmp_path))
    found = tr.compare_runs(entries, tr.all_replicates(runs, 100))
    assert (found.difference == 0).all() and (found.p == 1).all() and found.verdict.str.startswith("not distinguishable").all()


def test_what_a_method_does_not_read_is_no_part_of_its_name(data, tmp_path):
    for method in ("umtl_s", "multimix"):
        for policy in ("fixed", "softmatch")[: 1 + (method == "multimix")]:
            made_run(tmp_path, data, method, 0, policy=policy)
    assert {e.variant for e in tr.group_runs(tr.read_runs(tmp_path))} == {"umtl_s", "multimix", "multimix, policy=fixed"}


def test_accuracy_of_each_patient_is_a_mean_of_images(runs):
    numbers = runs[0].numbers["in_domain"]["classification"]
    scores = tr.image_scores(numbers, "accuracy")
    assert len(scores) == 30 and scores.mean() == pytest.approx(runs[0].results["in_domain"]["classification"]["accuracy"])
    assert tr.image_scores(numbers, "auroc") is None


def test_an_ablation_is_named_after_what_it_changes(data, tmp_path):
    for threshold in (0.5, 0.9):
        made_run(tmp_path, data, "multimix", 0, threshold=threshold)
    made_run(tmp_path, data, "umtl_s", 0)
    default = tr.asdict(tr.make_config())["threshold"]
    names = {e.variant for e in tr.group_runs(tr.read_runs(tmp_path))}
    assert names == {"umtl_s"} | {"multimix" if t == default else f"multimix, threshold={t}" for t in (0.5, 0.9)}


# what is refused


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(InputError, match="no results.json"):
        tr.read_runs(tmp_path)
    with pytest.raises(InputError, match="no results.json"):
        report.write_table_report(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"method": "enc"}'])
def test_results_that_are_none(table, tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match="results.json: not the results of a run"):
        tr.read_runs(tmp_path)


def test_unequal_seeds_are_refused_and_a_table_takes_the_common_ones(entries, drawn):
    a, b = line(entries, "multimix"), line(entries, "umtl_s")
    fewer = tr.replace(b, runs={s: b.runs[s] for s in (0, 2)})
    with pytest.raises(InputError, match=r"seeds \[0, 1, 2, 3\], umtl_s \[0, 2\]"):
        tr.compare_entries(a, fewer, "in_domain", "dice", drawn)
    assert set(tr.compare_runs([fewer, a], drawn)["seeds"]) == {2}


def test_other_test_images_are_refused(entries, table, tmp_path):
    place = made_run(tmp_path, made_data(seed=1), "umtl_s", 0)
    a, b = (tr.replace(e, runs={0: e.runs[0]}) for e in (line(entries, "multimix"), *tr.group_runs([tr.read_run(place)])))
    with pytest.raises(InputError, match="judged on other in_domain images"):
        tr.paired_images(a, b, "in_domain", "segmentation")


def test_a_run_without_numbers_is_named_and_left_out_of_a_table(entries, data, tmp_path):
    for method in ("umtl_s", "multimix"):
        made_run(tmp_path, data, method, 0, keep=method == "multimix")
    old, new = tr.group_runs(runs := tr.read_runs(tmp_path))
    with pytest.raises(InputError, match="no predictions.npz with in_domain/segmentation"):
        tr.paired_images(new, old, "in_domain", "segmentation")
    drawn = tr.all_replicates(runs, 50)
    assert not len(tr.compare_runs([old, new], drawn))
    assert any("kept no numbers" in note for note in text.table_warnings(tr.summarise_runs([old, new], drawn)))


def test_the_same_run_twice_is_refused(data, tmp_path):
    place = made_run(tmp_path / "a", data, "enc", 0)
    shutil.copytree(place, tmp_path / "b" / place.name)
    with pytest.raises(InputError, match="same settings and seed"):
        tr.group_runs(tr.read_runs(tmp_path))


def test_a_reference_that_is_not_there(entries, drawn):
    with pytest.raises(InputError, match="no line 'unet'.*enc, multimix, umtl_s"):
        tr.compare_runs(entries, drawn, "unet")


# the published table


def test_the_published_table_is_whole_and_its_defects_are_computed():
    rows = pb.read_rows()
    marks = [pb.defects(row) for row in rows]
    assert len(rows) == 108 and sum("†" in m.get("dice", "") for m in marks) == 26
    crossed = [m for row, m in zip(rows, marks) if row["domain"] == "cross_domain" and row["accuracy"] is not None]
    assert len(crossed) == 51 and all("¶" in m["accuracy"] for m in crossed)
    best = pb.published_row("in_domain", "multimix", "all", 50)
    assert (best["accuracy"], best["f1_normal"], best["dice"]) == (0.854, 0.76, 0.972)
    assert pb.published_row("in_domain", "multimix", 7, 10) is None


def test_published_precision_and_recall_below_jaccard_and_swapped_columns_are_marked():
    found = {mark: sorted({(row["domain"], row["method"], row["labels"], row["masks"]) for row in pb.read_rows()
                           for marks in pb.outline_defects(row).values() if mark in marks}, key=str) for mark in "△▽◇"}
    assert found["△"] == [("cross_domain", "umtl_ssl", 1000, 50), ("cross_domain", "unet", None, "all"), ("in_domain", "umtl", "all", 10),
                          ("in_domain", "umtl", 1000, "all")]
    assert found["▽"] == [("cross_domain", "umtl_s", "all", 50), ("in_domain", "umtl", "all", 10)] and len(found["◇"]) == 96
    assert pb.defects(pb.published_row("in_domain", "umtl", "all", 10)) == {"dice": "†", "precision": "△", "ssim": "▽", "distance": "◇▽"}
    assert pb.outline_defects(pb.published_row("in_domain", "enc", 100, None)) == {}


def test_accuracy_follows_from_the_f1_scores():
    rng = np.random.default_rng(0)
    for _ in range(50):
        true, said = rng.integers(0, 2, (2, 40))
        f1 = [2 * ((true == c) & (said == c)).sum() / ((true == c).sum() + (said == c).sum()) for c in (0, 1)]
        assert pb.accuracy_of(*f1) == pytest.approx((true == said).mean())


# texts and page


def test_the_published_numbers_stand_only_beside_the_papers_test_sets(entries, drawn):
    summary = tr.summarise_runs(entries, drawn)
    assert not text.fits_paper(summary) and all(row.kind != "published" for row in text.table_rows(summary, "in_domain"))
    as_paper = summary.assign(n=summary["metric"].map(lambda m: 123 if m in ("dice", "jaccard") else 624))
    rows = text.table_rows(as_paper, "cross_domain")
    assert [row.kind for row in rows].count("published") == 5
    assert "¶" in text.markdown_table(rows) and text.MARKS["¶"] in text.markdown_table(rows)
    latex = text.latex_table(rows, "50% of a_b")
    assert r"umtl\_s" in latex and r"50\% of a\_b" in latex and latex.count(r"\begin") == latex.count(r"\end") == 2
    widths = {row.count("&") for row in latex.splitlines() if "&" in row}
    assert widths == {len(text.shown_metrics(rows)) + 3}


def outline_tables(summary):
    return {t.heading.split(":")[0].lower().replace(" ", "_"): t.rows for t in text.report_tables(summary) if t.level == 3}


def in_three_forms(rows):
    "Each row's texts, as Markdown, LaTeX and HTML write them, without what only one of the three has."
    markdown = [[t.strip(" *") for t in row[1:-1].split("|")] for row in text.markdown_table(rows).splitlines() if row.startswith("|")]
    latex = [row.replace(r"\midrule", "").replace(r"\bottomrule", "").rstrip("\\ ") for row in text.latex_table(rows).splitlines()]
    plain = {written: mark for mark, written in text._LATEX.items()} | {r"\textit{": "", "}": ""}
    for written, mark in plain.items():
        latex = [row.replace(written, mark) for row in latex]
    page = [re.findall("<t[dh].*?>(.*?)</t[dh]>", row) for row in text.html_table(rows).split("<tr")[1:]]
    return markdown[:1] + markdown[2:], [[t.strip() for t in row.split("&")] for row in latex if "&" in row], page


def test_the_second_table_is_what_results_json_says_in_each_form(entries, drawn):
    tables = outline_tables(tr.summarise_runs(entries, drawn))
    lines = [e for e in entries if e.method != "enc"]
    assert list(tables) == ["in_domain", "cross_domain"]
    for domain, rows in tables.items():
        assert text.shown_metrics(rows) == (metrics := ["precision", "recall", "ssim", "hd95", "assd"])
        expected = []
        for entry in lines:
            results = [json.loads((run.folder / "results.json").read_text())[domain]["segmentation"] for run in entry.runs.values()]
            values = np.array([[r[m] for m in metrics] for r in results])
            numbers = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(values.mean(0), values.std(0, ddof=1))]
            expected.append([entry.variant, str(entry.held["labels"]), "10", "4", *numbers])
        for heads, *body in in_three_forms(rows):
            assert body == expected and heads[1:] == ["labels", "masks", "seeds", "Precision", "Recall", "SSIM", "HD95, px", "ASSD, px"]


def test_published_numbers_of_the_second_table_are_those_of_the_data_file_with_their_marks(entries, drawn):
    summary = tr.summarise_runs(entries, drawn)
    umtl = {name: summary[name].str.replace("umtl_s", "umtl") for name in ("method", "variant")}
    as_paper = summary.assign(n=summary["metric"].map(lambda m: 624 if m in ("accuracy", "auroc") else 123), **umtl)
    with open(Path(pb.__file__).with_name("published.csv"), newline="") as file:
        printed = {(r["domain"], r["method"], r["labels"], r["masks"]): r for r in csv.DictReader(file)}
    for domain, rows in outline_tables(as_paper).items():
        names = ["precision", "recall", "ssim", "distance"]
        for heads, *body in in_three_forms(rows):
            assert heads[-1] == "Average Hausdorff" and len(body) == 8
            for ours, theirs in zip(body[::2], body[1::2]):
                row = printed[(domain, *ours[:3])]
                assert theirs[:4] == ["published", *ours[1:3], "5"] and theirs[7:9] == ["", ""] and ours[9] == ""
                assert [t.strip("△▽◇") for t in (*theirs[4:7], theirs[9])] == [row[m] for m in names]
                if (domain, *ours[:3]) == ("in_domain", "umtl", "all", "10"):
                    assert theirs[4:] == ["0.912△", "0.962", "0.521▽", "", "", "0.903◇▽"]
        for write, plain in ((text.markdown_table, str), (text.html_table, html.escape), (text.latex_table, str)):
            assert (plain(pb.MARKS["△"]) in write(rows)) == (domain == "in_domain") and plain(pb.MARKS["◇"]) in write(rows)


def test_what_has_no_interval_is_neither_compared_nor_warned_of(entries, drawn):
    summary = tr.summarise_runs(entries, drawn)
    rest = summary[summary["metric"].isin(text.OUTLINE_METRICS)]
    assert len(rest) == 4 * 2 * 5 and rest["low"].isna().all() and not any("kept no numbers" in w for w in text.table_warnings(summary))
    assert not set(tr.compare_runs(entries, drawn)["metric"]) & set(text.OUTLINE_METRICS)


def test_a_second_table_is_written_only_where_a_line_has_outlines(table, data, tmp_path):
    for seed in (0, 1):
        made_run(tmp_path / "enc", data, "enc", seed)
    for folder, count in ((table, 2), (tmp_path / "enc", 0)):
        page = report.write_table_report(folder, out=tmp_path / "page.html", draws=20)
        for name in (".html", ".md", ".tex"):
            written = page.with_suffix(name).read_text(encoding="utf-8")
            assert written.count("domain: more on the outlines") == written.count("HD95, px") == count and "Average Haus" not in written


class Page(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.open, self.addresses, self.tags = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_beside_itself(table, tmp_path):
    begun = table / "method=unet,seed=9"
    begun.mkdir()
    (begun / "config.json").write_text("{}")
    (begun / "error.txt").write_text("out of memory")
    path = report.write_table_report(table, out=tmp_path / "page.html", draws=100)
    shutil.rmtree(begun)
    names = {"page.html", "page.md", "page.tex", "page-summary.csv", "page-comparisons.csv"}
    assert {p.name for p in tmp_path.iterdir()} == names and path == tmp_path / "page.html"
    written = path.read_text(encoding="utf-8")
    page = Page(written)
    assert not page.open and not {"script", "link", "iframe"} & set(page.tags) and "http" not in written
    assert page.tags.count("img") == 7 and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert "1 of the runs failed" in written and "always the commonest class" in written and "not distinguishable" in written
    with open(tmp_path / "page-comparisons.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and {"p_holm", "wilcoxon_holm", "rank_biserial", "d_z", "verdict"} <= set(rows[0])
    assert (tmp_path / "page.md").read_text().count("multimix against") == 16


def test_figures_are_files_too_where_a_folder_is_named(table, tmp_path):
    report.write_table_report(table, out=tmp_path / "page.html", draws=20, pictures=tmp_path / "new/figures")
    files = sorted((tmp_path / "new/figures").iterdir())
    assert len(files) == Page((tmp_path / "page.html").read_text()).tags.count("img") and "boxes.png" in {f.name for f in files}
    assert all(file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 3000 for file in files)
    with pytest.raises(InputError, match="page.html.*folder of figures"):
        report.write_table_report(table, out=tmp_path / "page.html", draws=20, pictures=tmp_path / "page.html")


def test_the_names_of_runs_are_harmless_in_the_page(data, tmp_path):
    made_run(tmp_path, data, "enc_ssl", 0, policy="<script>")
    made_run(tmp_path, data, "enc_ssl", 0, policy="fixed")
    written = report.write_table_report(tmp_path, draws=20).read_text()
    assert "<script>" not in written and "&lt;script&gt;" in written


def test_a_report_that_fails_leaves_the_old_one(table, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    out.write_text("old")
    monkeypatch.setattr(report, "table_html", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.write_table_report(table, out=out, draws=10)
    assert out.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_networks_are_asked_again_and_drawn(tmp_path):
    from multimix.experiments import run_experiment
    from multimix.phantom import phantom_data

    small = phantom_data(32, labels=8, masks=3, n=40, test=24)
    settings = dict(labels=8, masks=3, size=32, steps=2, batch=2, unlabeled=2, width=4, seed=0)
    place = tmp_path / "method=multimix,seed=0"
    run_experiment(small, out=place, progress=False, device="cpu", method="multimix", **settings)
    (place / "predictions.npz").unlink()
    written = report.write_table_report(tmp_path, small, draws=20).read_text()
    assert (place / "predictions.npz").exists() and "<h3>Outlines</h3>" in written and "<h3>Saliency</h3>" in written
    other = phantom_data(32, labels=8, masks=3, n=40, test=28)
    with pytest.raises(InputError, match="others than multimix was judged on"):
        report.write_table_report(tmp_path, other, draws=20)
    assert json.loads((place / "results.json").read_text())["method"] == "multimix"


def test_maps_of_many_lines_are_those_of_six_and_plain_multimix_is_one(data, tmp_path, monkeypatch):
    from types import SimpleNamespace

    from multimix import saliency
    from multimix.methods import make_config
    from multimix.model import MultiMix
    from multimix.phantom import phantom_data

    methods = ["enc", "enc_ssl", "umtl", "umtl_s", "umtl_ssl", "umtl_ssl_s", "multimix"]
    for method in methods:
        made_run(tmp_path, data, method, 0)
    config, drawn = make_config(size=32, width=4), {}
    monkeypatch.setattr(report, "first_run", lambda entry: SimpleNamespace(model=MultiMix(width=4).eval(), config=config))
    monkeypatch.setattr(report, "check_images", lambda *a: None)  # the network is not the run's
    monkeypatch.setattr(saliency, "map_figure", lambda images, maps: drawn.update(maps))
    small = phantom_data(32, labels=8, masks=3, n=40, test=24)
    report.saliency_figure(tr.group_runs(tr.read_runs(tmp_path)), report.TableData(small))
    assert len(drawn) == 6 < len(methods) and "multimix" in drawn and set(drawn) < set(methods)


def test_data_made_ready_of_another_size_than_a_run_are_refused():
    from multimix.methods import make_config

    tests = report.TableData(made_data())
    assert tests.of(replace(make_config(size=32), size=16)) is tests.data
    with pytest.raises(InputError, match="of another size than 32"):
        tests.of(make_config(size=32))


def test_seeds_of_a_line_on_other_test_sets_are_refused(data, tmp_path):
    made_run(tmp_path, data, "multimix", 0), made_run(tmp_path, made_data(n=50, patients=True), "multimix", 1)
    with pytest.raises(InputError, match="seed=1.* was judged on other test sets than .*seed=0"):
        tr.summarise_runs(tr.group_runs(tr.read_runs(tmp_path)), {})


def test_lines_of_several_sizes_and_steps_are_told_apart(data, tmp_path):
    for method in ("unet", "umtl"):
        for steps in (1, 60):
            for seed in (0, 1):
                made_run(tmp_path, data, method, seed, steps=steps, labels=100)
    entries = tr.group_runs(tr.read_runs(tmp_path))
    assert {"unet, 10 masks, 1 steps", "unet, 10 masks, 60 steps"} < set(report.dice_sets(entries)) and len(report.dice_sets(entries)) == 4
    words = text.said_in_words(report.measure(entries, None, 50)[1])
    assert len({sentence.split(":")[0] for sentence in words}) == len(words)


@pytest.mark.parametrize("pairs", [1, 54, 500])
def test_a_long_table_can_still_tell_lines_apart(entries, drawn, monkeypatch, pairs):
    "By Holm the smallest p is multiplied by the number of comparisons: what no draw contradicts must stay far below 0.05."
    asked = []
    monkeypatch.setattr(report, "entry_pairs", lambda *_: [()] * pairs)
    monkeypatch.setattr(report, "all_replicates", lambda runs, draws: asked.append(draws) or drawn)
    report.measure(entries, None, None)
    assert max(holm([bootstrap_p(np.ones(asked[0]))] * pairs)) < 0.02 and asked[0] >= 2000
    report.measure(entries, None, 50)
    assert asked[1] == 50


def test_runs_that_were_judged_on_nothing_are_refused_in_one_line(tmp_path):
    made_run(tmp_path, made_data(), "unet", 0)
    results = json.loads((place := next(tmp_path.rglob("results.json"))).read_text())
    place.write_text(json.dumps(results | {"in_domain": {}, "cross_domain": {}}))
    place.with_name("predictions.npz").unlink()
    with pytest.raises(InputError, match="judged on no test set"):
        report.write_table_report(tmp_path)


def test_a_roc_curve_needs_class_1_and_others_and_says_which_it_draws():
    labels, probs = np.array([0, 2, 2, 0]), np.full((4, 3), 1 / 3)
    entry = lambda known: type("E", (), dict(variant="enc", runs={0: type("R", (), dict(numbers={"in_domain": {"classification": {
        "probs": probs, "labels": known}}}))}))
    assert report.roc_sets([entry(labels)]) == {} and set(report.roc_sets([entry(np.array([0, 1, 2, 0]))])) == {"in_domain"}
    figure = report.roc_seeds_figure({"in_domain": {"enc": [(probs, np.array([0, 1, 2, 0]))]}})
    assert figure.axes[0].get_legend().get_title().get_text() == "AUROC of class 1 against the rest"
