"""A device that speaks HTTP: rest.py PORT. What is PUT somewhere is what GET finds there."""
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

stored = {}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path not in stored:
            self.send_error(404)
            return
        kind, body = stored[path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(query.encode() if query else body)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        stored[self.path] = (self.headers["Content-Type"], body)
        self.send_response(204)
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
