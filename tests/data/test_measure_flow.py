"""Statistics of the latents of flow: of the form and gain that a task asks for."""

import fake_records
import jax
import more4d_tiny as tiny
import numpy as np
import pytest

from data_prep import measure_flow
from syncmv4d_jax.data import pixel_flow, records
from syncmv4d_jax.geometry import flow_map
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.weights import exports, store


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("flow")
    fake_records.write(root / "records", flow=True)
    fake_records.write(root / "flat")
    config = tiny.make_vism().generator.vae_config
    params = module.init(vae.VAE, config, jax.random.key(0))
    store.save("vae", config, params, root / "weights", source={"by": "a test"})
    return root, config, params


@pytest.mark.parametrize("form", flow_map.FORMS)
def test_statistics_are_of_the_form_and_gain(made, form, capsys):
    root, config, params = made
    out = root / f"{form}.safetensors"
    words = ["--records", root / "records", "--weights", root / "weights", "--out", out,
             "--clips", "2", "--gain", "3", "--form", form]  # fmt: skip
    assert measure_flow.main([str(word) for word in words]) == 0
    assert "2 views" in capsys.readouterr().out
    reader = records.Reader(root / "records", "train")
    every = [(window, view) for window in reader.windows for view in window.views]
    found = []
    for values in (reader.view(*every[i]) for i in (0, len(every) - 1)):
        fields = pixel_flow.unpack(values)
        lens, pose = values["intrinsics"], records.poses(values)[0]
        camera = flow_map.Camera(fields["depth0"], lens, pose)
        world = flow_map.inverse(fields["flow"].astype(np.float32), camera)
        flow = flow_map.forward(world, camera, form=form)
        clip = np.tanh(3 * flow / 2)[None]
        found.append(np.asarray(module.bind(vae.VAE, config, params).encode(clip, chunk=1)))
    cells = np.concatenate(found).reshape(-1, config.z_dim)
    stats = exports.read(out, "flow_stats")
    np.testing.assert_allclose(stats["mean"], cells.mean(0), atol=2e-3)
    np.testing.assert_allclose(stats["std"], cells.std(0), rtol=2e-2, atol=2e-3)
    assert exports.told(out)["gain"] == 3


def test_records_without_flow_are_refused(made, tmp_path):
    words = ["--records", made[0] / "flat", "--weights", made[0] / "weights",
             "--out", tmp_path / "out.safetensors"]  # fmt: skip
    with pytest.raises(SystemExit, match="has no flow: prepare it with --with flow"):
        measure_flow.main([str(word) for word in words])
