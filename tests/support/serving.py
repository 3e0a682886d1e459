"""A server on a free port of this machine, asked by HTTP."""

import contextlib
import dataclasses
import http.client
import json
import threading
import time
import uuid

import uvicorn

from syncmv4d_jax.serve import app, dispatch, jobs, limits, listening, requests

WANTS = requests.Wants(
    views=2,
    size=(32, 48),
    frames=5,
    fps=8.0,
    cameras=True,
    steps=3,
    guidance=1.0,
    switches=(
        {"name": "cycle", "least": False, "most": True, "value": True, "text": "the loop"},
        {"name": "every", "least": 1, "most": 9, "value": 4, "text": "at every n-th step"},
    ),
    previews=True,
    compares=True,
)
ALONE = dataclasses.replace(WANTS, views=1, compares=False)
MOVING = dataclasses.replace(ALONE, meshes=True)
DEEP = dataclasses.replace(ALONE, cameras=False, depth=True, paths=requests.named_paths())


@contextlib.contextmanager
def running(application):
    """Answers with an application; gives its port."""
    listener = listening.listen("127.0.0.1", 0)
    config = uvicorn.Config(
        application, http=limits.Protocol, ws="none", lifespan="off", log_level="critical",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@contextlib.contextmanager
def studio(root, load, *, own=None, wants=WANTS, host="127.0.0.1", secret="", **how):
    """A studio over a folder; gives (port, dispatcher)."""
    how = {"seconds": 60.0, "keep": 1e6, **how}
    dispatcher = dispatch.Dispatcher(jobs.Store(root), load, **how)
    dispatcher.start()
    try:
        whole = app.Studio(dispatcher, wants, own or app.Limits(per_minute=1e4), secret)
        with running(app.application(whole, host=host, secret=secret)) as port:
            yield port, dispatcher
    finally:
        dispatcher.stop()


def ask(port, path, method="GET", body=None, headers=None, timeout=60):
    """Returns (status, body, headers) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, reply.read(), reply.headers
    finally:
        connection.close()


def form(fields, images=(), **files):
    """A multipart body and its headers; images, and other fields of files: (file name, bytes)."""
    mark = uuid.uuid4().hex
    parts = []
    for name, text in fields.items():
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(head.encode() + (text if isinstance(text, bytes) else text.encode()) + b"\r\n")
    for kind, rows in {"images": images, **files}.items():
        for name, data in rows:
            head = f'--{mark}\r\nContent-Disposition: form-data; name="{kind}"; filename="{name}"'
            parts.append(f"{head}\r\n\r\n".encode() + data + b"\r\n")
    body = b"".join(parts) + f"--{mark}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={mark}"}


def submit(port, fields, images=(), **more):
    """Sends a job; returns (status, JSON)."""
    body, headers = form(fields, images)
    status, text, _ = ask(port, "/v1/videos", "POST", body, headers | more)
    return status, json.loads(text)


def send(port, path, fields, **files):
    """Sends a form; returns (status, JSON)."""
    status, text, _ = ask(port, path, "POST", *form(fields, **files), timeout=300)
    return status, json.loads(text)


def job(port, name):
    """The job as the server tells it."""
    return json.loads(ask(port, f"/v1/videos/{name}")[1])


def until(port, name, *states, seconds=60, pause=0.03):
    """Waits for a state of a job, and returns the job."""
    end = time.monotonic() + seconds
    while (found := job(port, name)).get("state") not in states:
        assert time.monotonic() < end, found
        time.sleep(pause)
    return found
