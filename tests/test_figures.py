"""Figures from plain arrays: nothing global, nothing lost at the edges, bad input named."""

import warnings

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from multimix import figures as fg
from multimix.data import InputError
from multimix.evaluation import classification_metrics


def sets(k=2, n=60):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(k), n).astype(np.float32)
    return {"in_domain": (probs, rng.integers(-1, k, n)), "cross_domain": (probs, rng.integers(0, k, n))}


def masks(n=5, channels=1):
    found = np.zeros((n, channels, 32, 32), np.uint8)
    found[..., 8:24, 4:14] = 1
    return found


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
HISTORY = [
    {"step": s, "loss": 1 / s, "ce": 1 / s, "kept": 0.5, "lr": 1e-3, **({"val_auroc": 0.9} if s == 20 else {})} for s in (10, 20, 30)
]


def every_figure():
    yield fg.boundary_figure(IMAGES, masks(), masks() * 0.9, names=list("abcde"))
    for k in (2, 3):
        yield from (fg.roc_figure(sets(k)), fg.reliability_figure(sets(k)), fg.confusion_figure(sets(k), list("abc")[:k]))
    yield fg.dice_figure({"in_domain": np.linspace(0, 1, 9)})
    yield fg.agreement_figure({"in_domain": (masks(), masks() * 0.9), "cross_domain": (masks(), 1 - masks())})
    yield fg.curves_figure(HISTORY)


def test_every_figure_draws_and_none_is_global():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in every_figure():
            assert isinstance(figure, Figure)
            figure.canvas.draw()
    assert plt.get_fignums() == before


def outlines(ax):
    return [c for c in ax.collections if isinstance(c, QuadContourSet)]


def test_boundaries_are_closed_at_the_edge_and_absent_for_empty_masks():
    truth, pred = np.ones((1, 1, 32, 32), np.uint8), np.zeros((1, 1, 32, 32), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = fg.boundary_figure(IMAGES[:1], truth, pred).axes[0]
    [line] = outlines(ax)
    [path] = line.get_paths()
    assert np.allclose(path.vertices[0], path.vertices[-1])
    assert np.allclose(path.get_extents().extents, [-0.5, -0.5, 31.5, 31.5])
    assert "Dice 0.000" in ax.get_title()


def test_boundaries_have_the_colours_of_the_paper_and_every_channel():
    from matplotlib.colors import to_rgb

    ax = fg.boundary_figure(IMAGES, masks(channels=2), masks(channels=2)).axes[0]
    colours = [c.get_edgecolor()[0][:3] for c in outlines(ax)]
    assert len(colours) == 4
    greens, reds = [c for c in colours if c[1] > max(c[0], c[2])], [c for c in colours if c[0] > max(c[1], c[2])]
    assert len(greens) == len(reds) == 2 and np.allclose(greens[0], to_rgb(fg.TRUTH))


@pytest.mark.parametrize("bad", [masks(4), masks()[:, 0], masks()[..., :16]])
def test_masks_that_do_not_fit_are_named(bad):
    for name, pair in (("truth", (bad, None)), ("pred", (None, bad))):
        with pytest.raises(InputError, match=f"{name}: shape"):
            fg.boundary_figure(IMAGES, *pair)


def test_labels_in_legends_are_the_metrics():
    for k in (2, 3):
        probs, labels = sets(k)["in_domain"]
        m = classification_metrics(probs, labels, list("abc")[:k], bootstrap=0)
        texts = [t.get_text() for t in fg.reliability_figure({"in_domain": (probs, labels)}).axes[0].get_legend().get_texts()]
        assert f"In domain: ECE {m['ece']:.3f}" in texts
        curves = [t.get_text() for t in fg.roc_figure({"in_domain": (probs, labels)}).axes[0].get_legend().get_texts()]
        areas = [float(t.rsplit(" ", 1)[1]) for t in curves if "AUROC" in t]
        assert np.mean(areas) == pytest.approx(m["auroc"], abs=1e-3) and len(areas) == (1 if k == 2 else 3)


def test_one_class_only_is_said():
    probs, _ = sets()["in_domain"]
    legend = fg.roc_figure({"in_domain": (probs, np.ones(len(probs), int))}).axes[0].get_legend().get_texts()
    assert "In domain: one class only" in [t.get_text() for t in legend]


def test_confusion_counts_known_labels_only():
    probs, labels = sets()["in_domain"]
    cells = [t.get_text().split("\n")[0] for t in fg.confusion_figure({"in_domain": (probs, labels)}, ["a", "b"]).axes[0].texts]
    assert sum(map(int, cells)) == (labels >= 0).sum() and int(cells[1]) == ((labels == 0) & (probs.argmax(1) == 1)).sum()


def test_agreement_shows_mean_and_limits():
    said = masks(5).astype(float)
    said[:, 0, 24:25, 4:14] = [[[1]], [[1]], [[1]], [[1]], [[0]]]  # four of five masks ten pixels too large
    title = fg.agreement_figure({"in_domain": (masks(), said)}).axes[0].get_title()
    assert title == "In domain\nmean +8, 95 % in -1 to +17"


def test_history_from_rows_and_from_a_file_agree(tmp_path):
    (tmp_path / "history.csv").write_text("step,loss,val_auroc,note\n10,0.5,,start\n20,nan,0.9,\n30,0.25,inf,end\n")
    rows = [
        {"step": 10, "loss": 0.5, "note": "start"},
        {"step": 20, "loss": float("nan"), "val_auroc": 0.9},
        {"step": 30, "loss": 0.25, "val_auroc": None},
    ]
    for history in (tmp_path / "history.csv", str(tmp_path / "history.csv"), rows):
        found = {name: [part.tolist() for part in curve] for name, curve in fg.read_history(history).items()}
        assert found == {"loss": [[10, 30], [0.5, 0.25]], "val_auroc": [[20], [0.9]]}
    assert fg.read_history([{"loss": 1}, {"loss": 2}])["loss"][0].tolist() == [0, 1]
    with pytest.raises(InputError, match="no-such.csv"):
        fg.read_history(tmp_path / "no-such.csv")


def test_curves_have_a_panel_for_each_kind_and_survive_nothing():
    titles = [ax.get_title() for ax in fg.curves_figure(HISTORY).axes]
    assert titles == ["losses", "validation", "shares", "learning rate"]
    fg.curves_figure([]).canvas.draw()
    assert [ax.get_title() for ax in fg.curves_figure([{"step": 1, "loss": 2}]).axes] == ["losses"]


@pytest.mark.parametrize("name, drawn", [
    ("IM$x_y$.png", "IM$x_y$.png"), (r"IM$\frac{$.png", r"IM$\frac{$.png"), ("caf\udce9.png", "caf?.png"), ("肺.png", "肺.png")])
def test_any_name_of_a_file_is_drawn_as_plain_text(name, drawn, tmp_path):
    figure = fg.explain_figure(IMAGES[0], (0.25, 0.75), ("clear", "ill"), masks()[0, 0], IMAGES[0] - 100.0, name)
    [title] = figure.texts
    assert title.get_text() == drawn + ": clear 0.25, ill 0.75" and not title.get_parse_math()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [path] = fg.save_figures([figure], [name], tmp_path)
    assert path.exists()


def test_spread_goes_from_the_worst_to_the_best():
    scores = np.random.default_rng(0).random(50)
    at = fg.spread(scores, 6)
    assert len(set(at)) == 6 and at[0] == scores.argmin() and at[-1] == scores.argmax() and (np.diff(scores[at]) > 0).all()
    assert sorted(fg.spread(scores[:3], 8)) == [0, 1, 2]
