"""Functions of the closed loop whose results tell all their inputs apart, and the loop beside them.

Every fake mixes each of its inputs with a weight of its own, so that an argument that is dropped,
swapped or taken from another line of Algorithm 1 changes what comes out. `step` and `sampled` are
Algorithm 1 and its sampling form (A22) line by line, on these fakes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from syncmv4d_jax.tasks.syncmv4d import cycle

B, V, F, H, W, C, N, K = 2, 3, 2, 2, 2, 4, 5, 6
LATENT = (B, V, F, H, W, C)


def targets(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return cycle.Targets(
        jax.random.normal(keys[0], LATENT),
        jax.random.normal(keys[1], LATENT),
        jax.random.normal(keys[2], (B, V, N, K, 3)),
        jax.random.uniform(keys[3], (B, V, 2)) + 1,
    )


def over(x, like):
    """x [b], [b v] or less with trailing axes, for arithmetic with `like`."""
    x = jnp.asarray(x)
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def of_view(x):
    """[b v ...] -> [b v], unlike for every two arrays that differ."""
    weights = jnp.cos(jnp.arange(x[0, 0].size, dtype=jnp.float32)).reshape(x.shape[2:])
    return jnp.sum(x * weights[None, None], axis=tuple(range(2, x.ndim))) / x[0, 0].size ** 0.5


def make(weight=1.0):
    """The fakes; `weight` stands for the networks' parameters."""

    def mjd(video, motion, feedback, t, context):
        mix = jnp.sin(0.7 * video + 0.4 * motion + 1.3 * feedback + over(t, video)) * weight
        low = 1 + 0.1 * jnp.square(of_view(mix)) + 0.05 * t[:, None]
        out = mix + 0.2 * video, mix - 0.3 * motion, jnp.stack([low, low + 0.7], -1)
        return cycle.Velocities(*out)

    def decode(latents, scale, context):
        tag = 0.8 * of_view(latents)
        frames = jnp.arange(1.0, N + 1)[None, None, :, None, None]
        tracks = over(tag, frames) * frames + over(scale[..., 1] * 0.3 + scale[..., 0], frames)
        tracks = (
            jnp.broadcast_to(tracks, (B, V, N, K, 1)) * jnp.array([1.0, -1.0, 2.0])[(None,) * 4]
        )
        confidence = jnp.broadcast_to(over(jax.nn.sigmoid(tag), frames[..., 0]), (B, V, N, K))
        pseudo = jnp.broadcast_to(over(jnp.cos(tag), frames) + frames, (B, V, N, H, W))
        return cycle.Coarse(tracks, confidence), pseudo[..., None] * jnp.ones((1,) * 5 + (3,))

    def dpa(tracks_t, coarse, t, context):
        sure = coarse.confidence[..., None]
        return weight * (0.6 * tracks_t - 0.4 * coarse.tracks * sure + over(t, tracks_t))

    def warp(frame0, scale, context):
        return frame0 * 0.5 + over(scale[..., 1], frame0)

    def encode(tracks, scale, warp, context):
        tag = of_view(tracks) + 0.9 * scale[..., 0] - 0.6 * scale[..., 1] + 0.35 * of_view(warp)
        return over(tag, jnp.zeros(LATENT)) * jnp.linspace(-1, 1, C)[(None,) * 5] * jnp.ones(LATENT)

    return cycle.Functions(
        mjd=mjd,
        dpa=dpa,
        decode=decode,
        warp=warp,
        encode=encode,
        normalise=lambda tracks, context: (tracks - 0.5) / 0.25,
        denormalise=lambda tracks, context: tracks * 0.25 + 0.5,
        corrupt=lambda tracks, t, context, rng: cycle.Coarse(
            tracks + over(t, tracks) + 0.01 * jax.random.normal(rng, tracks.shape),
            jnp.full(tracks.shape[:-1], 0.7),
        ),
    )


class Step(NamedTuple):
    """What lines 7 to 11 give: z~, MJD's answer to it, the aligner's velocity."""

    feedback: jax.Array
    denoised: cycle.Velocities
    track_velocity: jax.Array


def step(functions, detached, truth, noisy, t, corrupted, *, cond, fed=True, decoded=True):
    """Algorithm 1 from line 7 on; `noisy` are the diffused video, motion and tracks of line 6."""
    video, motion, tracks = noisy
    d = detached
    # Line 7: D by reading A11, and the scale that D was decoded with.
    first = d.mjd(video, motion, jnp.zeros(LATENT), t, None)
    clean = d.decode(motion - over(t, motion) * first.motion_velocity, first.scale, None)
    coarse, pseudo, scale = {
        "noisy": (*d.decode(motion, truth.scale, None), truth.scale),
        "x0_selfcond": (*clean, first.scale),
        "sim": (corrupted, clean[1], truth.scale),
    }[cond]
    refined = tracks - over(t, tracks) * d.dpa(tracks, coarse, t, None)
    # Line 8.
    metres = d.denormalise(refined, None)
    feedback = d.encode(metres, scale, d.warp(pseudo[:, :, 0], scale, None), None)
    feedback = feedback if fed else jnp.zeros(LATENT)
    # Lines 9 to 11.
    denoised = functions.mjd(video, motion, feedback, t, None)
    estimate = motion - over(t, motion) * denoised.motion_velocity
    coarse = functions.decode(estimate, denoised.scale, None)[0] if decoded else corrupted
    return Step(feedback, denoised, functions.dpa(tracks, coarse, t, None))


def sampled(functions, noise, first, sigmas, refining, fresh):
    """Sampling by Euler steps: (video, motion, tracks, refined metres) at sigma 0.

    noise: of video, motion and tracks.  refining: steps that close the loop.  fresh: those of them
    that take a new warp.
    """
    f = functions
    video, motion, tracks = noise
    feedback, warp, refined = jnp.zeros(LATENT), None, None
    for i, sigma in enumerate(sigmas[:-1]):
        video = jnp.concatenate([first, video[:, :, 1:]], 2)
        t = jnp.full((B,), sigma, jnp.float32)
        out = f.mjd(video, motion, feedback, t, None)
        if i in refining:
            coarse, pseudo = f.decode(motion - sigma * out.motion_velocity, out.scale, None)
            velocity = f.dpa(tracks, coarse, t, None)
            refined = f.denormalise(tracks - sigma * velocity, None)
            if i in fresh:
                warp = f.warp(pseudo[:, :, 0], out.scale, None)
            feedback = f.encode(refined, out.scale, warp, None)
            later = [sigmas[j] for j in refining if j > i] or [0.0]
            tracks = tracks + (later[0] - sigma) * velocity
        video = video + (sigmas[i + 1] - sigma) * out.velocity
        motion = motion + (sigmas[i + 1] - sigma) * out.motion_velocity
    return jnp.concatenate([first, video[:, :, 1:]], 2), motion, tracks, refined


def corrupted(functions, truth, t, rng):
    """What the loop's own draw of the corruption model gives for the key of a step."""
    key = dict(zip(cycle.DRAWS, jax.random.split(rng, len(cycle.DRAWS)), strict=True))["corrupt"]
    return functions.corrupt(truth.tracks, t, None, key)
