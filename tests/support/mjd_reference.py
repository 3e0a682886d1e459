"""MJD written out in numpy, float64, from the paper's formulas and the readings of docs/paper.md.

Nothing is batched and nothing is clever: one sample, and a loop over views, frames and heads. It
imports nothing of the package, so that an error there cannot be here as well. Parameters are the
package's dict tree of one block, or of the network with its blocks stacked.

Tokens of a view: [extra | video | motion], places (frame, row, column); extra tokens have none.
"""

import numpy as np

EXTRA, THETA = 8, 10000.0


def linear(x, p):
    return x @ p["kernel"] + p.get("bias", 0.0)


def norm(x, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def affine(x, p, eps):
    return norm(x, eps) * p["scale"] + p["bias"]


def rms(x, p, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * p["scale"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def turn(x, place):
    """Rotates one head [d] of one token to place (time slot, row, column): pairs of neighbours."""
    plane = len(x) // 6
    sizes = (len(x) // 2 - 2 * plane, plane, plane)
    angles = np.concatenate(
        [at * THETA ** (-np.arange(m) / m) for at, m in zip(place, sizes, strict=True)]
    )
    cos, sin, even, odd = np.cos(angles), np.sin(angles), x[::2], x[1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).ravel()


def attention(x, p, config, *, places=None, context=None):
    """x [s d] attends to context [l d] (None: itself); places [s] triples or None for no rope."""
    context = x if context is None else context
    q = rms(linear(x, p["q"]), p["norm_q"], config.eps)
    k = rms(linear(context, p["k"]), p["norm_k"], config.eps)
    v, size = linear(context, p["v"]), config.dim // config.heads
    out = np.zeros_like(q)
    for head in range(config.heads):
        at = slice(head * size, (head + 1) * size)
        qs, ks = q[:, at], k[:, at]
        if places is not None:
            qs = np.stack([turn(row, place) for row, place in zip(qs, places, strict=True)])
            ks = np.stack([turn(row, place) for row, place in zip(ks, places, strict=True)])
        logits = qs @ ks.T / np.sqrt(size)
        weight = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, at] = weight / weight.sum(-1, keepdims=True) @ v[:, at]
    return linear(out, p["o"])


def places_of(grid):
    """The place of every token of a view; extra tokens stand at the origin: no rotation."""
    dense = [(f, y, x) for f in range(grid[0]) for y in range(grid[1]) for x in range(grid[2])]
    return [(0, 0, 0)] * EXTRA + dense + dense


def vectors(p, grid, video_time, motion_time):
    """Nine vectors [s 9 d] of a view's tokens: Wan's six, then three of inter-view attention.

    video_time: [2 6 d] of frame 0 and of the others; motion_time: [6 d] at t, of motion and of
    extra tokens.
    """
    video = [np.concatenate([p["modulation"][0] + at, p["inter_view_modulation"][0] + at[:3]])
             for at in video_time]  # fmt: skip
    nine = np.concatenate([motion_time, motion_time[:3]])
    motion, extra = p["motion_modulation"][0] + nine, p["scale_modulation"][0] + nine
    patch = grid[1] * grid[2]
    rows = [extra] * EXTRA + [video[0]] * patch + [video[1]] * patch * (grid[0] - 1)
    return np.stack(rows + [motion] * patch * grid[0])


def block(p, config, x, text, *, grid, view_index, video_time, motion_time):
    """x: [v s d] -> [v s d]; text: [l d]; the paper's four steps in its order.

    video_time: of each view.
    """
    x, views, places = x.copy(), range(len(x)), places_of(grid)
    row = np.stack([vectors(p, grid, times, motion_time) for times in video_time])

    def modulate(v, shift, scale):
        return norm(x[v], config.eps) * (1 + row[v, :, scale]) + row[v, :, shift]

    y = np.stack([modulate(v, 6, 7) for v in views])
    out, attn = np.zeros_like(x), p["inter_view_attn"]
    groups = [[(v, s) for v in views for s in range(EXTRA)]]
    for frame in range(grid[0]):
        of_frame = [s for s in range(EXTRA, len(places)) if places[s][0] == frame]
        groups.append([(v, s) for v in views for s in of_frame])
    for i, group in enumerate(groups):
        at = tuple(np.array(group).T)
        slots = None if i == 0 else [(view_index[v], *places[s][1:]) for v, s in group]
        out[at] = attention(y[at], attn, config, places=slots)
    x += row[:, :, 8] * out

    for v in views:
        y = modulate(v, 0, 1)
        x[v] += row[v, :, 2] * attention(y, p["self_attn"], config, places=places)
        x[v] += attention(
            affine(x[v], p["norm3"], config.eps), p["cross_attn"], config, context=text
        )
        y = linear(gelu(linear(modulate(v, 3, 4), p["ffn"]["linear_0"])), p["ffn"]["linear_2"])
        x[v] += row[v, :, 5] * y
    return x


def time_embedding(p, config, t):
    half = config.freq_dim // 2
    angle = t * THETA ** (-np.arange(half) / half)
    x = np.concatenate([np.cos(angle), np.sin(angle)])
    return linear(silu(linear(x, p["linear_0"])), p["linear_2"])


def six(p, e):
    return linear(silu(e), p["linear_1"]).reshape(6, -1)


def patches(latents):
    """[f h w c] -> [s 4 c]: patches of 1 x 2 x 2, rows before columns before channels."""
    f, h, w, c = latents.shape
    cells = [latents[i, y : y + 2, x : x + 2] for i in range(f) for y in range(0, h, 2)
             for x in range(0, w, 2)]  # fmt: skip
    return np.stack([cell.reshape(4 * c) for cell in cells])


def unpatch(rows, shape):
    out, i = np.zeros(shape), 0
    for f in range(shape[0]):
        for y in range(0, shape[1], 2):
            for x in range(0, shape[2], 2):
                out[f, y : y + 2, x : x + 2] = rows[i].reshape(2, 2, shape[3])
                i += 1
    return out


def head(p, x, e, eps):
    """x: [s d], e: [s d]; the head is modulated by the time embedding itself."""
    shift, scale = p["modulation"][0][:, None] + e[None]
    return linear(norm(x, eps) * (1 + scale) + shift, p["head"])


def network(p, config, video, motion, feedback, t, text, view_index, hidden=()):
    """One sample: latents [v f h w c], t in 0..1000, text [l d_text] -> video, motion, scale.

    hidden: views whose video frame 0 is at t like the others.
    """
    grid = (video.shape[1], video.shape[2] // 2, video.shape[3] // 2)
    dense = grid[0] * grid[1] * grid[2]
    x = np.stack([
        np.concatenate([
            p["extra_embedding"],
            linear(patches(a), p["patch_embedding"]),
            linear(patches(b), p["motion_patch_embedding"])
            + linear(patches(c), p["feedback_embedding"]) + p["motion_embedding"],
        ])
        for a, b, c in zip(video, motion, feedback, strict=True)
    ])  # fmt: skip
    rows = np.zeros((config.text_len, text.shape[1]))
    rows[: len(text)] = text
    texts = p["text_embedding"]
    rows = linear(gelu(linear(rows, texts["linear_0"])), texts["linear_2"])
    e = [time_embedding(p["time_embedding"], config, at) for at in (0.0, t)]
    own = [[e[v in hidden], e[1]] for v in range(len(video))]
    video_time = [[six(p["time_projection"], at) for at in both] for both in own]
    motion_time = six(p["motion_time_projection"], e[1])
    for layer in range(config.layers):
        x = block(
            layer_of(p["blocks"], layer), config, x, rows, grid=grid, view_index=view_index,
            video_time=video_time, motion_time=motion_time,
        )  # fmt: skip
    patch = grid[1] * grid[2]
    videos, motions, scales = [], [], []
    for v in range(len(x)):
        first, later = own[v]
        times = np.stack([first] * patch + [later] * (dense - patch))
        tokens, shape = x[v], video.shape[1:]
        rows = head(p["head"], tokens[EXTRA : EXTRA + dense], times, config.eps)
        videos.append(unpatch(rows, shape))
        late = np.stack([e[1]] * dense)
        rows = head(p["motion_head"], tokens[EXTRA + dense :], late, config.eps)
        motions.append(unpatch(rows, shape))
        scales.append(
            linear(affine(tokens[:2], p["scale_norm"], config.eps), p["scale_head"])[:, 0]
        )
    return np.stack(videos), np.stack(motions), np.stack(scales)


def layer_of(blocks, layer):
    return {k: layer_of(v, layer) if isinstance(v, dict) else v[layer] for k, v in blocks.items()}
