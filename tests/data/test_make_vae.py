"""A second start of data_prep/make_vae.py in its folder; what it makes is the demo's test."""

import dataclasses
import sys

import fake_records
import jax
import make_vae
import numpy as np
import pytest

from configs import wan_vae as configuration
from syncmv4d_jax import tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import wan_vae
from syncmv4d_jax.weights import store


class Begun(Exception):
    """It has looked at the folder, and would work now."""


def test_other_records_or_clips_are_refused(tmp_path, monkeypatch):
    def clips(config, count):
        raise Begun

    monkeypatch.setattr(make_vae, "clips", clips)

    def go(*more):
        argv = ["make_vae.py", f"--records={folder}", f"--out={tmp_path / 'out'}", *more]
        monkeypatch.setattr(make_vae.sys, "argv", argv)
        make_vae.main()

    folder = fake_records.write(tmp_path / "one")
    for more in ((), ("--steps=9",)):  # more steps are more of the same
        with pytest.raises(Begun):
            go(*more)
    with pytest.raises(SystemExit, match="clips: was 12, is 3.*another --out"):
        go("--clips=3")
    folder = fake_records.write(tmp_path / "two", sequences=3)
    with pytest.raises(SystemExit, match="records: was .*, is "):
        go()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_start_is_gone_on_from_and_belongs_to_the_folder(tmp_path, monkeypatch):
    config = wan_vae.make(configuration.get_config()).config
    params = module.init(vae.VAE, config, jax.random.key(3))
    seen = []

    def train(config, _):
        seen.append(config.weights.vae)
        raise Begun

    monkeypatch.setattr(make_vae, "clips", lambda *_: np.zeros((1, 5, 16, 16, 3), np.uint8))
    monkeypatch.setattr(make_vae, "report", lambda *_: None)
    monkeypatch.setattr(make_vae.train, "run", train)
    records = fake_records.write(tmp_path / "records")

    def go(start):
        argv = ["make_vae.py", f"--records={records}", f"--out={tmp_path / 'out'}"]
        monkeypatch.setattr(sys, "argv", [*argv, f"--start={start}"])
        make_vae.main()

    for name, scale in (("one", 1.0), ("two", 2.0)):
        scaled = jax.tree.map(lambda x, by=scale: by * x, params)
        store.save("vae", config, scaled, tmp_path / name, source={"by": "test"})
    with pytest.raises(Begun):
        go(tmp_path / "one")
    _, started = store.load("vae", seen[0])
    for name, leaf in tree.flatten(params).items():
        np.testing.assert_array_equal(tree.flatten(started)[name], leaf, err_msg=name)
    with pytest.raises(SystemExit, match="start: was .*, is .*another --out"):
        go(tmp_path / "two")
    small = dataclasses.replace(config, dim=16)
    other = module.init(vae.VAE, small, jax.random.key(0))
    store.save("vae", small, other, tmp_path / "small", source={"by": "test"})
    with pytest.raises(SystemExit, match="wanted the autoencoder of --variant.*dim"):
        go(tmp_path / "small")


def test_made_weights_lose_nothing_in_two_bytes():
    params = make_vae.halved({"kernel": np.array([1 / 3, -2e-5, 70.0], np.float32)})
    stored = np.asarray(params["kernel"]).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(stored, params["kernel"])
    np.testing.assert_allclose(stored, [1 / 3, -2e-5, 70.0], rtol=2e-3)
