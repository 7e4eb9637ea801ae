"""Archives that nobody should trust: paths that lead outside, links, bombs, damage, names twice; and good ones, of every kind."""
import io
import os
import random
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimix.archives import merge, safe_name, unpack, unpack_into
from multimix.fetch import FetchError

NOISE = np.random.default_rng(0).bytes(30_000)
FILES = {"set/a.png": NOISE, "set/deep/er/b.png": b"b" * 1000, "set/empty.txt": b"", "set/ü - ü.txt": b"odd but fine",
         "set/" + "long/" * 30 + "c.png": b"c"}


def make_zip(path: Path, files, mode=0o100644, method=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as z:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr, info.compress_type = name, mode << 16, method
            z.writestr(info, content)
    return path


def make_tar(path: Path, files, kind=tarfile.REGTYPE, mode="w:gz", link="", format=tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, mode, format=format) as t:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content) if kind == tarfile.REGTYPE else 0, link
            t.addfile(info, io.BytesIO(content))
    return path


KINDS = {"zip": make_zip, "stored": lambda p, f: make_zip(p, f, method=zipfile.ZIP_STORED), "tar.gz": make_tar,
         "tar": lambda p, f: make_tar(p, f, mode="w"), "gnu": lambda p, f: make_tar(p, f, mode="w", format=tarfile.GNU_FORMAT)}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, says: str, **limits) -> None:
    "One line that names the archive, and nothing anywhere: not in the folder, not beside it, not above it."
    before = sorted(archive.parent.parent.rglob("*"))
    with pytest.raises(FetchError, match=says) as error:
        unpack(archive, archive.parent / "out", progress=False, **limits)
    assert "\n" not in str(error.value) and str(archive) in str(error.value)
    assert sorted(archive.parent.parent.rglob("*")) == before


@pytest.fixture
def box(tmp_path) -> Path:
    (tmp_path / "deep").mkdir()
    return tmp_path / "deep"


# good ones


@every_kind
def test_what_went_in_comes_out(box, kind):
    assert contents(unpack(KINDS[kind](box / "a", FILES), box / "out", progress=False)) == FILES
    assert sorted(os.listdir(box)) == ["a", "out"]


@every_kind
def test_a_second_call_does_nothing(box, kind):
    archive = KINDS[kind](box / "a", FILES)
    out = unpack(archive, box / "out", progress=False)
    (out / "mine.txt").write_text("mine")
    archive.unlink()
    assert unpack(archive, box / "out", progress=False) == out and (out / "mine.txt").exists()


@every_kind
def test_only_what_is_wanted_and_where(box, kind):
    archive = KINDS[kind](box / "a", FILES)
    n = unpack_into(archive, box / "out", lambda name: f"flat/{Path(name).name}" if name.endswith(".png") else None, progress=False)
    assert n == 3 and contents(box / "out") == {"flat/a.png": NOISE, "flat/b.png": b"b" * 1000, "flat/c.png": b"c"}


@every_kind
def test_what_computers_leave_behind_is_passed_over(box, kind):
    junk = {"__MACOSX/set/._a.png": b"x", "set/.DS_Store": b"x", "set/Thumbs.db": b"x", "set/._b.png": b"x"}
    assert contents(unpack(KINDS[kind](box / "a", junk | FILES), box / "out", progress=False)) == FILES


def test_an_archive_of_folders_only(box):
    with zipfile.ZipFile(box / "a", "w") as z:
        z.writestr("folder/", "")
    assert contents(unpack(box / "a", box / "out", progress=False)) == {}


def test_modes_of_the_archive_are_not_taken_over(box):
    out = unpack(make_zip(box / "a", {"run.sh": b"#!"}, mode=0o104777), box / "out", progress=False)
    assert not (out / "run.sh").stat().st_mode & 0o4111


# paths that lead outside


EVIL = ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "//evil.txt", "..\\evil.txt", "C:/evil.txt", "C:evil.txt", "file.png:hidden",
        "..", ".", "a/..", "a\nb", "a\x00b", "a\x7fb", "x" * 300, "a/" + "ü" * 200]


@pytest.mark.parametrize("name", EVIL)
def test_evil_names(name):
    with pytest.raises(FetchError, match="is not safe to write"):
        safe_name(name)


@every_kind
@pytest.mark.parametrize("name", [name for name in EVIL if "\x00" not in name and name not in (".", "..", "a/..")])
def test_archives_with_evil_names(box, kind, name):
    refused(KINDS[kind](box / "a", {"good.png": NOISE, name: b"evil"}), "not safe to write")


@every_kind
def test_evil_names_are_refused_even_where_they_are_not_wanted(box, kind):
    archive = KINDS[kind](box / "a", {"../evil.txt": b"evil"})
    with pytest.raises(FetchError, match="not safe"):
        unpack(archive, box / "out", place=lambda name: None, progress=False)


def test_a_place_that_leads_outside(box):
    with pytest.raises(FetchError, match="not safe"):
        unpack(make_zip(box / "a", FILES), box / "out", place=lambda name: "../" + Path(name).name, progress=False)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_a_safe_name_stays_inside(name):
    try:
        path = safe_name(name)
    except FetchError as error:
        assert "\n" not in str(error)
        return
    root = Path("folder/of/it").absolute()
    inside = Path(os.path.normpath(root / path))
    assert inside != root and inside.is_relative_to(root) and os.path.normpath(path) == str(path)


# links and devices


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_tars_with_links_and_devices(box, kind):
    refused(make_tar(box / "a", {"images": b""}, kind=kind, link="/etc/passwd"), "a link or a device")


@pytest.mark.parametrize("mode", [0o120777, 0o020600, 0o060600, 0o010600, 0o140600])
def test_zips_with_links_and_devices(box, mode):
    refused(make_zip(box / "a", {"images": b"/etc"}, mode=mode), "a link or a device")


def test_a_file_through_a_link_that_was_there(box):
    "A folder that is linked out of the target is not made by us; but an archive can't use a name twice to get there."
    refused(make_tar(box / "a", [("x", b"1"), ("x/passwd", b"2")]), "twice, or as a file and as a folder")


# bombs


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_by_ratio(box, kind):
    refused(KINDS[kind](box / "a", {"zeros.bin": bytes(30_000_000)}), "unpacks to more than 10 MB")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_of_many(box, kind):
    refused(KINDS[kind](box / "a", {f"{i}.bin": bytes(1_000_000) for i in range(30)}), "unpacks to more than 10 MB")


@every_kind
def test_more_than_the_limit_in_all(box, kind):
    archive = KINDS[kind](box / "a", {f"{i}.bin": NOISE for i in range(5)})
    refused(archive, "unpacks to more than", max_bytes=100_000)
    assert len(contents(unpack(archive, box / "out", max_bytes=150_000, progress=False))) == 5


def test_a_bomb_that_names_one_stream_many_times(box):
    "Overlapping entries: the directory of a ZIP lists the same compressed bytes again and again."
    archive = make_zip(box / "a", {"0.bin": bytes(200_000)})
    data = archive.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[start:end]
    copies = b"".join(entry[:46] + (b"%d.bin" % (i % 10)) + entry[46 + 5:] for i in range(100))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 100, 100, len(copies), start, 0)
    archive.write_bytes(data[:start] + copies + tail)
    refused(archive, "unpacks to more than|twice|damaged")


def test_a_file_that_is_larger_than_it_says(box):
    "The size in the directory is a lie; what counts is what comes out."
    archive = make_zip(box / "a", {"0.bin": bytes(100_000)})
    data = bytearray(archive.read_bytes())
    for sign, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        at = data.index(sign) + place
        data[at:at + 4] = struct.pack("<L", 10)
    archive.write_bytes(bytes(data))
    refused(archive, "damaged or cut off")


# damage


@every_kind
def test_cut_anywhere(box, kind):
    archive = KINDS[kind](box / "a", FILES)
    data = archive.read_bytes()
    end = data.rstrip(b"\0").__len__() if kind in ("tar", "gnu") else len(data)
    for stop in sorted({1, 2, 10, 300, 511, 512, 513, 1024, len(data) // 2, 31_232, end - 1} & set(range(end))):
        archive.write_bytes(data[:stop])
        refused(archive, "damaged or cut off|is not a ZIP")


def test_a_tar_cut_neatly_between_two_files(box):
    archive = make_tar(box / "a", FILES, mode="w")
    data = archive.read_bytes()
    archive.write_bytes(data[:512 + -(-len(NOISE) // 512) * 512])
    refused(archive, "damaged or cut off .no end mark")


@pytest.mark.parametrize("kind", ["zip", "stored", "tar.gz"])
def test_flipped_bits_never_pass_in_silence(box, kind):
    "Either it is refused or what comes out is what went in; a TAR without compression has no checksum of its files."
    archive = KINDS[kind](box / "a", FILES)
    data, dice = archive.read_bytes(), random.Random(0)
    for number in range(60):
        at, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
        archive.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1:])
        out = box / f"out{number}"
        try:
            assert sorted(contents(unpack(archive, out, progress=False)).values()) == sorted(FILES.values())
        except FetchError as error:
            assert "\n" not in str(error) and not out.exists()


@pytest.mark.parametrize("content", [b"", b"P", b"PK", b"PK\x03\x04", b"\x1f\x8b", b"\x1f\x8b\x08", b"<html>Log in</html>", bytes(100),
                                     b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\x00", NOISE])
def test_what_is_no_archive(box, content):
    (box / "a").write_bytes(content)
    refused(box / "a", "is not a ZIP, TAR or TAR.GZ archive|damaged or cut off")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@every_kind
def test_a_name_twice(box, kind):
    refused(KINDS[kind](box / "a", [("a.png", NOISE), ("a.png", b"another")]), "holds 'a.png' twice")
    refused(KINDS[kind](box / "b", [("a.png", NOISE), ("./a.png", b"another")]), "twice")
    refused(KINDS[kind](box / "c", [("a/b.png", NOISE), ("a", b"a file")]), "twice, or as a file and as a folder")


@pytest.mark.parametrize("flag, method", [(1, zipfile.ZIP_STORED), (0, zipfile.ZIP_BZIP2), (0, 9)])
def test_passwords_and_rare_compressions(box, flag, method):
    archive = make_zip(box / "a", {"a.png": NOISE}, method=zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    for sign, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = data.index(sign) + place
        data[at:at + 4] = struct.pack("<HH", flag, method)
    archive.write_bytes(bytes(data))
    refused(archive, "behind a password or in a rare compression")


def test_what_a_broken_unpacking_left_is_dropped(box):
    (box / "out.part").mkdir()
    (box / "out.part" / "old.png").write_bytes(b"old")
    assert contents(unpack(make_zip(box / "a", FILES), box / "out", progress=False)) == FILES
    assert not (box / "out.part").exists()


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}(/[A-Za-z0-9 _-]{1,8}){0,2}\.(png|txt)", fullmatch=True), st.binary(max_size=2000),
                       max_size=5), st.sampled_from(list(KINDS)))
def test_any_files_come_out_as_they_went_in(tmp_path_factory, files, kind):
    box = tmp_path_factory.mktemp("any")
    if any(a != b and (a + "/").startswith(b + "/") for a in files for b in files):
        return
    assert contents(unpack(KINDS[kind](box / "a", files), box / "out", progress=False)) == files


# several archives


def test_merged_folders(box):
    for name, files in {"a": FILES, "b": {"set/deep/c.png": b"c", "d.png": b"d"}, "empty": {}}.items():
        unpack(make_zip(box / f"{name}.zip", files), box / name, progress=False)
    (box / "whole").mkdir()
    (box / "whole" / "old.png").write_bytes(b"old")
    merge([box / "a", box / "b", box / "empty"], box / "whole")
    assert contents(box / "whole") == FILES | {"set/deep/c.png": b"c", "d.png": b"d"}
    assert contents(box / "a") == FILES


def test_merged_without_hard_links(box, monkeypatch):
    monkeypatch.setattr(os, "link", lambda a, b: (_ for _ in ()).throw(OSError("no links here")))
    unpack(make_zip(box / "a.zip", FILES), box / "a", progress=False)
    merge([box / "a"], box / "whole")
    assert contents(box / "whole") == FILES and not os.path.samefile(box / "a/set/a.png", box / "whole/set/a.png")


def test_a_file_that_two_folders_hold(box):
    for name in "ab":
        unpack(make_zip(box / f"{name}.zip", {"x/1.png": b"1", f"x/{name}.png": b"2"}), box / name, progress=False)
    with pytest.raises(FetchError, match="b: holds 1.png, which another archive of the set holds too"):
        merge([box / "a", box / "b"], box / "whole")
