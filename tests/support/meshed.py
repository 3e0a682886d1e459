"""Meshes of eight fake devices, what runs on them, and how results are compared."""

import jax
import jax.numpy as jnp
import numpy as np

from syncmv4d_jax import tree
from syncmv4d_jax.geometry import cameras
from syncmv4d_jax.geometry import tracks as world_tracks
from syncmv4d_jax.machines import mesh as meshes
from syncmv4d_jax.machines import placement as placements
from syncmv4d_jax.models.dpa import aligner
from syncmv4d_jax.models.nn import module

MESHES = {
    "data": ({"data": 8}, "ulysses"),
    "fsdp": ({"fsdp": 8}, "ulysses"),
    "view": ({"fsdp": 4, "view": 2}, "ulysses"),
    "view3": ({"fsdp": 2, "view": 3}, "ulysses"),
    "ulysses": ({"fsdp": 2, "sequence": 4}, "ulysses"),
    "ring": ({"fsdp": 2, "sequence": 4}, "ring"),
    "view-ulysses": ({"fsdp": 2, "view": 2, "sequence": 2}, "ulysses"),
    "view3-ulysses": ({"view": 3, "sequence": 2}, "ulysses"),
    "view-ring": ({"data": 2, "view": 2, "sequence": 2}, "ring"),
    "data-fsdp": ({"data": 2, "fsdp": 4}, "ulysses"),
}


B, N, K = 8, 5, 32


# What is compared are numbers, not speed: XLA partitions, then does as little as it can.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def placed(name, tree_, batch, **options):
    """Returns (placement, sharded parameters, sharded batch)."""
    axes, sequence = MESHES[name]
    mesh = meshes.make_mesh(axes, jax.devices()[: int(np.prod(list(axes.values())))])
    placement = placements.Placement(mesh, sequence=sequence, **options)
    params = jax.device_put(tree_, meshes.shardings(tree_, mesh, minimum=64))
    host = {key: np.asarray(x) for key, x in batch.items()}
    return placement, params, meshes.put_batch(host, mesh, B)


def check(wanted, got, *, loss, leaf, overall=0.0):
    """Compares (loss, gradients): `leaf` of a leaf's largest value, `overall` of that of all."""
    np.testing.assert_allclose(got[0], wanted[0], rtol=loss)
    flat, others = tree.flatten(wanted[1]), tree.flatten(got[1])
    top = max(np.max(np.abs(x)) for x in flat.values())
    wrong = {}
    for path, x in flat.items():
        largest, error = np.max(np.abs(x)), np.max(np.abs(x - others[path]))
        if not error <= leaf * largest + overall * top:
            wrong[path] = (float(error), float(largest))
    assert not wrong, (top, wrong)


def shaken(params, key):
    """Zero-initialised gates and heads would hide errors: everything gets noise."""
    leaves, form = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        x + 0.05 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(form, noisy)


def views_of(name):
    return 2 if MESHES[name][0].get("view") == 2 else 3


def pad(x, frames):
    return jnp.pad(x, ((0, 0), (0, 0), (0, frames - x.shape[2])) + ((0, 0),) * (x.ndim - 3))


def aligner_loss(params, batch, placement, config):
    frames = placement.frames(N)
    arrays = {key: pad(batch[key], frames) for key in ("tracks_t", "coarse", "confidence", "rays")}
    valid = pad(batch["valid"], frames)
    velocity = module.bind(aligner.Aligner, config, params)(
        arrays.pop("tracks_t"), arrays.pop("coarse"), batch["t"], valid=valid,
        placement=placement, **arrays,
    )[:, :, :N]  # fmt: skip
    return aligner.loss(
        velocity, target=batch["noise"] - batch["tracks"][:, None], tracks_t=batch["tracks_t"],
        tracks=batch["tracks"], t=batch["t"], valid=batch["valid"],
        placement=placement,
    )[0]  # fmt: skip


def rig(views, centre):
    """Extrinsics [b v 3 4] of cameras around a point, metres."""
    eyes = centre + np.array([[0.6, 0.8, 0.5], [0, 1.0, 0.6], [-0.6, 0.8, 0.5]])[:views]
    up = np.broadcast_to([0, 0, 1.0], eyes.shape)
    poses = cameras.look_at(eyes, np.broadcast_to(centre, eyes.shape), up)
    return np.broadcast_to(poses, (B, views, 3, 4)).astype(np.float32)


def scene(views):
    keys = jax.random.split(jax.random.key(5), 5)
    shape = (B, views, N, K)
    tracks = jax.random.normal(keys[0], (B, N, K, 3))
    noise = jax.random.normal(keys[1], (*shape, 3))
    t = jnp.linspace(0.1, 0.9, B)
    wide = t[:, None, None, None, None]
    coarse = tracks[:, None] + 0.05 * jax.random.normal(keys[2], (*shape, 3))
    extrinsics, centre = jnp.asarray(rig(views, np.zeros(3))), jnp.zeros((B, 3))
    return {
        "tracks": tracks,
        "noise": noise,
        "t": t,
        "tracks_t": (1 - wide) * tracks[:, None] + wide * noise,
        "coarse": coarse,
        "confidence": jax.random.uniform(keys[3], shape),
        "valid": jax.random.uniform(keys[4], shape) < 0.9,
        "rays": world_tracks.point_rays(coarse, extrinsics, centre),
    }
