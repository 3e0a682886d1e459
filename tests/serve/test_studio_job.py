"""A whole job on the demo's weights, from `make studio`'s command to the files, in Chromium."""

import json
import subprocess
import sys
from pathlib import Path

import chromium
import fake_samples
import pytest
import serving
from PIL import Image

from syncmv4d_jax.results import samples

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def port(tmp_path):
    command = [sys.executable, "demo/doors.py", "studio", "--port", "0", "--out", tmp_path / "out"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stdout if "http://" in line)
            here = int(line.split("127.0.0.1:")[1].split("/")[0])
            yield here
        finally:
            process.terminate()
    with pytest.raises(ConnectionRefusedError):  # what was started is what was stopped
        serving.ask(here, "/")


def test_three_images_become_videos_tracks_and_files(port, tmp_path):
    for v, image in enumerate(fake_samples.truth(0, size=(128, 192))["video"][:, 0]):
        Image.fromarray(image).save(tmp_path / f"{v}.png")
    text = "document.getElementById('job-text').textContent"
    with chromium.page(tmp_path / "profile") as page:
        page.size(1440, 1000)
        page.open(f"http://127.0.0.1:{port}/")
        page.choose("#images", *(tmp_path / f"{v}.png" for v in range(3)))
        page.until("document.querySelectorAll('#thumbs img').length === 3")
        assert page.evaluate("document.getElementById('preset').value") == "taco"
        page.evaluate("document.getElementById('prompt').value = 'A person pours from a cup.'")
        page.evaluate("document.getElementById('num_inference_steps').value = 4")
        page.evaluate("document.getElementById('send').click()")
        page.until("document.querySelectorAll('#looks video').length === 6", 900)  # a preview
        page.until(f"{text}.startsWith('done')", 900)
        page.until("document.querySelectorAll('#looks video').length === 6")
        page.until("[...document.querySelectorAll('#looks video')].every(v => v.videoWidth > 0)")
        names = page.evaluate("[...document.querySelectorAll('#files a')].map(a => a.download)")
        wanted = {"tracks.glb", "tracks.usda", "tracks_ply.zip", "sample.zip", "report.html"}
        assert wanted <= set(names)
        assert page.errors == []
    job = json.loads(serving.ask(port, "/v1/videos")[1])["data"][0]
    found = serving.ask(port, f"/v1/videos/{job['id']}/content/tracks.glb")
    assert found[0] == 200 and found[1][:4] == b"glTF"
    made = samples.read(tmp_path / "out/jobs" / job["id"] / "result")
    assert made["video"].shape == (3, 13, 64, 96, 3) and made["tracks"].shape == (13, 256, 3)
