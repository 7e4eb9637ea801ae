"""The widgets, driven without a browser: what a control does, what the functions below it answer, and what a visitor may send."""

import io
import json
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import tiny_config, tiny_data

from multimix import app as ap
from multimix import augmentation_explorer as au
from multimix import explorer as ex
from multimix import monitor as mo
from multimix import panels as pn
from multimix import pseudo_explorer as ps
from multimix import readings as rd
from multimix.data import ImageSet, InputError, MultiTaskData
from multimix.evaluation import predict
from multimix.methods import make_config
from multimix.model import MultiMix
from multimix.phantom import make_phantom
from multimix.saliency import METHODS, attribute
from multimix.training import Loop, Run, train

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "nbs").glob("*.ipynb"))
CHESTS = make_phantom(6, 32, seed=3)
ILL, WELL = int(np.flatnonzero(CHESTS.labels)[0]), int(np.flatnonzero(CHESTS.labels == 0)[0])
BOX = np.array([[4, 6, 20, 22]], np.float32)


def tiny_model(**options) -> MultiMix:
    return MultiMix(**{"width": 4, "saliency_scale": "max", "seed": 0, **options}).eval()


def pixels_of(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


class Counted(MultiMix):
    "Counts how often its encoder runs."

    calls = 0

    def encode(self, x, dropout=None):
        self.calls += 1
        return super().encode(x, dropout)


# pictures


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(40, 120))
def test_a_picture_has_the_size_that_was_asked_for_and_survives_png(height, width, side):
    small = np.random.default_rng(height).integers(0, 256, (height, width), dtype=np.uint8)
    big = pn.enlarge(small, side)
    assert max(big.shape[:2]) == side and big.dtype == np.uint8
    assert (pixels_of(pn.png(big)) == big).all()
    assert pn.beside([big, pn.titled(big, "x" * 300)]).shape[1] == 2 * big.shape[1] + 6


@pytest.mark.parametrize("mask", [np.zeros((8, 8)), np.ones((8, 8)), np.eye(8), np.full((8, 8), 0.5)])
def test_an_outline_is_drawn_in_a_copy_and_only_where_the_mask_ends(mask):
    plain = np.zeros((64, 64, 3), np.uint8)
    for dashed in (False, True):
        drawn = pn.outline(plain, mask, "#ff0000", dashed=dashed)
        assert not plain.any()
        assert drawn.any() == (0 < (mask > 0.5).sum())
        assert not drawn[20:44, 20:44].any() or mask.std() > 0  # a full mask ends at the edge of the image


def test_boxes_lie_where_they_are_said_to_be():
    drawn = pn.boxed(np.zeros((64, 64, 3), np.uint8), [[2, 3, 5, 7]], (8, 8))
    rows, columns = np.nonzero(drawn.any(2))
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (24, 16, 55, 39)
    assert not pn.boxed(np.zeros((9, 9, 3), np.uint8), [], (8, 8)).any()


@given(st.text(max_size=30))
def test_no_name_from_outside_becomes_markup(text):
    for made in (pn.bars([text], [0.5]), pn.facts({text: text}), pn.error_html(InputError(text)), pn.error_html(KeyError(text))):
        for tag in ("<script", "<img", "<a "):
            assert tag not in made
    assert "<b>x" not in pn.bars(["<b>x</b>"], [0.1])


# callbacks


class Divider(pn.Panel):
    def __init__(self):
        self.number, self.button, self.drawn = widgets.IntSlider(2, 0, 9), widgets.Button(), []
        super().__init__([self.number, self.button])
        self.on(lambda: self.drawn.append(12 // self.number.value), self.number, self.button)


def test_an_error_is_shown_and_goes_away_and_quiet_is_quiet():
    panel = Divider()
    panel.number.value = 0
    assert "ZeroDivisionError" in panel.message.value and panel.message in panel.children
    panel.number.value = 3
    assert panel.message.value == "" and panel.drawn == [4]
    with panel.quiet():
        panel.number.value = 0
        panel.button.click()
    assert panel.drawn == [4] and panel.message.value == ""
    panel.number.value = 6
    panel.button.click()
    assert panel.drawn == [4, 2, 2]


def test_quiet_ends_even_when_what_is_inside_fails():
    panel = Divider()
    with pytest.raises(RuntimeError), panel.quiet():
        raise RuntimeError
    panel.number.value = 4
    assert panel.drawn == [3]


def test_a_keyboard_interrupt_is_not_kept_back():
    panel = Divider()

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        panel.run(stop)


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 4))
def test_kept_answers_are_right_and_few(keys, most):
    kept = pn.Kept(most)
    for key in keys:
        assert kept(key, lambda key=key: key * 10) == key * 10
        assert len(kept.answers) <= most


# uploads


def both_versions(name: str, content: bytes):
    yield {name: {"metadata": {"name": name, "size": len(content)}, "content": content}}
    yield ({"name": name, "type": "", "size": len(content), "content": memoryview(content)},)


def test_uploads_of_both_versions_of_ipywidgets_are_read():
    for value in both_versions("a.png", b"abc"):
        assert pn.uploaded(value) == [("a.png", b"abc")]
    assert pn.uploaded({}) == pn.uploaded(()) == []


@pytest.mark.parametrize("name", ["a.png", "../../a.png", "/etc/passwd.png", "C:\\x\\a.png", "a" * 500 + ".png", "nul\0.png", ".png", ""])
def test_whatever_an_upload_is_called_it_is_read_from_a_folder_of_its_own(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    assert np.array_equal(np.round(pn.read_upload(name, pn.png(grey)) * 255), grey)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["x.png", "x.dcm", "x.npy", "x.IMG", "x"]))
def test_what_is_no_image_is_refused_under_its_owners_name(content, name):
    with pytest.raises(InputError) as error:
        pn.read_upload(name, content)
    assert str(error.value).startswith(name + ":") and "tmp" not in str(error.value)


def dicom_bytes(grey: np.ndarray) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset("x", {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = grey.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 1, 8, 8, 7, 0
    data.PhotometricInterpretation, data.Modality, data.PatientName = "MONOCHROME2", "DX", "Doe^Jane"
    data.PixelData = grey.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


# readings


def test_sets_come_from_whatever_data_is_given():
    assert list(rd.image_sets(CHESTS)) == ["images"] and len(rd.image_sets(None)["phantoms"]) == 60
    data = MultiTaskData(cls_val=CHESTS, seg_labeled=CHESTS, tests={"in_domain": {"classification": CHESTS}})
    assert list(rd.image_sets(data)) == ["In domain: classification", "Cls val", "Seg labeled"]
    for nothing in (MultiTaskData(), {}, {"a": None}, {"a": [1, 2]}, CHESTS.subset([])):
        with pytest.raises(InputError, match="data"):
            rd.image_sets(nothing)


def test_a_case_knows_what_the_set_knows():
    case = rd.take_case(CHESTS, ILL)
    assert case.label == 1 and len(case.boxes) and case.masks.shape == (1, 32, 32)
    bare = rd.take_case(ImageSet(CHESTS.images, CHESTS.names, labels=np.full(6, -1), classes=("a",)), 0)
    assert bare.label is None and bare.masks is None and len(bare.boxes) == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_bridge_says_what_its_name_says(seed):
    saliency = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    maps = {bridge: rd.bridge_map(saliency, bridge, BOX, seed) for bridge in rd.BRIDGES}
    assert all(m.shape == saliency.shape and m.dtype == saliency.dtype for m in maps.values())
    assert torch.equal(maps["on"], saliency) and not maps["zeroed"].any()
    assert torch.equal(maps["shuffled"].flatten().sort().values, saliency.flatten().sort().values)
    inside = maps["truth box"][0, 0, 6:22, 4:20]
    assert (inside == saliency.max()).all() and torch.isclose(maps["truth box"].sum(), inside.sum())


def test_a_bridge_that_cannot_be_is_refused():
    for bridge, word in (("truth box", "no box"), ("magic", "choose one of")):
        with pytest.raises(InputError, match=word):
            rd.bridge_map(torch.rand(1, 1, 32, 32), bridge)


@pytest.mark.parametrize("preset", ["corrected", "paper"])
def test_a_lens_says_what_the_run_says(preset):
    from multimix.judging import Judged

    run = Run(tiny_model(), make_config(preset, size=32, width=4), [], 0.0, 0.0)
    lens, image = rd.Lens(run), CHESTS.images[0]
    wanted = predict(Judged(run.model, run.config, "seg"), image[None])
    assert np.allclose(lens.masks(image), wanted.masks[0], atol=1e-5)
    assert np.allclose(lens.probs(image), predict(Judged(run.model, run.config, "cls"), image[None], masks=False).probs[0], atol=1e-6)
    found = attribute(Judged(run.model, run.config, "cls"), image[None], "gradient", 1)
    assert torch.allclose(lens.explain(image, "gradient", 1).maps, found.maps)


def test_the_network_is_asked_once_for_each_question():
    model = Counted(width=4, seed=0).eval()
    lens, case = rd.Lens(model), rd.take_case(CHESTS, ILL)
    first = rd.read_case(lens, case)
    calls = model.calls
    assert calls > 0
    for smoothing in (0, 2, 1.0):
        again = rd.read_case(lens, case, smoothing=smoothing)
    assert model.calls == calls and (again.heat == first.heat).all()
    rd.read_case(lens, case, bridge="zeroed")
    assert model.calls > calls


@pytest.mark.parametrize("options", [{"decoder": False, "bridge": False}, {"bridge": False}, {}])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_reads_every_network(options, method):
    found = rd.read_case(rd.Lens(tiny_model(**options)), rd.take_case(CHESTS, ILL), method)
    assert found.heat.shape == (32, 32) and found.heat.min() >= 0 and found.hit in (True, False)
    assert (found.masks is None) == (options.get("decoder") is False)
    assert (found.completeness is None) == (method != "integrated_gradients")
    assert pixels_of(pn.png(ex.draw_reading(found, side=64))).shape[2] == 3


def test_a_run_that_only_segments_explains_nothing():
    run = Run(tiny_model(bridge=False), make_config(method="unet", size=32, width=4), [], 0.0, 0.0)
    found = rd.read_case(rd.Lens(run), rd.take_case(CHESTS, 0))
    assert found.probs is None and found.heat is None and found.dice is not None
    assert "Dice" in ex.tell_reading(found) and ex.reading_figure(found)
    explorer = ex.SaliencyExplorer(run, CHESTS, side=64)
    assert explorer.controls.method.disabled and explorer.controls.bridge.disabled and explorer.message.value == ""


def test_a_picture_says_what_lay_on_the_bridge():
    found = rd.read_case(rd.Lens(tiny_model()), rd.take_case(CHESTS, ILL), bridge="zeroed")
    pictures = {pn.png(ex.draw_reading(found._replace(bridge=bridge))) for bridge in rd.BRIDGES}  # the same masks
    assert found.bridge == "zeroed" and len(pictures) == len(rd.BRIDGES)
    assert "zeroed" in ex.tell_reading(found) and "zeroed" not in ex.tell_reading(found._replace(bridge="on"))


# the explorer


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def explorer(model):
    return ex.SaliencyExplorer(model, CHESTS, side=64)


def test_every_control_changes_what_is_shown_and_nothing_fails(explorer):
    c = explorer.controls
    c.number.value = ILL
    changes = [(c.method, m) for m in METHODS[1:]] + [(c.target, 1), (c.target, 0), (c.opacity, 0.3), (c.threshold, 0.5)]
    changes += [(c.smoothing, 3.0), (c.method, "gradient"), *((c.bridge, bridge) for bridge in ("truth box", "zeroed", "shuffled"))]
    for control, value in changes:
        shown, told = explorer.picture.value, explorer.text.value
        control.value = value
        assert explorer.message.value == ""
        assert (shown, told) != (explorer.picture.value, explorer.text.value), (control.description, value)


def test_a_change_is_drawn_once(explorer, monkeypatch):
    drawn = []
    monkeypatch.setattr(ex, "png", lambda pixels: drawn.append(pixels) or pn.png(pixels))
    for change in (explorer.controls.next.click, explorer.controls.random.click, lambda: setattr(explorer.controls.opacity, "value", 0.2),
                   lambda: ex.add_image(explorer, "own.png", np.zeros((40, 50), np.float32)),
                   lambda: setattr(explorer.controls.source, "value", "images")):
        before = len(drawn)
        change()
        assert len(drawn) == before + 1


def test_no_choice_stands_for_none_which_older_ipywidgets_show_as_nothing(explorer):
    choices = [control for control in vars(explorer.controls).values() if isinstance(control, widgets.Dropdown)]
    assert len(choices) == 4 and not [c for c in choices if c.value is None or None in c._options_values]
    assert explorer.read().target == int(explorer.read().probs.argmax())


def test_the_buttons_go_around_the_end(explorer):
    c = explorer.controls
    c.previous.click()
    assert c.number.value == 5
    c.next.click()
    assert c.number.value == 0
    for _ in range(5):
        before = c.number.value
        c.random.click()
        assert c.number.value != before


def test_model_calls_wait_for_the_release(explorer):
    c = explorer.controls
    assert c.number.continuous_update is False and c.opacity.continuous_update is True


def test_an_own_file_of_any_kind_and_shape_joins_the_sets(explorer):
    grey = np.random.default_rng(1).integers(0, 256, (50, 70), dtype=np.uint8)
    for name, content in (("own.png", pn.png(grey)), ("<b>own</b>.dcm", dicom_bytes(grey))):
        assert "own files" in explorer.sets or name == "own.png"
        ex.add_image(explorer, name, pn.read_upload(name, content))
        assert explorer.message.value == "" and explorer.controls.source.value == "own files"
    assert len(explorer.sets["own files"]) == explorer.controls.number.max + 1 == 2
    assert "<b>own" not in explorer.text.value and "&lt;b&gt;own" in explorer.text.value
    assert explorer.read().case.label is None and explorer.read().hit is None


def test_an_upload_that_is_no_image_is_named_in_the_widget(explorer):
    shown = explorer.picture.value
    explorer.controls.upload = None
    for value in both_versions("notes.txt", b"no image"):
        explorer.controls.upload = type("Upload", (), {"value": value})
        explorer.run(lambda: ex.take_upload(explorer))
        assert "notes.txt" in explorer.message.value and explorer.picture.value == shown


def test_a_network_that_fails_is_seen(model, monkeypatch):
    explorer = ex.SaliencyExplorer(model, CHESTS, side=64)
    monkeypatch.setattr(rd, "attribute", lambda *a, **k: 1 / 0)
    explorer.controls.method.value = "smoothgrad"
    assert "ZeroDivisionError" in explorer.message.value
    explorer.controls.method.value = "gradient"  # was kept
    assert explorer.message.value == ""


def test_the_figure_is_offered_and_saved_whole(explorer, tmp_path):
    explorer.controls.save.click()
    assert 'download="phantom-3-00000-gradient.png"' in explorer.link.value
    path = ex.save_explorer(explorer, tmp_path / "figure.png")
    assert Image.open(path).size[0] > 300 and [p.name for p in tmp_path.iterdir()] == ["figure.png"]
    explorer.controls.opacity.value = 0.1
    assert explorer.link.value == ""  # a link to what is no longer shown would mislead


# the augmentation explorer


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(au.VIEWS), st.sampled_from(("any", *au.OPS)), st.integers(1, 10), st.integers(0, 50))
def test_an_augmented_mask_stays_a_mask_and_the_seed_decides(view, operation, strength, seed):
    image, masks = CHESTS.images[0], CHESTS.masks[0]
    changed, moved, said = au.augmented(image, masks, view, operation, strength, seed)
    again = au.augmented(image, masks, view, operation, strength, seed)
    assert changed.dtype == moved.dtype == np.uint8 and changed.shape == image.shape and moved.shape == masks.shape
    assert set(np.unique(moved)) <= {0, 1} and said
    assert (changed == again[0]).all() and (moved == again[1]).all()
    assert (au.augmented(image, None, view, operation, strength, seed)[0] == changed).all()


@pytest.mark.parametrize("operation", au.GEOMETRIC)
def test_a_mask_moves_with_its_image(operation):
    grey = CHESTS.masks[0, 0] * 255  # an image that is its own mask
    for seed in (0, 1):
        changed, moved, _ = au.augmented(grey, CHESTS.masks[0], "one operation", operation, 10, seed)
        assert (changed == moved[0] * 255).all() and (moved != CHESTS.masks[0]).any()


def test_what_cannot_be_augmented_is_refused():
    for wrong in ({"view": "x"}, {"strength": 0}, {"operation": "Swirl"}):
        with pytest.raises(InputError):
            au.augmented(CHESTS.images[0], **wrong)
    for image, mask in ((CHESTS.images[0] / 255, None), (CHESTS.images, None), (CHESTS.images[0], np.zeros((3, 3)))):
        with pytest.raises(InputError, match="image"):
            au.AugmentationExplorer(image, mask)


@pytest.mark.parametrize("given", [(None,), (CHESTS,), (CHESTS.images[0],), (CHESTS.images[0], CHESTS.masks[0, 0])])
def test_every_handle_of_the_augmentation_explorer_changes_the_picture(given):
    explorer = au.AugmentationExplorer(*given, side=64)
    changes = [(explorer.strength, 3), (explorer.operation, "Solarize"), (explorer.view, "weak"), (explorer.seed, 7)]
    for control, value in [*changes, (explorer.view, "strong")]:
        shown = bytes(explorer.picture.value)
        control.value = value
        assert explorer.message.value == "" and bytes(explorer.picture.value) != shown


# the pseudo-label explorer


@pytest.fixture(scope="module")
def guesses():
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (2, 40, 32, 32), dtype=np.uint8)
    probs = rng.dirichlet((0.3, 0.3), 40).astype(np.float32)
    return ps.Guesses(*views, probs, rng.integers(-1, 2, 40), probs[:5], ("normal", "pneumonia"))


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1))
def test_the_fixed_threshold_keeps_what_reaches_it_and_the_counts_add_up(threshold):
    rng = np.random.default_rng(1)
    probs, truth = rng.dirichlet((0.5, 0.5), 50).astype(np.float32), rng.integers(-1, 2, 50)
    guesses = ps.Guesses(*np.zeros((2, 50, 32, 32), np.uint8), probs, truth, None, ("a", "b"))
    targets, weights = ps.judge(guesses, "fixed", threshold)
    kept = torch.from_numpy(probs).max(1).values >= threshold
    assert (targets == probs.argmax(1)).all() and (weights == kept.float().numpy()).all()
    *rows, whole = ps.count(guesses, targets, weights)
    assert all(sum(row[k] for row in rows) == whole[k] for k in ("guessed", "kept", "known", "right"))
    assert whole["kept"] == int(kept.sum()) and whole["right"] <= whole["known"] <= whole["kept"] <= whole["guessed"] == 50


def test_the_table_of_counts_tells_nothing_kept_from_truth_unknown():
    row = dict(guessed=9, kept=4, known=0, right=0)
    texts = ps.count_html([row | {"class": "a"}, row | {"class": "b", "kept": 0}, row | {"class": "c", "known": 3, "right": 2}])
    assert [texts.count(f">{said}<") for said in ("unknown", "none", "2 of 3")] == [1, 1, 1]


@pytest.mark.parametrize("policy", ["fixed", "flexmatch", "freematch", "softmatch", "adamatch"])
def test_every_policy_judges_and_is_drawn(guesses, policy):
    judged = ps.judge(guesses, policy, 0.9, batch=7)
    assert len(judged[0]) == len(judged[1]) == 40 and 0 <= judged[1].min() <= judged[1].max() <= 1
    assert pixels_of(ps.histogram(guesses, *judged)).size and ps.thumbnails(guesses, *judged).shape[2] == 3
    assert "normal" in ps.count_html(ps.count(guesses, *judged))


def test_a_picture_names_the_policy_that_judged_even_where_two_keep_the_same(guesses):
    judged = guesses.probs.argmax(1), np.ones(40, np.float32)
    assert len({ps.histogram(guesses, *judged, policy=policy) for policy in ("", "flexmatch", "freematch")}) == 3


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_pictures_are_drawn_where_all_or_nothing_is_kept(guesses, weight):
    judged = guesses.probs.argmax(1), np.full(40, weight, np.float32)
    assert pixels_of(ps.histogram(guesses, *judged, 0.5)).size and ps.thumbnails(guesses, *judged).shape[2] == 3


def test_guesses_are_made_on_weak_views_with_the_truth_that_is_known(model):
    data = MultiTaskData(cls_unlabeled=CHESTS, withheld={"cls_unlabeled": CHESTS.labels[:4]}, cls_labeled=CHESTS)
    found = ps.guess(model, data)
    assert list(found.truth) == [*CHESTS.labels[:4], -1, -1] and found.labeled.shape == (6, 2) and found.classes == CHESTS.classes
    assert np.allclose(found.probs, predict(model, found.weak, masks=False).probs)
    assert (ps.guess(model, data).strong == found.strong).all()  # the same seed, the same views
    stream = data.streams()["cls_unlabeled"]
    assert (ps.guess(model, stream).probs == found.probs).all() and ps.guess(model, stream).labeled is None
    for nothing in (MultiTaskData(), CHESTS.subset([]), None):
        with pytest.raises(InputError, match="stream"):
            ps.guess(model, nothing)


def test_the_network_is_asked_when_the_widget_is_made_and_never_again():
    model = Counted(width=4, seed=0).eval()
    explorer = ps.PseudoLabelExplorer(model, CHESTS)
    calls = model.calls
    assert "adamatch" not in explorer.policy.options  # there is no labelled image to compare with
    for policy in explorer.policy.options[1:]:
        explorer.policy.value = policy
        assert explorer.message.value == ""
    explorer.policy.value, explorer.threshold.value = "fixed", 1.0
    table = explorer.table.value
    explorer.threshold.value = 0.5
    assert explorer.table.value != table and explorer.read()[-1]["kept"] == 6 and model.calls == calls


# the training monitor


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 200), st.integers(2, 20))
def test_a_film_stays_short_and_keeps_its_ends(n, most):
    frames = []
    for i in range(n):
        frames = mo.thinned([*frames, i], most)
        assert len(frames) <= most and frames[-1] == i and frames[0] == 0 and frames == sorted(set(frames))


def test_a_monitor_films_a_run_and_changes_nothing_in_it():
    settings = dict(loop=Loop(2, 4, 6), progress=False)
    monitor = mo.TrainingMonitor(CHESTS, live=True)
    watched = train(tiny_config(), tiny_data(), on_log=monitor, **settings)
    alone = train(tiny_config(), tiny_data(), **settings)
    assert monitor.message.value == "" and len(monitor.frames) == 3 and "loss" in monitor.text.value
    assert pixels_of(monitor.film.value).size and pixels_of(monitor.curves.value).size
    pairs = zip(watched.model.state_dict().values(), alone.model.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_monitor_is_silent_in_a_terminal_and_never_stops_a_run(monkeypatch):
    silent = mo.TrainingMonitor()
    train(tiny_config(steps=2), tiny_data(), on_log=silent, loop=Loop(1, 2, 2), progress=False)
    assert silent.frames == [] and bytes(silent.curves.value) == b""
    monkeypatch.setattr(mo, "frame", lambda *a: 1 / 0)
    broken = mo.TrainingMonitor(live=True)
    run = train(tiny_config(steps=2), tiny_data(), on_log=broken, loop=Loop(1, 2, 2), progress=False)
    assert run.history[-1]["step"] == 2 and "ZeroDivisionError" in broken.message.value


# the app's folders


@pytest.fixture
def tree(tmp_path):
    for name in ("given", "given/run", "given/deep/er", "outside"):
        (tmp_path / name).mkdir(parents=True)
    for folder in ("given/run", "outside"):
        for name in ap.RUN_FILES:
            (tmp_path / folder / name).write_text("{}")
        Image.fromarray(CHESTS.images[0]).save(tmp_path / folder / "film.png")
    return tmp_path


@pytest.mark.parametrize("path", ["../outside/film.png", "run/../../outside", "link/film.png", "film-link.png", "/etc/fstab", ".."])
def test_what_lies_outside_is_refused_however_it_is_written(tree, path):
    given = tree / "given"
    (given / "link").symlink_to(tree / "outside")
    (given / "film-link.png").symlink_to(tree / "outside" / "film.png")
    with pytest.raises(InputError, match="outside the folders"):
        ap.inside(given / path, [given])
    assert ap.inside(given / "run" / "film.png", [given]).is_file()
    with pytest.raises(InputError):
        ap.inside(tree / "given-too", [given])  # begins with the same letters


def test_runs_and_images_behind_links_to_outside_are_not_listed(tree):
    given = tree / "given"
    (given / "linked-run").symlink_to(tree / "outside")
    (given / "half").mkdir()
    for name in ap.RUN_FILES:
        (given / "half" / name).symlink_to(tree / "outside" / name)
    (given / "run" / "link.png").symlink_to(tree / "outside" / "film.png")
    assert list(ap.find_runs([given])) == ["given/run"] and list(ap.find_images([given / "run"])) == ["run/film.png"]
    for folder in ("linked-run", "half"):
        with pytest.raises(InputError, match="outside"):
            ap.open_run(given / folder, [given])
    for nothing in (given / "deep", tree / "nowhere"):
        with pytest.raises(InputError, match=nothing.name):
            ap.find_runs([nothing])


def test_folders_that_are_called_alike_hide_nothing(tmp_path):
    for site in ("a", "b"):
        for place in ("runs/base", "images"):
            (tmp_path / site / place).mkdir(parents=True)
        for name in ap.RUN_FILES:
            (tmp_path / site / "runs/base" / name).write_text("{}")
        Image.fromarray(CHESTS.images[0]).save(tmp_path / site / "images/1.png")
    for find, folder, file in ((ap.find_runs, "runs", "runs/base"), (ap.find_images, "images", "images/1.png")):
        found = find([tmp_path / "a" / folder, tmp_path / "b" / folder, tmp_path / "a" / folder])
        assert found == {file: tmp_path / "a" / file, str(tmp_path / "b" / file): tmp_path / "b" / file}


def test_the_app_opens_runs_and_files_and_says_what_it_does_not(tmp_path):
    for name in ("one", "two"):
        train(tiny_config(steps=1), tiny_data(), tmp_path / "runs" / name, progress=False)
    (tmp_path / "films").mkdir()
    Image.fromarray(CHESTS.images[1]).save(tmp_path / "films" / "a.png")
    (tmp_path / "films" / "b.png").write_bytes(b"no image")
    app = ap.App([tmp_path / "runs"], [tmp_path / "films"])
    first = app.explorer
    app.run_choice.value = "runs/two"
    assert app.explorer is not first and app.message.value == ""
    app.image_choice.value = "films/a.png"
    assert app.message.value == "" and app.explorer.read().case.name == "films/a.png"
    app.image_choice.value = "films/b.png"
    assert "b.png" in app.message.value


def test_the_command_serves_this_machine_only_unless_told_otherwise(tmp_path, monkeypatch):
    train(tiny_config(steps=1), tiny_data(), tmp_path / "run", progress=False)
    calls = []
    monkeypatch.setattr(ap.importlib.util, "find_spec", lambda name, find=ap.importlib.util.find_spec: find("multimix"))
    monkeypatch.setattr(ap.subprocess, "run", lambda command, **how: calls.append((command, how)) or type("Done", (), {"returncode": 0}))
    assert ap.serve([tmp_path / "run"], browser=False) == ap.serve([tmp_path / "run"], ip="0.0.0.0") == 0
    assert "--Voila.ip=127.0.0.1" in calls[0][0] and "--Voila.ip=0.0.0.0" in calls[1][0] and "--no-browser" in calls[0][0]
    assert json.loads(calls[0][1]["env"]["MULTIMIX_APP"]) == {"runs": [str(tmp_path / "run")], "images": []}
    assert next(Path(part) for part in calls[0][0] if part.endswith("app.ipynb")).is_file()
    monkeypatch.setattr(ap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"multimix\[app\]"):
        ap.serve([tmp_path / "run"])


# what is committed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_notebook_holds_the_state_or_the_view_of_a_widget(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", [])]
    assert not [out for out in outputs if "application/vnd.jupyter.widget-view+json" in out.get("data", {})]
