"""The aligner's super-block, condition and loss against what the paper and docs/paper.md say."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from syncmv4d_jax.models.dpa import aligner, blocks, fusion
from syncmv4d_jax.models.dpa import config as dpa_config
from syncmv4d_jax.models.nn import module, protocol
from syncmv4d_jax.models.points import serialization
from syncmv4d_jax.models.ptv3 import layers as ptv3

B, V, N, K, D, HEADS = 1, 3, 2, 5, 16, 2
CONFIG = dpa_config.AlignerConfig(
    width=D, heads=HEADS, depth=1, coarse_blocks=1, cpe_channels=8, patch=64, octaves=2
)


def random(model, seed=0):
    """A module with every weight random, zero-initialised ones included."""
    rng, shapes = np.random.default_rng(seed), module.shapes(model, CONFIG)
    draw = lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32)  # noqa: E731
    return module.bind(model, CONFIG, jax.tree.map(draw, shapes))


def attention(q, k, v, mask):
    """One head after the other over whole sets: q [s d], k v [l d], mask [l] -> [s d]."""
    out, size = [], D // HEADS
    for head in range(HEADS):
        at = slice(head * size, (head + 1) * size)
        logits = np.where(mask[None], q[:, at] @ k[:, at].T / np.sqrt(size), -np.inf)
        weight = np.exp(logits - logits.max(-1, keepdims=True))
        out.append(weight / weight.sum(-1, keepdims=True) @ v[:, at])
    return np.concatenate(out, -1)


def written_out(block, x, coarse, context, geometry, measured):
    """Sec. 3.3's steps in order, a frame (then a track) at a time; x: [b v n k d]."""
    rows = np.asarray(block.modulation(jax.nn.silu(context)))
    rows = iter(np.split(rows[:, None, None, None], 3 * blocks.RESIDUALS, axis=-1))
    frames, back = "b v n k d -> (b n) (v k) d", "(b n) (v k) d -> b v n k d"

    def convolved(cpe, x):
        y = cpe(einops.rearrange(x, frames), geometry)
        return x + einops.rearrange(y, back, b=B, v=V)

    def modulated(x, step):
        shift, scale, gate = next(rows), next(rows), next(rows)
        y = x - x.mean(-1, keepdims=True)
        y = y / np.sqrt((y * y).mean(-1, keepdims=True) + ptv3.EPS)
        return x + gate * step(y * (1 + scale) + shift)

    def of_a_frame(attend):
        def step(y):
            y = einops.rearrange(y, frames)
            return einops.rearrange(
                np.stack([attend(g, y[g]) for g in range(len(y))]), back, v=V, b=B
            )

        return step

    def of_the_view(g, y):
        q, k, v = np.split(block.view_attn.qkv(y), 3, -1)
        return block.view_attn.proj(attention(q, k, v, geometry.valid[g]))

    def of_the_coarse(g, y):
        k, v = np.split(block.coarse_attn.kv(coarse[g]), 2, -1)
        sure = measured[g] & geometry.valid[g]
        return block.coarse_attn.proj(attention(block.coarse_attn.q(y), k, v, sure))

    def of_a_track(y):
        valid = einops.rearrange(geometry.valid, "(b n) (v k) -> b k (v n)", b=B, v=V)
        y = einops.rearrange(y, "b v n k d -> b k (v n) d")
        out = [[attention(*np.split(block.track_attn.qkv(y[b, k]), 3, -1), valid[b, k])
                for k in range(K)] for b in range(B)]  # fmt: skip
        out = block.track_attn.proj(np.stack([np.stack(row) for row in out]))
        return einops.rearrange(out, "b k (v n) d -> b v n k d", v=V)

    x = convolved(block.view_cpe, x)
    x = modulated(modulated(x, of_a_frame(of_the_view)), block.view_mlp)
    x = convolved(block.coarse_cpe, x)
    x = modulated(modulated(x, of_a_frame(of_the_coarse)), block.coarse_mlp)
    return modulated(x, of_a_track)


def test_a_super_block_is_its_steps_written_out():
    """17, A18: all views of a frame, the coarse motion of that frame, then along each track."""
    keys = jax.random.split(jax.random.key(3), 4)
    x, coarse = (jax.random.normal(k, (B, V, N, K, D)) for k in keys[:2])
    coarse = einops.rearrange(coarse, "b v n k d -> (b n) (v k) d")
    context = jax.random.normal(keys[2], (B, D))
    rng = np.random.default_rng(0)
    grid = jnp.asarray(rng.integers(0, 4, (B * N, V * K, 3)), jnp.int32)
    valid = jnp.ones((B * N, V * K), bool).at[:, -2].set(False)
    measured = jnp.asarray(rng.random((B * N, V * K)) < 0.6)
    build = jax.jit(lambda *x: ptv3.build(*x, depth=4, orders=serialization.ORDERS[:1]).along(0))
    geometry = build(grid, valid)
    block = random(blocks.SuperBlock)
    run = jax.jit(
        lambda x, coarse: block(
            x, coarse, context, geometry, measured=measured, placement=protocol.LOCAL
        )
    )
    host = jax.tree.map(np.asarray, (x, coarse))
    wanted = written_out(block, *host, context, geometry, np.asarray(measured))
    seen = einops.rearrange(valid, "(b n) (v k) -> b v n k", b=B, v=V)
    # float32 sums of values up to 14
    np.testing.assert_allclose(run(x, coarse)[seen], wanted[seen], atol=1e-4)


def test_the_condition_is_points_confidence_and_rays_and_not_the_noisy_tracks():
    """A19: each of them reaches the condition's features; M_t reaches its own only."""
    keys = jax.random.split(jax.random.key(0), 3)
    tracks_t, rays = (
        jax.random.normal(k, (B, V, N, K, c)) for k, c in zip(keys[:2], (3, 6), strict=True)
    )
    confidence = jax.random.uniform(keys[2], (B, V, N, K)) + 0.1
    valid, points = jnp.ones(confidence.shape, bool), tracks_t[:, 0] + 0.5
    fused = fusion.Fused(
        points, tracks_t + 0.1, tracks_t - points[:, None], confidence, confidence.sum(1),
        jnp.ones((B, V, 4)), jnp.ones((B, 6)),
    )  # fmt: skip
    embed = jax.jit(random(aligner.Aligner)._embed)
    own, condition = embed(tracks_t, confidence, valid, rays, fused)

    def moved(**changes):
        inputs = dict(tracks_t=tracks_t, confidence=confidence, valid=valid, rays=rays, fused=fused)
        a, b = embed(*(inputs | changes).values())
        return bool(jnp.any(a != own)), bool(jnp.any(b != condition))

    assert moved(tracks_t=tracks_t + 1) == (True, False)
    assert moved(confidence=confidence / 2) == (True, True)
    assert moved(rays=rays[:, ::-1] + 1) == (True, True)
    assert moved(fused=fused._replace(points=fused.points + 0.1)) == (True, True)


def test_the_loss_is_the_velocity_error_plus_the_chamfer_distance():
    """18, by hand: a clean estimate that is off by one vector everywhere."""
    tracks = jnp.broadcast_to(jnp.arange(K) * 10.0, (B, N, K))[..., None] * jnp.ones((1, 1, 1, 3))
    t, off = jnp.array([0.5]), jnp.array([0.3, 0.0, -0.4])  # points apart: pairs are known
    noise = jax.random.normal(jax.random.key(0), (B, V, N, K, 3))
    time = t[:, None, None, None, None]
    clean = jnp.broadcast_to(tracks[:, None], noise.shape)
    target, tracks_t = noise - clean, (1 - time) * clean + time * noise
    velocity = target + off[(None,) * 4]
    how = dict(target=target, tracks_t=tracks_t, tracks=tracks, t=t)
    valid = jnp.ones(noise.shape[:-1], bool)
    total, terms = aligner.loss(velocity, valid=valid, **how)
    square = 0.25  # |off|^2
    by_time = float(jnp.mean(t**2)) * square
    assert terms["velocity"] == pytest.approx(square / 3, rel=1e-4)  # a mean over coordinates
    assert terms["distance"] == pytest.approx(float(jnp.mean(t)) * 0.5, rel=1e-3)
    assert terms["chamfer"] == pytest.approx(2 * by_time, rel=1e-3)  # there and back
    assert total == pytest.approx(float(terms["velocity"] + terms["chamfer"]), rel=1e-6)
    weighted, _ = aligner.loss(velocity, valid=valid, chamfer_weight=3.0, **how)
    assert weighted - total == pytest.approx(2 * float(terms["chamfer"]), rel=1e-4)
