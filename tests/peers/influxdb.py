"""An InfluxDB as its v2 write API shows it: influxdb.py PORT. Its bucket is `plant` of `eyot`, its token `t0k`.

`PUT /mood` says what becomes of writes: `well`, `503`, `silent` (taken, never answered), `reset` (cut off
within the answer). A point whose field `n` is 2 does not fit the type that is there: it is dropped, the
others of its request are written and the answer is 400, as InfluxDB does. `GET /points` lists what is
there, a line each: a point is known by its series and its time. `GET /writes` counts the writes.
"""
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

# No spaces, commas or quotes in names: what the case sends has none.
LINE = re.compile(r"([^ ]+) n=(\d+)u (\d+)")
state = {"mood": "well", "writes": 0}
points = {}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, text=""):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self):
        if self.path == "/writes":
            self.answer(200, str(state["writes"]))
        else:
            self.answer(200, "".join(f"{series} {time} {n}\n" for (series, time), n in points.items()))

    def do_PUT(self):
        state["mood"] = self.body().decode()
        self.answer(204)

    def do_POST(self):
        body = self.body().decode()
        state["writes"] += 1
        url = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.headers["Authorization"] != "Token t0k":
            self.answer(401, '{"code":"unauthorized"}')
        elif url.path != "/api/v2/write" or query != {"bucket": "plant", "org": "eyot", "precision": "ns"}:
            self.answer(404, '{"code":"not found"}')
        elif state["mood"] == "503":
            self.answer(503, '{"code":"unavailable"}')
        elif state["mood"] == "silent":
            time.sleep(20)
        elif state["mood"] == "reset":
            self.wfile.write(b"HTTP/1.1 204 No Con")
            self.close_connection = True
        else:
            self.write(body)

    def write(self, body):
        dropped = 0
        for line in body.splitlines():
            parts = LINE.fullmatch(line)
            if not parts:
                self.answer(400, f"unable to parse {line!r}")
                return
            series, n, when = parts.groups()
            if n == "2":
                dropped += 1
            else:
                points[series, when] = n
        if dropped:
            self.answer(400, f'partial write: field type conflict dropped={dropped}')
        else:
            self.answer(204)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
