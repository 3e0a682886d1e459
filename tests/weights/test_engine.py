"""The conversion engine: both directions and an audit that lists everything at once."""

import numpy as np
import pytest

from syncmv4d_jax import tree
from syncmv4d_jax.weights import engine

RULES = [
    engine.Rule("blocks.{n}.{a}.weight", "blocks/{a}/kernel", engine.TRANSPOSE),
    engine.Rule("blocks.{n}.{a}.bias", "blocks/{a}/bias"),
    engine.Rule("stages.{i}.{j}.weight", "stage_{i}/conv_{j}/kernel", engine.TRANSPOSE),
    engine.Rule("out", "out/scale"),
]
RNG = np.random.default_rng(0)
TENSORS = {
    "out": RNG.standard_normal(3),
    "stages.0.1.weight": RNG.standard_normal((2, 5)),
    **{f"blocks.{n}.q.weight": RNG.standard_normal((4, 3)) for n in range(11)},
    **{f"blocks.{n}.q.bias": RNG.standard_normal(4) for n in range(11)},
}
WANTED = {
    "blocks/q/kernel": (11, 3, 4),
    "blocks/q/bias": (11, 4),
    "stage_0/conv_1/kernel": (5, 2),
    "out/scale": (3,),
}


def shapes(tensors):
    return {key: value.shape for key, value in tensors.items()}


def test_there_and_back():
    ours = engine.to_ours(RULES, TENSORS, WANTED, source="test")
    assert shapes(tree.flatten(ours)) == WANTED
    np.testing.assert_array_equal(
        ours["blocks"]["q"]["kernel"][10], TENSORS["blocks.10.q.weight"].T
    )
    back = engine.to_reference(RULES, ours)
    assert back.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        np.testing.assert_array_equal(back[key], value)


def test_audit_lists_everything():
    given = shapes(TENSORS) | {"other": (1,), "out": (4,), "blocks.11.q.bias": (4,)}
    del given["blocks.3.q.weight"]
    with pytest.raises(ValueError) as error:
        engine.plan(RULES, given, WANTED, source="the file")
    text = str(error.value)
    assert "the file does not fit" in text
    assert "unknown keys: blocks.11.q.bias, other" in text
    assert "missing keys: blocks.3.q.weight" in text
    assert "out: wanted (3,), got (4,)" in text


def test_matched_twice():
    rules = [*RULES, engine.Rule("{a}", "again/{a}")]
    with pytest.raises(ValueError, match="keys matched twice: out -> out/scale, again/out"):
        engine.plan(rules, shapes(TENSORS), WANTED, source="x")


def test_table_does_not_cover():
    with pytest.raises(ValueError, match="new/leaf: 0 rules"):
        engine.reference_slices(RULES, WANTED | {"new/leaf": (2,)})


def test_ignored_alias():
    given = shapes(TENSORS) | {"alias": (9,)}
    engine.plan(RULES, given, WANTED, source="x", ignore="alias")
    with pytest.raises(ValueError, match="unknown keys: alias"):
        engine.plan(RULES, given, WANTED, source="x")
