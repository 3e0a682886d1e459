"""A page of a server in headless Chromium, driven over its debugging pipe: no other program.

browser.py shows a text in a page that the test serves; this one goes to a server's own pages, whose
policy lets no script in but their own: what is evaluated here comes by the debugger.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import subprocess
import time

import browser


class Page:
    """One page; `evaluate` runs JavaScript in it."""

    def __init__(self, read, write):
        self._read, self._write, self._next, self._left = read, write, 0, b""
        self.errors = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attach = {"targetId": target, "flatten": True}
        self._session = self._call("Target.attachToTarget", attach)["sessionId"]
        for room in ("Page", "Runtime", "DOM", "Log"):
            self.call(f"{room}.enable")

    def _call(self, method, params=None, session=None, timeout=60.0):
        self._next += 1
        message = {"id": self._next, "method": method, "params": params or {}}
        message |= {"sessionId": session} if session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = self._message(end)
            if found.get("id") == message["id"]:
                assert "error" not in found, (method, found["error"])
                return found["result"]
        raise TimeoutError(method)

    def _message(self, end):
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError("no answer of the browser")
            self._left += os.read(self._read, 2**20)
        text, _, self._left = self._left.partition(b"\0")
        found = json.loads(text)
        if found.get("method") == "Runtime.exceptionThrown":
            self.errors.append(found["params"]["exceptionDetails"])
        if found.get("method") == "Log.entryAdded" and "policy" in str(found).lower():
            self.errors.append(found["params"]["entry"])
        return found

    def call(self, method, **params):
        """One command of the debugger to the page."""
        return self._call(method, params, self._session)

    def size(self, width, height, scheme="light"):
        """Sets the page's size and its colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def open(self, url):
        """Goes there and waits until the page says that it is ready."""
        self.call("Page.navigate", url=url)
        self.until("document.body?.dataset.ready === '1'")

    def evaluate(self, code):
        """The value of an expression; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=code, awaitPromise=True,
                          returnByValue=True)  # fmt: skip
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, code, seconds=60.0):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(code):
            assert time.monotonic() < end, f"{code} is not true after {seconds} s"
            time.sleep(0.05)

    def choose(self, selector, *paths):
        """Gives files to an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, key, code=None):
        """Presses a key, as a keyboard does."""
        texts = {"Enter": "\r", "Space": " "}
        words = {"key": " " if key == "Space" else key, "code": code or key}
        words |= {"text": texts[key]} if key in texts else {}
        codes = {"Enter": 13, "Space": 32, "Tab": 9, "ArrowLeft": 37, "ArrowRight": 39}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **words,
                      windowsVirtualKeyCode=codes.get(key, 0))  # fmt: skip

    def screenshot(self, path, *, whole=True):
        """Writes a picture of the page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="jpeg",
                          quality=72, **({"clip": self._clip()} if whole else {}))  # fmt: skip
        path.write_bytes(base64.b64decode(found["data"]))

    def _clip(self):
        width, height = self.evaluate(
            "[document.documentElement.clientWidth, document.documentElement.scrollHeight]"
        )
        return {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}


@contextlib.contextmanager
def page(profile):
    """Starts a browser with one page."""
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--remote-debugging-pipe", f"--user-data-dir={profile}",
    ]  # fmt: skip

    def wire():  # the browser reads 3 and writes 4
        above = [fcntl.fcntl(x, fcntl.F_DUPFD, 10) for x in (theirs_read, theirs_write)]
        os.dup2(above[0], 3)
        os.dup2(above[1], 4)

    process = subprocess.Popen(
        [browser.program(), *flags],
        preexec_fn=wire,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_read)
    os.close(theirs_write)
    try:
        yield Page(ours_read, ours_write)
    finally:
        process.terminate()
        process.wait(20)
        os.close(ours_read)
        os.close(ours_write)
