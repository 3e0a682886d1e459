"""A maker that loads nothing and makes small files, for the worker's process."""

import os
import time
import uuid
from pathlib import Path

from tqdm import tqdm


def load(folder=None, seconds=0.0):
    """Makes a maker; `folder`: it writes a line of made.log there for each job that it ends."""
    return Fake(folder, seconds)


def load_with_bar():
    """Its jobs show a bar, as a sample's steps do."""
    return lambda *_: tqdm(total=1, disable=False).close()


def load_nothing():
    raise FileNotFoundError("no weights for 'dit'")


def load_and_die():
    os._exit(3)


class Fake:
    def __init__(self, folder, seconds):
        self.folder, self.seconds = folder, seconds

    def __call__(self, request, folder, target, tell):
        words, steps = request["prompt"], request["num_inference_steps"]
        last = 41.2 if words.startswith("known") else None
        tell("progress", phase="compiling", compile_seconds=last)
        time.sleep(3 * self.seconds)
        tell("progress", phase="sampling", done=0, steps=steps)
        for step in range(steps):
            time.sleep(self.seconds)
            if words.startswith("die"):
                os._exit(9)
            if words.startswith("refuse"):
                raise ValueError("sample: wanted query pixels that a view sees, got none")
            if words.startswith("break"):
                raise ZeroDivisionError("by zero")
            if words.startswith("sleep"):
                time.sleep(60)
            tell("progress", phase="sampling", done=step + 1, steps=steps)
            if request["preview"]:
                (folder / "previews").mkdir(exist_ok=True)
                (folder / "previews" / f"{step + 1:03d}_view_0.mp4").write_bytes(b"preview")
                tell("preview")
        (target / "view_0.mp4").write_bytes(bytes(range(256)))
        (target / "token.json").write_text(f'"{uuid.uuid4().hex}"')
        page = "<html><script>1</script><script src=x></script></html>"
        (target / "report.html").write_text(page)
        if self.folder is not None:
            with Path(self.folder, "made.log").open("a") as file:
                file.write(f"{folder.name}\n")
