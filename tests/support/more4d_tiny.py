"""Tiny generators of more4d, and a batch of the scene of support/views.py for them."""

import jax
import jax.numpy as jnp
import numpy as np
import views

from syncmv4d_jax.geometry import flow_map, view_pairs
from syncmv4d_jax.models import conditioned, lora, motion_codec, perception
from syncmv4d_jax.models.nn import protocol
from syncmv4d_jax.models.wan import vae
from syncmv4d_jax.tasks import video
from syncmv4d_jax.tasks.more4d import conditional, flow_codec, strag, vism

SIZE, FRAMES, VIEWS = (16, 24), 5, 2
VAE = vae.VAEConfig(z_dim=4, dim=8, dec_dim=8, dim_mult=(1, 2, 2), num_res_blocks=1,
                    temporal_downsample=(True, True), patch=2)  # fmt: skip
CODEC = motion_codec.CodecConfig(z_dim=4, space=8, width=16, depth=1, reduction=2, guide=16)
SMALL = {"size": SIZE, "frames": FRAMES, "views": VIEWS, "guidance": 1.0, "sample_steps": 2,
         "text_drop": 0.0, "condition_drop": 0.0}  # fmt: skip


def dit(condition_channels, patch=(1, 1, 1)):
    return conditioned.ConditionedConfig(
        dim=24, ffn_dim=48, heads=2, layers=2, in_channels=4, out_channels=4, patch=patch,
        freq_dim=16, text_dim=8, text_len=6, dtype="float32",
        condition_channels=condition_channels,
    )  # fmt: skip


PERCEIVES = perception.PerceptionConfig(
    source="latents", channels=4, width=8, dim=24, layers=2, dtype="float32"
)


def generator(options, channels, *, sees=None, adapters=None):
    return conditional.Generator(
        options, dit(channels), VAE, adapters or lora.LoRAConfig(), sees, protocol.LOCAL
    )


def maps(codec=CODEC, form="depth", gain=8.0):
    return flow_codec.FlowLatents(video.FrozenVAE(VAE), codec, gain, form)


def make_strag(sees=PERCEIVES, codec=CODEC, form="depth", **options):
    settings = strag.Options(**{**SMALL, "points": 40, **options})
    return strag.STraG(generator(settings, 8, sees=sees), maps(codec, form))


def make_vism(adapters=None, corruption=None, **options):
    settings = vism.Options(**{**SMALL, "single_share": 0.0, "sources": 1, **options})
    still = view_pairs.Corruption(0.0, 0.0, 0.0, 0.0)
    return vism.ViSM(generator(settings, 8, adapters=adapters), corruption or still)


def batch(samples=1):
    """Of schema.BATCH: two views of a moving scene."""
    rng, rows = np.random.default_rng(0), []
    for v in range(VIEWS):
        rig = views.camera(SIZE, focal=28.0, eye=(0.15 * v, -1.0, 0.8))
        camera, tracks, colours = views.scene(FRAMES, SIZE, seed=v, rig=rig)
        clip = np.repeat(colours[None], FRAMES, 0)
        clip[1:] = (clip[1:] * 0.9).astype(np.uint8)
        rows.append(
            {
                "video": clip,
                "flow": flow_map.forward(tracks, camera).astype(np.float16),
                "flow_valid": np.ones(SIZE, bool),
                "depth0": camera.depth,
                "intrinsics": camera.intrinsics,
                "extrinsics": camera.extrinsics[None],
            }
        )
    whole = {k: np.stack([row[k] for row in rows])[None].repeat(samples, 0) for k in rows[0]}
    text = rng.standard_normal((samples, 6, 8)).astype(np.float32)
    whole |= {"text": text, "text_lengths": np.full(samples, 4, np.int32)}
    whole |= {"null_text": text[:, :2], "null_text_lengths": np.ones(samples, np.int32)}
    whole["latent_valid"] = np.ones((samples, 2), bool)
    return jax.tree.map(jnp.asarray, whole)


def shaken(params, seed=5):
    """Every leaf with noise: zero-initialised ones say something too."""
    leaves, form = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    noisy = [
        jnp.asarray(x + 0.05 * rng.standard_normal(x.shape).astype(np.float32)) for x in leaves
    ]
    return jax.tree.unflatten(form, noisy)
