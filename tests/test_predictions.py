"""What a run keeps of every image: there and back, small, without names, whole or not at all."""

import numpy as np
import pytest
from made_table import made_answers, made_data

from multimix import predictions as pr
from multimix.data import ImageSet, InputError, MultiTaskData
from multimix.evaluation import classification_metrics, evaluate


@pytest.fixture(scope="module")
def judged():
    data = made_data(40, patients=True)
    return data, {d: {t: made_answers(test, 2, 0.3, 5) for t, test in sets.items()} for d, sets in data.tests.items()}


def test_the_file_gives_back_what_the_summary_says(judged, tmp_path):
    data, found = judged
    path = pr.save_predictions(tmp_path, found, data)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.npz"] == [path.name]
    kept, results = pr.load_predictions(tmp_path), evaluate(None, data, predictions=found, bootstrap=0)
    assert {d: set(tasks) for d, tasks in kept.items()} == {d: {"classification", "segmentation"} for d in data.tests}
    for domain in kept:
        c, s = kept[domain]["classification"], kept[domain]["segmentation"]
        assert c["probs"].dtype == s["dice"].dtype == np.float32 and c["classes"].tolist() == ["normal", "pneumonia"]
        again = classification_metrics(c["probs"], c["labels"], c["classes"], bootstrap=0)
        assert again["auroc"] == pytest.approx(results[domain]["classification"]["auroc"])
        for name in ("dice", "jaccard"):
            assert s[name].mean() == pytest.approx(results[domain]["segmentation"][name], abs=1e-6)
        assert (s["area_true"] == 72).all() and len(set(c["patients"])) == 20


def test_neither_names_nor_pixels_go_in(judged, tmp_path):
    data, found = judged
    path = pr.save_predictions(tmp_path, found, data)
    with np.load(path) as file:
        assert all(file[key].ndim <= 2 and file[key].size <= 80 for key in file.files)
        assert {file[key].dtype.kind for key in file.files if not key.endswith("classes")} <= set("fiu")
    assert b".png" not in path.read_bytes()


def test_the_same_image_has_the_same_id_and_a_nameless_patient_is_alone():
    assert pr.image_ids(["a", "b"]).tolist() == pr.image_ids(["a", "b", "c"]).tolist()[:2]
    assert len(set(pr.patient_codes(["", "", "x", "x"], 4))) == 3 and len(set(pr.patient_codes(None, 4))) == 4


def test_a_test_set_without_truth_keeps_nothing(judged):
    data, found = judged
    images, names = data.tests["in_domain"]["classification"].images, [str(i) for i in range(40)]
    blind = ImageSet(images, names, labels=np.full(40, -1), classes=data.classes)
    tests = {"in_domain": {"classification": blind, "segmentation": blind}}
    assert pr.per_image({"in_domain": found["in_domain"]}, MultiTaskData(tests=tests, classes=data.classes)) == {}


@pytest.mark.parametrize("harm", [
    lambda p: p.unlink(), lambda p: p.write_bytes(b"PK\3\4nothing"), lambda p: p.write_bytes(p.read_bytes()[:200]),
    lambda p: np.savez(p, odd=np.zeros(3))])
def test_what_can_not_be_read_is_one_plain_sentence(judged, tmp_path, harm):
    data, found = judged
    harm(pr.save_predictions(tmp_path, found, data))
    with pytest.raises(InputError, match="judge (it|the run) again") as caught:
        pr.load_predictions(tmp_path)
    assert "predictions.npz" in str(caught.value) and "\n" not in str(caught.value)
