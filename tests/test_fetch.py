"""Fetching against a real server that cuts, stalls, lies, redirects, is busy, serves the wrong bytes, and changes the file."""
import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from email.utils import formatdate
from pathlib import Path
from unittest import mock

import gdown
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Server

from multimix.fetch import FetchError, checksum, drive_id, fetch, fetch_drive, is_drive

DATA = np.random.default_rng(0).bytes(200_000)
SHA256, MD5 = hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def get(server, tmp_path):
    "Serve DATA with these moods and fetch it; waits are noted in `get.waits` and not waited."

    def call(*moods, name="set.zip", content=DATA, more=None, **how):
        url = server.add(name, content, *moods, **(more or {}))
        return fetch(url, tmp_path / name, **({"tries": 3, "progress": False, "sleep": call.waits.append} | how))

    call.waits = []
    return call


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


def refused(tmp_path, get, *moods, says: str, **how) -> str:
    "The fetch fails with one line that says this, and nothing has the name of the file."
    with pytest.raises(FetchError, match=says) as error:
        get(*moods, **how)
    assert "\n" not in str(error.value) and not (tmp_path / "set.zip").exists()
    return str(error.value)


# what arrives


@pytest.mark.parametrize("moods, requests", [
    ([], 1),
    ([("cut", 1)], 2),
    ([("cut", 50_000), ("cut", 100_000)], 3),
    ([("cut", 0), ("cut", 199_999)], 3),
    ([("status", 503), ("cut", 70_000), ("status", 500)], 4),
    ([("lie", 1000), ("lie", 1000)], 3),
    ([("glue", bytes(len(DATA)))], 1),
])
@pytest.mark.parametrize("sums", [{"sha256": SHA256}, {"md5": MD5.upper()}, {}])
def test_it_arrives_whole_or_not_at_all(get, server, tmp_path, moods, requests, sums):
    if moods[:1] and moods[0][0] == "glue":
        if sums:
            refused(tmp_path, get, *moods, says="the file arrived, but its", **sums)
        return
    path = get(*moods, tries=4, **sums)
    assert path == tmp_path / "set.zip" and path.read_bytes() == DATA and left(tmp_path) == ["set.zip"]
    assert len(server.requests("set.zip")) == requests


def test_a_broken_download_goes_on_where_it_was(get, server, tmp_path):
    get(("cut", 50_000), ("cut", 60_000), sha256=SHA256)
    assert [range for _, range in server.requests("set.zip")] == [None, "bytes=50000-", "bytes=110000-"]


def test_a_second_call_does_nothing(get, server, tmp_path):
    path = get()
    stamp = path.stat().st_mtime_ns
    assert get(sha256=SHA256) == path and path.stat().st_mtime_ns == stamp and len(server.log) == 1


def test_a_file_that_is_there_is_checked_and_never_removed(get, server, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"mine")
    with pytest.raises(FetchError, match="set.zip: its sha256 is .*remove it"):
        get(sha256=SHA256)
    assert (tmp_path / "set.zip").read_bytes() == b"mine" and not server.log


def test_folders_are_made(server, tmp_path):
    url = server.add("a.bin", b"a")
    assert fetch(url, tmp_path / "x" / "y" / "a.bin", progress=False).read_bytes() == b"a"


def test_an_empty_file(get):
    assert get(content=b"").read_bytes() == b""


def test_without_a_length(get):
    assert get("chunked", sha256=SHA256).read_bytes() == DATA


def test_encoded_on_the_way(get):
    assert get("encoded", sha256=SHA256).read_bytes() == DATA


def test_an_archive_that_the_server_takes_for_encoded(get):
    packed = gzip.compress(DATA)
    assert get("labelled", name="set.tar.gz", content=packed).read_bytes() == packed


def test_a_later_call_goes_on(get, server, tmp_path):
    refused(tmp_path, get, ("cut", 50_000), ("status", 503), ("status", 503), says="503, 3 times in a row", tries=3)
    assert left(tmp_path) == ["set.zip.part", "set.zip.part.json"]
    assert get(sha256=SHA256).read_bytes() == DATA and left(tmp_path) == ["set.zip"]
    assert server.requests("set.zip")[-1] == ("honest", "bytes=50000-")


def test_a_part_that_is_whole_is_only_checked(get, server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(DATA)
    note = {"url": server.url("set.zip"), "etag": '"v1"', "modified": None, "total": len(DATA)}
    (tmp_path / "set.zip.part.json").write_text(json.dumps(note))
    assert get(sha256=SHA256).read_bytes() == DATA and not server.log


@pytest.mark.parametrize("note", ["", "{", "[]", '{"url": "http://elsewhere/", "etag": "\\"v1\\"", "total": 200000}', '{"total": "many"}'])
def test_a_part_without_a_usable_note_is_dropped(get, tmp_path, note):
    (tmp_path / "set.zip.part").write_bytes(b"x" * 1000)
    (tmp_path / "set.zip.part.json").write_text(note)
    assert get().read_bytes() == DATA


# the file changes on the server


def test_a_changed_file_is_never_glued(get, server):
    new = np.random.default_rng(1).bytes(len(DATA))
    assert get(("cut", 50_000), ("replace", new, '"v2"')).read_bytes() == new
    assert server.requests("set.zip")[-1][1] == "bytes=50000-"  # asked for the rest, got and took the whole


def test_nor_by_a_server_that_does_not_listen_to_if_range(get, server, tmp_path):
    new = np.random.default_rng(1).bytes(len(DATA))
    url = server.add("set.zip", DATA, ("cut", 50_000))
    with mock.patch("multimix.fetch._headers", lambda have, note: {"Range": f"bytes={have}-"} if have else {}):
        with pytest.raises(FetchError):
            fetch(url, tmp_path / "set.zip", tries=1, progress=False)
        server.add("set.zip", new, etag='"v2"')
        assert fetch(url, tmp_path / "set.zip", tries=2, progress=False, sleep=lambda s: None).read_bytes() == new
    assert [range for _, range in server.requests("set.zip")] == [None, "bytes=50000-", None]


@pytest.mark.parametrize("more, ok", [({"etag": None}, False), ({"etag": None, "modified": formatdate(1e9, usegmt=True)}, True),
                                      ({"etag": 'W/"v1"'}, True), ({"etag": '"v1"'}, True)])
def test_a_part_is_kept_only_if_the_file_can_be_told(get, server, more, ok):
    "With a tag or a date, the rest is asked for; without either, and without a checksum, the beginning is thrown away."
    assert get(("cut", 50_000), more=more, tries=4).read_bytes() == DATA
    ranges = [range for _, range in server.requests("set.zip")]
    assert ranges == ([None, "bytes=50000-"] if ok else [None, "bytes=50000-", None])


def test_a_weak_tag_is_no_condition():
    "W/ means: as good as the same, not the same bytes."
    from multimix.fetch import _headers

    date = formatdate(1e9, usegmt=True)
    assert _headers(9, {"etag": '"v1"', "modified": date})["If-Range"] == '"v1"'
    assert _headers(9, {"etag": 'W/"v1"', "modified": date})["If-Range"] == date
    assert "If-Range" not in _headers(9, {"etag": 'W/"v1"', "modified": None}) and "Range" not in _headers(0, {})


def test_with_a_checksum_the_part_may_be_kept_without_a_tag(get, server):
    assert get(("cut", 50_000), more={"etag": None}, sha256=SHA256).read_bytes() == DATA
    assert len(server.log) == 2


def test_pieces_that_do_not_fit_together_are_fetched_once_more(get, server):
    "A server that glues: the same tag, other bytes. The checksum tells, and the whole is fetched in one piece."
    assert get(("cut", 50_000), ("glue", bytes(len(DATA))), sha256=SHA256).read_bytes() == DATA
    assert server.requests("set.zip") == [("cut", None), ("glue", "bytes=50000-"), ("honest", None)]


def test_a_server_that_ignores_ranges_starts_over(get, server):
    assert get(("cut", 50_000), ("cut", 150_000), more={"ranges": False}, tries=4).read_bytes() == DATA
    assert len(server.log) == 3


CUTS = st.integers(0, 200_000).map(lambda n: ("cut", n))
BUSY = st.sampled_from([("status", 503), ("status", 429, {"Retry_After": 1})])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(CUTS, BUSY), max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_whatever_breaks_the_file_is_right_in_the_end(tmp_path_factory, moods, ranges, tag, summed):
    server, folder = Server(), tmp_path_factory.mktemp("any")
    try:
        url = server.add("a", DATA, *moods, ranges=ranges, etag='"v1"' if tag else None)
        fetch(url, folder / "a", SHA256 if summed else None, tries=99, progress=False, sleep=lambda s: None)
        assert (folder / "a").read_bytes() == DATA and left(folder) == ["a"]
    finally:
        server.close()


# what is refused


def test_wrong_bytes(get, server, tmp_path):
    refused(tmp_path, get, "wrong", says="the file arrived, but its sha256 is .*by hand: open http", sha256=SHA256)
    assert left(tmp_path) == [] and len(server.log) == 1


def test_a_length_too_short_is_told_by_the_checksum(get, tmp_path):
    refused(tmp_path, get, ("lie", -1000), says="its md5 is", md5=MD5)
    assert left(tmp_path) == []


def test_a_length_that_is_never_reached(get, server, tmp_path):
    refused(tmp_path, get, *[("lie", 1000)] * 9, says="the connection broke.* 3 times in a row")
    assert not (tmp_path / "set.zip").exists()


@pytest.mark.parametrize("status, words", [(401, "asks for a login"), (403, "does not let programs in"), (404, "no such file"),
                                           (410, "no such file"), (418, "answered with an error .418")])
def test_a_refusal_is_final_and_names_the_way_by_hand(get, server, tmp_path, status, words):
    said = refused(tmp_path, get, ("status", status), says=words, page="https://example.org/data")
    assert f"by hand: open https://example.org/data in a browser and save the file as {tmp_path / 'set.zip'}" in said
    assert len(server.log) == 1 and get.waits == []


def test_a_page_instead_of_the_file(get, tmp_path):
    refused(tmp_path, get, "page", says="a web page instead of the file")


def test_a_disk_that_is_too_small(get, tmp_path):
    with mock.patch("shutil.disk_usage", return_value=mock.Mock(free=1000)):
        refused(tmp_path, get, says="needs 0.00 GB more, and the disk of")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "file:///etc/passwd", "nonsense", "http://"])
def test_only_addresses_of_the_web(tmp_path, url):
    with pytest.raises(FetchError, match="not an address to fetch from"):
        fetch(url, tmp_path / "a", progress=False)


def test_nobody_answers(tmp_path):
    closed = Server()
    closed.close()
    with pytest.raises(FetchError, match="the server takes no connection, 2 times in a row"):
        fetch(closed.url("a"), tmp_path / "a", tries=2, progress=False, sleep=lambda s: None)


# redirects


def test_redirects_are_followed(get, server, tmp_path):
    server.add("mirror/real.bin", DATA, ("cut", 50_000))
    url = server.add("there", b"", *[("redirect", server.url("mirror/real.bin"))] * 2)
    assert fetch(url, tmp_path / "set.zip", SHA256, progress=False, sleep=get.waits.append).read_bytes() == DATA
    assert server.requests("mirror/real.bin") == [("cut", None), ("honest", "bytes=50000-")]


def test_redirects_in_circles(get, server, tmp_path):
    refused(tmp_path, get, *[("redirect", server.url("set.zip"))] * 50, says="in circles")
    assert get.waits == []


def test_redirects_to_other_kinds_of_address(get, tmp_path):
    refused(tmp_path, get, ("redirect", "file:///etc/passwd"), says="not an address to fetch from")


def test_no_way_back_from_https():
    from multimix.fetch import _check_reply

    reply = mock.Mock(status_code=200, url="http://a/", headers={}, history=[mock.Mock(url="https://a/")])
    with pytest.raises(FetchError, match="from https to http"):
        _check_reply(reply, "a.zip", 1)


# waiting


def test_waits_grow_up_to_a_bound(get):
    get(*[("status", 500)] * 6, tries=9, wait=1, max_wait=10)
    assert get.waits == [1, 2, 4, 8, 10, 10]


@pytest.mark.parametrize("status", [429, 503])
def test_the_server_says_how_long(get, status):
    get(*[("status", status, {"Retry_After": after}) for after in (7, "0", "soon")], tries=5)
    assert get.waits == [7, 0, 8]


def test_the_server_names_a_date(get):
    get(("status", 503, {"Retry_After": formatdate(usegmt=True)}), ("status", 429, {"Retry_After": formatdate(1e8, usegmt=True)}))
    assert get.waits == [0, 0]


@pytest.mark.parametrize("after", [3600, "9" * 400, formatdate(4e9, usegmt=True)])
def test_too_long_a_wait_is_handed_on(get, tmp_path, after):
    refused(tmp_path, get, ("status", 429, {"Retry_After": after}), says="asks to be left alone for", max_wait=60)
    assert get.waits == []


def test_only_tries_that_bring_nothing_are_counted(get):
    "Ten breaks with a megabyte in between are no reason to give up; three without are."
    data = np.random.default_rng(2).bytes(12 << 20)
    assert get(*[("cut", 1 << 20)] * 10, content=data, tries=2).read_bytes() == data


def test_a_server_that_breaks_at_the_same_place_for_ever(get, server, tmp_path):
    data = np.random.default_rng(2).bytes(4 << 20)
    refused(tmp_path, get, *[("cut", 2 << 20)] * 50, content=data, more={"ranges": False}, says="broke.*3 times in a row")
    assert len(server.log) == 4  # the first brought something


def test_a_stall_ends_a_try(get, server):
    assert get(("stall", 50_000), stall=0.2, tries=50, sha256=SHA256).read_bytes() == DATA
    assert server.stalled.is_set()


# killed, and two at once


PROGRAM = """import sys; from multimix.fetch import fetch
fetch(sys.argv[1], sys.argv[2], progress=False, stall=600)"""


def test_a_killed_download_goes_on(server, tmp_path):
    path, part = tmp_path / "set.zip", tmp_path / "set.zip.part"
    url = server.add("set.zip", DATA, ("stall", 131_072))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, url, str(path)], env={**os.environ, "NO_PROXY": "127.0.0.1"})
    try:
        assert server.stalled.wait(120)
        watch = threading.Event()
        for _ in range(6000):  # the bytes are on their way to the disk
            if part.exists() and part.stat().st_size >= 65_536:
                break
            watch.wait(0.02)
        with pytest.raises(FetchError, match="another program fetches set.zip right now"):
            fetch(url, path, progress=False)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    have = part.stat().st_size
    assert 65_536 <= have < len(DATA) and not path.exists()
    assert fetch(url, path, SHA256, progress=False).read_bytes() == DATA
    assert server.requests("set.zip")[-1] == ("honest", f"bytes={have}-")
    assert left(tmp_path) == ["set.zip"]


# Google Drive


FILE, FOLDER = "https://drive.google.com/file/d/1AbCdEfGhIjKlMnOp/view?usp=sharing", "https://drive.google.com/drive/folders/1QrStUvWxYz_0123456?hl=de"


@pytest.mark.parametrize("url, key", [(FILE, "1AbCdEfGhIjKlMnOp"), (FOLDER, "1QrStUvWxYz_0123456"),
                                      ("https://drive.google.com/uc?export=download&id=1AbCdEfGhIjKlMnOp", "1AbCdEfGhIjKlMnOp"),
                                      ("https://docs.google.com/uc?id=1AbCdEfGhIjKlMnOp", "1AbCdEfGhIjKlMnOp")])
def test_addresses_of_drive(url, key):
    assert is_drive(url) and drive_id(url) == key


def test_what_is_no_address_of_drive():
    assert not is_drive("https://example.org/drive.google.com/file/d/1AbCdEfGhIjKlMnOp")
    for url in ("https://drive.google.com/", "https://example.org/file/d/1AbCdEfGhIjKlMnOp/view"):
        with pytest.raises(FetchError, match="not the address of a file or folder on Google Drive"):
            drive_id(url)


@pytest.mark.parametrize("url, function", [(FILE, "download"), (FOLDER, "download_folder")])
def test_drive_writes_beside_and_renames(tmp_path, url, function):
    def write(id, output, **options):
        assert id == drive_id(url) and not (tmp_path / "drive").exists()
        Path(output, "a.zip").write_bytes(DATA)
        return output

    with mock.patch.object(gdown, function, side_effect=write) as called:
        for _ in range(2):  # the second call does nothing
            assert fetch_drive(url, tmp_path / "drive", progress=False) == tmp_path / "drive"
    assert called.call_count == 1 and checksum(tmp_path / "drive" / "a.zip") == SHA256 and left(tmp_path) == ["drive"]


def test_a_folder_of_drive_that_comes_in_part(tmp_path):
    def half(output, **options):
        Path(output, "a.png").write_bytes(b"a")
        raise getattr(gdown.exceptions, "DownloadError", RuntimeError)("Failed to download the following files:\n- b.png")

    with mock.patch.object(gdown, "download_folder", side_effect=half):
        with pytest.raises(FetchError, match="Failed to download the following files: - b.png"):
            fetch_drive(FOLDER, tmp_path / "drive", progress=False)
    assert left(tmp_path) == ["drive.part"]
    with mock.patch.object(gdown, "download_folder", return_value=["a.png"]):
        assert left(fetch_drive(FOLDER, tmp_path / "drive", progress=False)) == ["a.png"]


@pytest.mark.parametrize("said, meaning", [
    ("Too many users have viewed or downloaded this file recently.", "not hand it out: too many people fetched it today, and Google lifts"),
    ("Cannot retrieve the public link of the file. You may need to change the permission", "not shared with 'anyone with the link'"),
])
def test_drive_refuses(tmp_path, said, meaning):
    with mock.patch.object(gdown, "download", side_effect=gdown.exceptions.FileURLRetrievalError(said)):
        with pytest.raises(FetchError, match=meaning) as error:
            fetch_drive(FILE, tmp_path / "drive", progress=False)
    assert FILE in str(error.value) and f"put it into the folder {tmp_path / 'drive'}" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "drive").exists()
