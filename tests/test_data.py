"""Streams and the two-task object: properties that must hold for every input, and faults."""
import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import multimix.cache as cache_module
import multimix.data as data_module
from multimix.cache import cache_images
from multimix.data import ImageSet, InputError, MultiTaskData, Stream, _move, join
from multimix.images import list_images, thumbnail
from multimix.sets import Rows

CLASSES = ("normal", "pneumonia")
calm = settings(deadline=None, max_examples=60)


def make_set(n, size=32, seed=0, prefix="", classes=CLASSES, each=1):
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (n, size, size), dtype=np.uint8), [f"{prefix}{i}" for i in range(n)], np.arange(n) % len(classes),
                    rng.integers(0, 2, (n, 1, size, size), dtype=np.uint8), [f"{prefix}p{i // each}" for i in range(n)], None, classes)


# streams

@calm
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 9), st.sampled_from(["cls_labeled", "seg_labeled"]))
def test_every_epoch_shows_every_image_once(n, batch_size, seed, name):
    stream = Stream(make_set(n), batch_size, seed, name=name)
    steps = -(-4 * n // batch_size)
    sequence = np.concatenate([stream.indices(step) for step in range(steps)])
    for epoch in range(4):
        assert sorted(sequence[epoch * n:(epoch + 1) * n]) == list(range(n))


@calm
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 10**6))
def test_a_batch_is_a_function_of_its_step(n, batch_size, step):
    images = make_set(n)
    used = Stream(images, batch_size, 5, name="s")
    for before in (0, 3, step + 1):
        used.batch(before)
    a, b = used.batch(step), Stream(images, batch_size, 5, name="s").batch(step)
    for part in ("images", "labels", "masks", "index"):
        assert torch.equal(getattr(a, part), getattr(b, part))


def test_e11_batches_are_not_fixed_for_the_run():
    stream = Stream(make_set(40), 10, 0, name="cls_labeled")
    batches = [frozenset(stream.indices(step)) for step in range(40)]
    assert len(set(batches)) == 40  # the released code has the same four batches all along


def test_streams_of_other_names_and_seeds_go_other_ways():
    images = make_set(40)
    orders = {tuple(Stream(images, 40, seed, name=name).indices(0)) for seed in range(3) for name in ("a", "b", "")}
    assert len(orders) == 9


def test_a_batch_holds_what_the_set_knows():
    whole = make_set(12)
    batch = Stream(whole, 5, 1).batch(2)
    assert batch.images.shape == (5, 1, 32, 32) and batch.images.dtype == torch.uint8
    assert batch.masks.shape == (5, 1, 32, 32) and batch.masks.dtype == torch.float32
    assert batch.labels.dtype == batch.index.dtype == torch.int64
    assert np.array_equal(batch.images[:, 0].numpy(), whole.images[batch.index.numpy()])
    assert np.array_equal(batch.masks.numpy(), whole.masks[batch.index.numpy()])
    bare = Stream(ImageSet(whole.images, whole.names), 5).batch(0)
    assert bare.labels is None and bare.masks is None


def test_a_batch_is_a_copy_of_its_own(tmp_path):
    np.save(tmp_path / "x.npy", make_set(6).images)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    stream = Stream(ImageSet(mapped, list("abcdef")), 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of tensors over memory that must not be written
        stream.batch(0).images.zero_()
    assert stream.batch(0).images.any()


def test_nothing_touches_the_global_generators():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    data = MultiTaskData.from_sets(make_set(60), make_set(30), labels=10, masks=5)
    [stream.batch(3) for stream in data.streams().values()]
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("n, batch", [(0, 4), (4, 0), (4, -1)])
def test_streams_of_nothing(n, batch):
    with pytest.raises(InputError, match="stream 'x'"):
        Stream(make_set(n) if n else make_set(2).subset([]), batch, name="x")


# two tasks

def test_parts_share_no_image_and_no_held_out_patient():
    cls, seg = make_set(300, each=3, prefix="c"), make_set(60, each=2, prefix="s", seed=1)
    data = MultiTaskData.from_sets(cls, seg, labels=20, masks=6, val=0.2, seed=4)
    for task, source in (("cls", cls), ("seg", seg)):
        labeled, unlabeled, val = (getattr(data, f"{task}_{part}") for part in ("labeled", "unlabeled", "val"))
        assert sorted(labeled.names + unlabeled.names + val.names) == sorted(source.names)
        assert not set(val.patients) & (set(labeled.patients) | set(unlabeled.patients))
        assert unlabeled.labels is None and unlabeled.masks is None
    assert data.cls_labeled.counts() == {"normal": 10, "pneumonia": 10} and data.cls_labeled.masks is None
    assert len(data.seg_labeled) == 6 and data.seg_labeled.labels is None and data.seg_labeled.masks is not None
    assert abs(len(data.cls_val) - 60) <= 3 and abs(len(data.seg_val) - 12) <= 2


def test_what_is_withheld_is_the_truth_of_the_unlabelled():
    cls, seg = make_set(100), make_set(30, seed=1)
    data = MultiTaskData.from_sets(cls, seg, labels=10, masks=5)
    at = [cls.names.index(name) for name in data.cls_unlabeled.names]
    assert np.array_equal(data.withheld["cls_unlabeled"], cls.labels[at])
    at = [seg.names.index(name) for name in data.seg_unlabeled.names]
    assert np.array_equal(data.withheld["seg_unlabeled"], seg.masks[at])


def test_unknown_labels_are_never_drawn_nor_validated_but_train():
    cls = make_set(100)
    cls.labels[:40] = -1
    data = MultiTaskData.from_sets(cls, None, labels=None, val=0.1)
    assert data.cls_labeled.labels.min() == 0 and data.cls_val.labels.min() == 0 and len(data.cls_unlabeled) == 40


def test_all_labels_leave_no_unlabelled_stream():  # E14: the paper's "Full" rows cannot be run with the released code
    data = MultiTaskData.from_sets(make_set(50), make_set(20), labels=None, masks=None)
    assert data.cls_unlabeled is None and set(data.streams()) == {"cls_labeled", "seg_labeled"}


def test_a_set_smaller_than_the_batch_still_gives_batches():  # E14: ZeroDivisionError in the released code
    data = MultiTaskData.from_sets(make_set(50), make_set(20), labels=4, masks=3)
    sizes = {name: len(stream.batch(0).images) for name, stream in data.streams(batch=10, unlabeled=30).items()}
    assert sizes == {"cls_labeled": 10, "cls_unlabeled": 30, "seg_labeled": 10, "seg_unlabeled": 10}


def test_one_task_alone():
    only = MultiTaskData.from_sets(make_set(50), None, labels=10)
    assert set(only.streams()) == {"cls_labeled", "cls_unlabeled"} and only.seg_val is None and only.mask_channels == 1
    only = MultiTaskData.from_sets(None, make_set(50), masks=10)
    assert set(only.streams()) == {"seg_labeled", "seg_unlabeled"} and only.classes == CLASSES


def test_classes_and_channels_are_read_from_the_sets():
    three, two = make_set(60, classes=("a", "b", "c")), make_set(30)
    two.masks = np.concatenate([two.masks, two.masks], 1)
    data = MultiTaskData.from_sets(three, two, labels=9, masks=4)
    assert data.classes == ("a", "b", "c") and data.mask_channels == 2


def test_faulty_requests_name_what_is_wrong():
    cls, seg = make_set(100), make_set(30)
    for options, match in [({"labels": 91}, "91 labels asked: there are 90"), ({"masks": 28}, "28 masks asked: there are 27"),
                           ({"masks": 0}, "0 masks"), ({"labels": 1}, "1 labels"),
                           ({"val": 1.0}, "fraction"), ({"balance": "x"}, "balance='x'"),
                           ({"tests": {"in_domain": {"classification": make_set(9, classes=("x", "y"))}}}, "in_domain.*classes")]:
        with pytest.raises(InputError, match=match) as error:
            MultiTaskData.from_sets(cls, seg, **{"labels": 10, "masks": 5, **options})
        assert "\n" not in str(error.value)


def one_in_both(kind, train, test):
    "The sets, with one patient or one image of `train` in `test`."
    test = replace(test)
    if kind == "patient":
        test.patients[1] = train.patients[3]
    else:
        test.images[1] = train.images[3]
    return train, test


@pytest.mark.parametrize("kind, match", [("patient", r"1 of its 9 images are of patients in .*, for example t1 and 3 of patient p3"),
                                         ("image", r"1 of its 9 images are in .* too, for example t1 is identical to 3")])
@pytest.mark.parametrize("domain, task", [("in_domain", "classification"), ("cross_domain", "segmentation")])
def test_a_split_that_shares_something_is_refused_by_name(kind, match, domain, task):
    cls, test = one_in_both(kind, make_set(50), make_set(9, seed=2, prefix="t"))
    def make(**o): return MultiTaskData.from_sets(cls, make_set(20, seed=1, prefix="s"), {domain: {task: test}}, labels=6, masks=4, **o)
    with pytest.raises(InputError, match=rf"tests\['{domain}'\]\['{task}'\]: {match}.*allow_shared=True") as error:
        make()
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match=match):
        data = make(allow_shared=True)
    assert len(data.tests[domain][task]) == 9
    test.patients[1], test.images[1] = "t", 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make()


@pytest.mark.parametrize("kind", ["patient", "image"])
def test_a_validation_part_that_shares_something_is_refused(kind):
    cls, val = one_in_both(kind, make_set(50), make_set(9, seed=2, prefix="v"))
    with pytest.raises(InputError, match=r"the validation \(cls_val\): 1 of its 9 images are .*, for example v1 .* 3"):
        MultiTaskData.from_splits({"train": cls, "val": val}, labels=6)
    with pytest.raises(InputError, match=r"tests.*: 1 of its 50 images are .*the validation \(cls_val\)"):
        MultiTaskData.from_splits({"train": make_set(50, seed=3, prefix="x"), "val": val, "test": cls}, labels=6)


def test_both_tasks_may_use_the_same_images():
    data = MultiTaskData.from_sets(make_set(50), make_set(50), labels=6, masks=6)
    assert len(data.cls_val) >= 4 and set(data.seg_val.names) & set(data.cls_labeled.names + data.cls_unlabeled.names)


# splits that came with the data

def test_splits_are_taken_as_they_are():
    parts = {name: make_set(n, seed=n, prefix=name) for name, n in (("Training", 40), ("valid", 9), ("test", 8), ("external", 7))}
    seg = make_set(30, seed=1, prefix="s")
    data = MultiTaskData.from_splits(parts, seg, labels=10, masks=5, seed=3)
    assert data.cls_val is parts["valid"] and data.tests["in_domain"] == {"classification": parts["test"]}
    assert data.tests["cross_domain"] == {"classification": parts["external"]}
    assert sorted(data.cls_labeled.names + data.cls_unlabeled.names) == sorted(parts["Training"].names)
    alone = MultiTaskData.from_sets(None, seg, masks=5, seed=3)
    assert data.seg_val.names == alone.seg_val.names and data.seg_labeled.names == alone.seg_labeled.names
    plain = MultiTaskData.from_splits(parts["Training"], labels=10)
    assert plain.tests == {} and plain.cls_labeled.names == MultiTaskData.from_sets(parts["Training"], labels=10).cls_labeled.names


@pytest.mark.parametrize("names, match", [(("train", "holdout"), "'holdout' is not known"),
                                          (("train", "val", "valid"), "'val' means the same")])
def test_splits_of_unknown_names(names, match):
    with pytest.raises(InputError, match=match):
        MultiTaskData.from_splits({name: make_set(20, seed=i, prefix=name) for i, name in enumerate(names)}, labels=4)


# what lies on disk

def test_everything_is_the_same_from_disk(tmp_path):
    for kind, n in (("a", 60), ("b", 30), ("t", 10)):
        (tmp_path / kind).mkdir()
        for i, image in enumerate(make_set(n, seed=ord(kind)).images):
            Image.fromarray(image).save(tmp_path / kind / f"{i:02}.png")

    def build(load):
        sets = {}
        for kind, n in (("a", 60), ("b", 30), ("t", 10)):
            images = load(cache_images(list_images(tmp_path / kind), 32, tmp_path / "cache", progress=False))
            np.save(tmp_path / f"{kind}.npy", make_set(n, seed=5).masks)
            masks = load(np.load(tmp_path / f"{kind}.npy", mmap_mode="r"))
            whole = make_set(n, prefix=kind)
            sets[kind] = ImageSet(images, whole.names, whole.labels, masks, whole.patients, None, CLASSES)
        extra = {"classification": join([sets["b"]])}
        return MultiTaskData.from_sets(sets["a"], sets["b"], {"in_domain": {"classification": sets["t"]}}, 12, 6, extra=extra)

    disk, memory = build(lambda array: array), build(np.array)
    assert isinstance(disk.cls_labeled.images, Rows) and isinstance(disk.cls_unlabeled.images, Rows)
    assert isinstance(disk.withheld["seg_unlabeled"], Rows) and len(disk.cls_unlabeled.images.parts) == 2
    for name, stream in disk.streams(batch=7, unlabeled=11, seed=2).items():
        other = memory.streams(batch=7, unlabeled=11, seed=2)[name]
        assert stream.images.names == other.images.names
        for step in (0, 1, 9):
            a, b = stream.batch(step), other.batch(step)
            assert all(torch.equal(x, y) if x is not None else y is None for x, y in zip(vars(a).values(), vars(b).values()))
    assert np.array_equal(disk.withheld["seg_unlabeled"], memory.withheld["seg_unlabeled"])


# reading ahead

class Disk(Rows):
    "Rows that note which of them are read, by which thread; `fault` is raised for a batch that holds the place `poison`."
    def __init__(self, array, poison=None):
        super().__init__([array], np.arange(len(array)))
        self.seen, self.poison = [], poison

    def __getitem__(self, key):
        self.seen.append((threading.current_thread().name, tuple(np.asarray(key).tolist())))
        if self.poison in np.asarray(key):
            raise OSError("the disk is gone")
        return super().__getitem__(key)

    def ahead(self):
        return [places for name, places in self.seen if name.startswith("multimix-read-ahead")]


@pytest.fixture
def any_disk(monkeypatch):
    "Reading ahead however quick the disk is."
    monkeypatch.setattr(data_module, "WORTH", 0)


def on_disk(n=24, batch=4, **options):
    whole = make_set(n, size=16)
    disk = Disk(whole.images, **options)
    return disk, Stream(replace(whole, images=disk, masks=None), batch, 3, name="s"), Stream(replace(whole, masks=None), batch, 3, name="s")


def reading():
    return [t for t in threading.enumerate() if t.name.startswith("multimix-read-ahead")]


def rest(timeout=20):
    "Wait for threads that read ahead; whatever is left."
    for t in reading():
        t.join(timeout)
    return reading()


@pytest.mark.parametrize("steps", [range(12), range(5, 11), [0, 1, 2, 2, 2, 3], [3, 4, 9, 10, 0], [7, 6, 5], [0, 1, 5, 2, 3, 4]], ids=str)
def test_batches_read_ahead_are_the_same(any_disk, steps):
    disk, stream, plain = on_disk()
    for step in steps:
        a, b = stream.batch(step), plain.batch(step)
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)
    assert not rest()


def test_batches_in_turn_are_read_ahead_once_each(any_disk):
    disk, stream, plain = on_disk()
    for step in range(6):
        stream.batch(step)
    rest()
    places = [tuple(plain.indices(step).tolist()) for step in range(7)]
    assert sorted(p for _, p in disk.seen) == sorted(places)  # none twice
    assert disk.ahead() == places[2:]


def test_one_batch_at_most_is_read_ahead(any_disk):
    disk, stream, plain = on_disk()
    for step in (0, 1):
        stream.batch(step)
    rest()
    assert disk.ahead() == [tuple(plain.indices(2).tolist())]
    for _ in range(4):  # the same one again: nothing more is foreseen
        stream.batch(1)
    rest()
    assert len(disk.ahead()) == 1


def test_nothing_is_read_ahead_where_reading_is_quick(monkeypatch):
    monkeypatch.setattr(data_module, "WORTH", 1000)
    disk, stream, plain = on_disk()
    for step in range(5):
        assert torch.equal(stream.batch(step).images, plain.batch(step).images)
    assert len(disk.seen) == 5 and not disk.ahead()


def test_nothing_is_read_ahead_from_memory(any_disk):
    stream = Stream(make_set(24, size=16), 4)
    for step in range(5):
        stream.batch(step)
        assert stream._ahead is None


def test_what_goes_wrong_is_raised_where_the_batch_is_asked_for(any_disk):
    _, _, plain = on_disk()
    disk, stream, _ = on_disk(poison=plain.indices(3)[0])
    for step in range(3):  # the third read ahead already fails meanwhile
        assert torch.equal(stream.batch(step).images, plain.batch(step).images)
    rest()
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            stream.batch(3)
    disk.poison = None
    assert torch.equal(stream.batch(3).images, plain.batch(3).images)
    assert torch.equal(stream.batch(4).images, plain.batch(4).images) and not rest()


def test_a_stream_can_be_copied_while_it_reads(any_disk):
    disk, stream, plain = on_disk()
    stream.batch(0), stream.batch(1)
    for other in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert torch.equal(other.batch(2).images, plain.batch(2).images)
    assert torch.equal(stream.batch(2).images, plain.batch(2).images)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system can't fork")
def test_a_forked_process_does_not_wait_for_a_thread_it_lacks(any_disk):
    disk, stream, plain = on_disk()
    stream.batch(0), stream.batch(1)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(False)
    child = context.Process(target=lambda: send.send(stream.batch(2).images.numpy()))
    child.start()
    assert receive.poll(60) and np.array_equal(receive.recv(), plain.batch(2).images.numpy())
    child.join()


@pytest.mark.parametrize("device, asked", [("cuda", None), ("cuda:1", 1)])
def test_the_free_memory_is_asked_of_the_gpu_by_number(device, asked, monkeypatch):
    "torch 2.4 refuses a device without one."
    numbers = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (numbers.append(number), (0, 0))[1])
    images = np.zeros((2, 16, 16), np.uint8)
    assert data_module._place(images, torch.device(device)) is images and numbers == [asked]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("free", [1e12, 0.0])
def test_nobody_waits_for_the_gpu(monkeypatch, free):
    "Whether the set lies there as a whole, or is sent batch by batch."
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    whole = make_set(24, size=16)
    stream, plain = Stream(whole, 4, 3, "cuda", "s"), Stream(whole, 4, 3, name="s")
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [stream.batch(step) for step in range(8)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for step, batch in enumerate(batches):
        assert batch.images.is_cuda and torch.equal(batch.images.cpu(), plain.batch(step).images)
        assert torch.equal(batch.masks.cpu(), plain.batch(step).masks) and torch.equal(batch.index.cpu(), plain.batch(step).index)


def test_no_file_is_decoded_twice(any_disk, tmp_path, monkeypatch):
    "Three epochs of two streams over the same files, and a second start."
    for i, image in enumerate(make_set(20).images):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    decoded = []
    monkeypatch.setattr(cache_module, "thumbnail", lambda path, *how: decoded.append(path) or thumbnail(path, *how))
    for _ in range(2):
        images = cache_images(list_images(tmp_path), 16, tmp_path / "cache", workers=3, progress=False)
        halves = [ImageSet(images, [str(i) for i in range(20)]).subset(range(start, 20, 2)) for start in (0, 1)]
        streams = [Stream(half, 5, name=str(i)) for i, half in enumerate(halves)]
        for step in range(6):
            assert [len(stream.batch(step).images) for stream in streams] == [5, 5]
    assert sorted(decoded) == sorted(map(str, list_images(tmp_path))) and not rest()


def test_a_process_that_reads_ahead_ends(tmp_path):
    "While a thread still reads, and after an error."
    np.save(tmp_path / "x.npy", np.zeros((64, 16, 16), np.uint8))
    code = ("import sys, numpy as np, multimix.data; from multimix.data import ImageSet, Stream; multimix.data.WORTH = 0\n"
            "images = np.load(sys.argv[1], mmap_mode='r'); s = Stream(ImageSet(images, [str(i) for i in range(64)]), 8)\n"
            "for i in range(4): s.batch(i)\nassert s._ahead\nif sys.argv[2] == 'error': raise SystemExit(7)")
    for how, status in (("well", 0), ("error", 7)):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.npy"), how], timeout=120, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_what_lies_on_disk_moves_to_a_device_in_pieces(kind):
    source = np.random.default_rng(0).integers(0, 200, (9000, 2, 3)).astype(kind)
    order = np.random.default_rng(1).permutation(9000)

    class Counted(Rows):
        def __getitem__(self, key):
            assert isinstance(key, slice) and key.stop - key.start <= 4096
            return super().__getitem__(key)

    moved = _move(Counted([source], order), torch.device("cpu"))
    assert moved.dtype == torch.from_numpy(source).dtype and np.array_equal(moved.numpy(), source[order])


def test_a_set_is_described_in_a_few_lines():
    text = repr(MultiTaskData.from_sets(make_set(60), make_set(30, seed=1), labels=10, masks=5))
    assert "withheld" not in text and "array" not in text and len(text) < 1000


# own folders

@pytest.fixture
def folders(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 32, 32), dtype=np.uint8)

    def save(folder, images):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{i:02}.png")
    save("normal", pixels[:20])
    save("pneumonia", pixels[20:50])
    save("lungs", pixels[[*range(50, 64), *range(20, 26)]])  # six chests of the class folders have masks as well
    save("lung_masks", (pixels[50:67] > 127) * np.uint8(255))  # three images have none
    save("unlabeled", pixels[[*range(70, 95), *range(20, 30)]])  # ten labelled images lie here, too
    return tmp_path


def load(d, **options):
    options = {"images": {"normal": d / "normal", "pneumonia": d / "pneumonia"}, "masks": (d / "lungs", d / "lung_masks"),
               "unlabeled": d / "unlabeled", "size": 32, "cache_dir": d / "cache", "progress": False, **options}
    return MultiTaskData.from_folders(**options)


@pytest.mark.parametrize("seed", range(4))
def test_own_folders_never_mix_test_and_training(folders, seed):
    data, again = load(folders, seed=seed), load(folders, seed=0)
    tests = list(data.tests["in_domain"].values())
    tested = {image.tobytes() for s in tests for image in s.images}
    trained = {image.tobytes() for name in ("cls_labeled", "cls_unlabeled", "seg_labeled", "seg_unlabeled", "cls_val", "seg_val")
               for image in getattr(data, name).images}
    assert tested and not tested & trained
    assert [s.names for s in tests] == [s.names for s in again.tests["in_domain"].values()]
    assert data.cls_unlabeled.labels is None and data.seg_unlabeled.masks is None
    assert 10 <= len(tests[0]) <= 16 and tests[0].classes == CLASSES and tests[1].masks is not None


def test_own_folders_with_patients_in_their_names(folders):
    data = load(folders, masks=None, patient=lambda name: name[:-5])  # normal/0?.png is one patient
    assert {p for s in (data.cls_labeled, data.cls_val) for p in s.patients}.isdisjoint(data.tests["in_domain"]["classification"].patients)
    assert len({name.split("/")[0] for name in data.tests["in_domain"]["classification"].names}) == 2


def test_own_folders_one_at_a_time(folders):
    assert set(load(folders, masks=None, unlabeled=None).streams()) == {"cls_labeled"}
    assert set(load(folders, images=None, unlabeled=None).streams()) == {"seg_labeled", "seg_unlabeled"}
    assert load(folders, test=0, unlabeled=None, masks=None).tests == {}
    with pytest.raises(InputError, match="from_folders"):
        load(folders, images=None, masks=None)


def test_own_budgets(folders):
    data = load(folders, labels=6, mask_budget=4)
    assert data.cls_labeled.counts() == {"normal": 3, "pneumonia": 3} and len(data.seg_labeled) == 4
    with pytest.raises(InputError, match="1000 labels"):
        load(folders, labels=1000)


def test_faulty_own_folders(folders):
    (folders / "empty").mkdir()
    for options, match in [({"images": {"normal": folders / "normal", "ill": folders / "empty"}}, "empty"),
                           ({"unlabeled": folders / "gone"}, "gone"), ({"masks": (folders / "lungs", folders / "gone")}, "gone"),
                           ({"size": 40}, "size=40"), ({"test": 1}, "fraction=1")]:
        with pytest.raises(InputError, match=match):
            load(folders, **options)
