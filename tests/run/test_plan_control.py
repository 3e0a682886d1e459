"""Control at full size on the machines that docs/hvg3d.md names: what is estimated there."""

import functools
import re
from pathlib import Path

import pytest

from configs import hvg3d
from syncmv4d_jax.machines.planning import bounds, pods
from syncmv4d_jax.run import assembly, plan, programs

DOCUMENT = Path(__file__).parents[2] / "docs/hvg3d.md"
ONE, EIGHT = ({"data": 1, "fsdp": n, "view": 1, "sequence": 1} for n in (1, 8))


@functools.cache
def work(variant, batch):
    """What a training step does, of so many samples."""
    config = hvg3d.get_config(variant)
    own = programs.named(assembly.task(config), ("train_step",))["train_step"]
    return plan._bounded(config, own, own.work(), batch)


def said(words):
    """The number that stands in the document between these words."""
    text = " ".join(DOCUMENT.read_text().split())
    return float(re.search(words.replace("N", r"([\d.]+)"), text)[1])


@pytest.mark.parametrize(
    ("variant", "chip", "mesh", "memory"),
    [
        ("third", "h100", ONE, "`:third` trains in N GiB on one chip"),
        ("taco", "v5p", EIGHT, "all blocks in N GiB a device on eight v5p"),
    ],
)
def test_training_fits_as_the_document_says(variant, chip, mesh, memory):
    row = bounds.estimate(work(variant, mesh["fsdp"]), pods.CHIPS[chip], mesh)
    assert row["likely"]
    assert abs(row["estimate_bytes"] / 2**30 - said(memory)) < 0.5 + 1e-6
    if variant == "third":
        least = said(r"no faster than N s a clip on an H100")
        assert abs(row["bound_s_per_sample"] - least) < 0.006


def test_all_blocks_do_not_fit_one_chip():
    assert not bounds.estimate(work("taco", 1), pods.CHIPS["h100"], ONE)["likely"]
