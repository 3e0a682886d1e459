"""A page in headless Chromium: a probe runs in it and sends home what it found."""

import http.server
import json
import queue
import re
import shutil
import subprocess
import threading

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OLDEST = 120  # the page's styles use :has and nested grids; checked with 150
NARROWEST = 500  # of a window; a narrower page is shown in a frame
SCHEMES = {"dark": 0, "light": 1}  # Chromium's numbers
FRAME = """<!doctype html><html lang="en"><title>frame</title>
<style>body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: 844px }}</style>
<iframe src="/page" title="page"></iframe></html>"""


def program() -> str:
    """The browser's path; skips the test, with the reason, where there is none that will do."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip(f"no browser: wanted one of {', '.join(PROGRAMS)} (apt-get install chromium)")
    told = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60).stdout
    version = re.search(r"(\d+)\.\d+\.\d+", told)
    if version is None or int(version[1]) < OLDEST:
        pytest.skip(f"{found} is {told.strip() or 'of no version'}, wanted at least {OLDEST}")
    return found


class Server(http.server.ThreadingHTTPServer):
    """Serves one page, in a frame where it has a `width`, and takes what its probe found."""

    def __init__(self, text, width=None):
        super().__init__(("127.0.0.1", 0), Handler)
        page = text.encode()
        self.pages = {"/page": page, "/": FRAME.format(width=width).encode() if width else page}
        self.found = queue.Queue()


class Handler(http.server.BaseHTTPRequestHandler):
    """GET the page, POST the findings."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.server.pages.get(self.path, b""))

    def do_POST(self):
        self.server.found.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def browse(text, probe, profile, *, width=1280, height=900, scheme="light"):
    """Opens a page in real time; returns what its probe found.

    Args:
      text: of the page. probe: JavaScript that gives a promise of JSON values, an expression.
      profile: a folder for the browser. width, height: of the page, pixels. scheme: of SCHEMES.
    """
    script = (
        f"<script>{probe}.catch(e => ({{errors: [String(e)]}})).then(found => "
        'fetch("/found", {method: "POST", body: JSON.stringify(found)}));</script>'
    )
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", f"--window-size={max(width, NARROWEST)},{height}",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", "--remote-debugging-port=0",
    ]  # fmt: skip
    page = text.replace("</body>", script + "</body>")
    with Server(page, width if width < NARROWEST else None) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([program(), *flags, url], **quiet)
        try:
            return json.loads(server.found.get(timeout=100))
        finally:
            process.terminate()
            process.wait(20)
            server.shutdown()
