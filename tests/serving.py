"""A real web server on localhost that misbehaves on request: for the tests of fetch and downloads."""
import gzip
import http.server
import threading
from dataclasses import dataclass, field


@dataclass
class File:
    "One file: its bytes, its tag and date, and what to do with the requests to come, in order; then it is served honestly."
    content: bytes
    moods: list = field(default_factory=list)
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    kind: str = "application/octet-stream"


class Server:
    "`files` by path, a `log` of (path, mood, Range header) and an event that lets stalled replies go."

    def __init__(self):
        self.files, self.log, self.release, self.stalled = {}, [], threading.Event(), threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def add(self, name: str, content: bytes, *moods, **more) -> str:
        self.files["/" + name] = File(content, list(moods), **more)
        return self.url(name)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def requests(self, name: str) -> list:
        return [entry[1:] for entry in self.log if entry[0] == "/" + name]

    def close(self):
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status: int, **headers) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        if status not in (200, 206):
            self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def do_GET(self):
        path = self.path.split("?")[0]
        file = self.owner.files.get(path)
        if file is None:
            return self.answer(404)
        mood = file.moods.pop(0) if file.moods else "honest"
        name, *how = mood if isinstance(mood, tuple) else (mood,)
        self.owner.log.append((path, name, self.headers.get("Range")))
        getattr(self, "do_" + name)(file, *how)

    # moods

    def do_honest(self, file, stop=None, lie=0, headers=None):
        "The file, or its rest; at most `stop` bytes of it, and a length that is off by `lie`."
        content, start, status = file.content, 0, 200
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if wanted and file.ranges and condition in (None, file.etag, file.modified):
            start, status = int(wanted[len("bytes="):-1]), 206
            if start >= len(content):
                return self.answer(416, Content_Range=f"bytes */{len(content)}")
        sent = {"Content-Length": len(content) - start + lie, "Content-Type": file.kind, "ETag": file.etag, "Last-Modified": file.modified}
        if status == 206:
            sent["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(status, **{k.replace("-", "_"): v for k, v in (sent | (headers or {})).items() if v is not None})
        self.wfile.write(content[start:] if stop is None else content[start:start + stop])

    def do_cut(self, file, stop):
        self.do_honest(file, stop)

    def do_stall(self, file, stop):
        "Some bytes, then nothing until the test lets it go."
        self.do_honest(file, stop)
        self.wfile.flush()
        self.owner.stalled.set()
        self.owner.release.wait(60)

    def do_lie(self, file, by):
        self.do_honest(file, lie=by)

    def do_wrong(self, file):
        self.do_honest(File(bytes(len(file.content)), etag=file.etag))

    def do_status(self, file, status, headers=None):
        self.answer(status, **(headers or {}))

    def do_redirect(self, file, to):
        self.answer(302, Location=to)

    def do_replace(self, file, content, etag):
        "From now on it is another file."
        file.content, file.etag = content, etag
        self.do_honest(file)

    def do_glue(self, file, content):
        "The rest of another file of the same length, as if nothing had happened."
        self.do_honest(File(content, etag=file.etag))

    def do_chunked(self, file):
        "Without a length."
        self.answer(200, Transfer_Encoding="chunked", ETag=file.etag)
        for i in range(0, len(file.content), 1000):
            block = file.content[i:i + 1000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        self.wfile.write(b"0\r\n\r\n")

    def do_encoded(self, file):
        "Compressed on the way, though nobody asked for it."
        packed = gzip.compress(file.content)
        self.answer(200, Content_Length=len(packed), Content_Encoding="gzip", ETag=file.etag)
        self.wfile.write(packed)

    def do_labelled(self, file):
        "A .gz as it is, which the server believes to be something encoded by gzip."
        self.do_honest(file, headers={"Content-Encoding": "x-gzip"})

    def do_page(self, file):
        self.do_honest(File(b"<html>Please accept our terms.</html>", kind="text/html; charset=utf-8"))
