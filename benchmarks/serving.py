"""What asking costs a job: status and files asked for while it runs, beside the same job alone.

    python benchmarks/serving.py [--rounds 3] [--steps 4]

`make studio` in a process of its own, on the demo's weights. After a job that compiles, jobs of one
seed run in turn alone and with a client that sends 20 requests a second for the job's state and one
a second for the largest file of the first job. Prints `name ours peer ratio`: seconds of the
fastest job with the client beside the fastest alone (goal 1.05), and what the client was answered.
"""

import argparse
import contextlib
import functools
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import timing  # noqa: E402
from PIL import Image  # noqa: E402

from syncmv4d_jax.data import rigs  # noqa: E402
from syncmv4d_jax.data.scenes import hand, scene  # noqa: E402
from syncmv4d_jax.data.sources import mano  # noqa: E402

SIZE = (128, 192)  # of the pictures, twice that of configs/demo.py
STATUS, CONTENT = 20.0, 1.0  # requests a second


@contextlib.contextmanager
def studio(out: str) -> Iterator[int]:
    """Runs it; gives its port."""
    command = [sys.executable, "demo/doors.py", "studio", "--port", "0", "--out", out]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if "http://" in line)
            yield int(line.split("127.0.0.1:")[1].split("/")[0])
        finally:
            process.terminate()


def ask(port: int, path: str, body: bytes | None = None, kind: str = "") -> bytes:
    """The body of an answer.

    Raises:
      ValueError: a status of 400 or more.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": kind} if kind else {}
    try:
        connection.request("POST" if body is not None else "GET", path, body, headers)
        reply = connection.getresponse()
        found = reply.read()
    finally:
        connection.close()
    if reply.status >= 400:
        raise ValueError(f"{path}: {reply.status} {found[:200]!r}")
    return found


@functools.cache
def drawn() -> tuple[scene.Spec, scene.Renderer]:
    """A held-out embedded scene before three cameras: what the demo's weights know."""
    spec = scene.specify(0, seed=0, held_out=True)
    with tempfile.TemporaryDirectory() as folder:
        hand.write(folder)
        world = scene.World(spec, 30, mano.load_hands(folder))
    return spec, scene.Renderer(world, SIZE, scene.THREE)


def submit(port: int, steps: int) -> str:
    """Sends the job, always the same; returns its id."""
    spec, renderer = drawn()
    rig = {name: rigs.stated(camera) for name, camera in renderer.cameras.items()}
    fields = {"prompt": spec.text, "cameras": json.dumps(rig), "seed": "1",
              "num_inference_steps": str(steps), "preview": "false"}  # fmt: skip
    mark = uuid.uuid4().hex
    head = f"--{mark}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{text}\r\n'.encode() for name, text in fields.items()]
    for name, pixels in renderer.frame(0).items():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        parts += [f'{head}"images"; filename="{name}.png"\r\n\r\n'.encode(), file.getvalue()]
        parts.append(b"\r\n")
    body = b"".join(parts) + f"--{mark}--\r\n".encode()
    kind = f"multipart/form-data; boundary={mark}"
    return str(json.loads(ask(port, "/v1/videos", body, kind))["id"])


def finished(port: int, name: str) -> dict[str, Any]:
    """Waits for a job without being in its way, and returns it."""
    while True:
        job: dict[str, Any] = json.loads(ask(port, f"/v1/videos/{name}"))
        if job["state"] not in ("queued", "running"):
            assert job["state"] == "done", job
            return job
        time.sleep(2)


@contextlib.contextmanager
def client(port: int, name: str, file: str) -> Iterator[dict[str, int]]:
    """Asks for a job and for a file until the block ends; gives {path: answers}."""
    stop, answers = threading.Event(), {"status": 0, "content": 0}

    def every(path: str, rate: float, kind: str) -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            ask(port, path)
            answers[kind] += 1
            due += 1 / rate

    rows = ((f"/v1/videos/{name}", STATUS, "status"), (file, CONTENT, "content"))
    threads = [threading.Thread(target=every, args=row, daemon=True) for row in rows]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"alone": [], "asked": []}
    with tempfile.TemporaryDirectory() as folder, studio(folder) as port:
        files = finished(port, submit(port, args.steps))["files"]  # it compiles
        largest = max(files.values(), key=lambda row: row["bytes"])
        for _ in range(args.rounds):
            for how, times in seconds.items():
                name = submit(port, args.steps)
                asks = client(port, name, largest["url"]) if how == "asked" else None
                with asks or contextlib.nullcontext({}) as answers:
                    job = finished(port, name)
                times.append(job["ended"] - job["started"])
                rates = {k: n / times[-1] for k, n in answers.items()}
                print(f"# {how}: {times[-1]:.1f} s", rates or "", flush=True)
    timing.row("serving_job_s", min(seconds["asked"]), min(seconds["alone"]))


if __name__ == "__main__":
    main()
