"""Wan's tables: every key and shape of the released sizes maps one to one, both ways."""

import json
from pathlib import Path

import pytest

from syncmv4d_jax import models, tree
from syncmv4d_jax.models.nn import module
from syncmv4d_jax.models.wan import config as wan_config
from syncmv4d_jax.models.wan import umt5, vae
from syncmv4d_jax.weights import engine, release

GOLDEN = Path(__file__).parents[1] / "golden/wan_keys"
FULL = {"dit": wan_config.TI2V_5B, "vae": vae.TI2V_5B, "umt5": umt5.XXL}
COUNTS = {"dit": 4_999_787_712, "vae": 704_688_668, "umt5": 5_680_910_336}


def keys(layout, part):
    listed = json.loads((GOLDEN / f"{layout}_keys_full_size.json").read_text())[part]
    return {key: tuple(shape) for key, shape in listed.items()}


@pytest.mark.parametrize("layout", ["official", "diffusers"])
@pytest.mark.parametrize("part", models.MODELS)
def test_full_size(part, layout):
    config = FULL[part]
    shapes = module.shapes(models.MODELS[part], config)
    assert tree.count(shapes) == COUNTS[part]
    wanted = {path: leaf.shape for path, leaf in tree.flatten(shapes).items()}
    rules, given = release.TABLES[part](config, layout), keys(layout, part)
    ignore = release.IGNORED.get(part)
    planned = engine.plan(rules, given, wanted, source=layout, ignore=ignore)
    given.pop("encoder.embed_tokens.weight", None)
    assert planned.shapes == given  # from our shapes back to their keys and shapes
    used = [(s.path, s.layer) for slices in planned.slices.values() for s in slices]
    assert len(set(used)) == len(used) == len(given)
    for key in given:
        (place,) = engine.locate(rules, key)
        assert (place.path, place.layer) in used
