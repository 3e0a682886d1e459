"""Parameters in one file: values, dtypes, parts, what is told of a wrong one."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from syncmv4d_jax import tree
from syncmv4d_jax.weights import exports

PARAMS = {
    "dit": {"blocks": {"kernel": jnp.arange(24.0).reshape(2, 3, 4) / 7}},
    "dpa": {"kernel": jnp.ones((16, 8)) / 3, "bias": jnp.zeros((8,)), "index": jnp.arange(3)},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_write_and_read(tmp_path, dtype):
    path = tmp_path / "weights.safetensors"
    exports.write(PARAMS, path, dtype=dtype, metadata={"seed": 3})
    got = tree.flatten(exports.read(path))
    for name, x in tree.flatten(PARAMS).items():
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        wanted = x.astype(dtype).astype("float32") if floating else x
        np.testing.assert_array_equal(got[name], np.asarray(wanted))
    assert exports.read(path, "dpa").keys() == {"kernel", "bias", "index"}
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"json": '{"seed": 3}'}
    with pytest.raises(KeyError, match=r"wanted part 'vae', found parts \['dit', 'dpa'\]"):
        exports.read(path, "vae")
    with pytest.raises(FileNotFoundError, match="wanted a .safetensors file"):
        exports.read(tmp_path / "none.safetensors")
