"""Errors that a test must notice: each is one text of the code, what it becomes, and the test.

    python tests/mutants.py [--only WORD ...] [--chosen-by HASH --count 5]      (make mutants)

At least one for every row of docs/paper.md that says how the program behaves, and for what else a
result rests on. Whoever changes a text that stands here changes it here too (tests/test_mutants.py
says which); tests/support/mutation.py runs them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))

from mutation import main, of  # noqa: E402

NETWORK = "test_network_equals_its_formulas_written_out"
READINGS = "tests/models/test_mjd_readings.py"

MJD = [
    *of(
        "syncmv4d_jax/models/mjd/block.py",
        READINGS,
        (
            "12",
            "text is attended before the view itself",
            "        x = self.attend(\n            x,",
            "        x = self.attend(\n            self.cross(x, context, placement=placement),",
            f"{NETWORK}[video]",
        ),
        (
            "12",
            "inter-view attention adds to what it has modulated",
            "return self.add(x, self.inter_view_attn.join(z), gate)",
            "return self.add(y, self.inter_view_attn.join(z), gate)",
            f"{NETWORK}[video]",
        ),
        (
            "13 A12",
            "inter-view attention has the modulation of self-attention",
            "x = self.inter_view(x, *inter, ",
            "x = self.inter_view(x, shift, scale, gate, ",
            f"{NETWORK}[video]",
        ),
        (
            "14",
            "motion modulation is blind to t",
            "tables += [t[...][None] + time for t in",
            "tables += [t[...][None] + 0 * time for t in",
            f"{NETWORK}[motion]",
        ),
        (
            "A12",
            "scale tokens have motion's modulation table",
            "for t in (self.motion_modulation, self.scale_modulation)]",
            "for t in (self.motion_modulation, self.motion_modulation)]",
            f"{NETWORK}[scale]",
        ),
        (
            "15",
            "inter-view attention mixes frames",
            '"(b v) (m f p) h d", "(b f) (v m p) h d"',
            '"(b v) (m p f) h d", "(b f) (v m p) h d"',
            f"{NETWORK}[video]",
        ),
        (
            "A6",
            "scale tokens keep to their own view",
            'extra = placement.attend(*extra, kind="extra")',
            """extra = placement.attend(
                *(einops.rearrange(a, "b (v e) h d -> (b v) e h d", v=v) for a in extra)
            )
            extra = einops.rearrange(extra, "(b v) e h d -> b (v e) h d", v=v)""",
            f"{NETWORK}[scale]",
        ),
        (
            "A7",
            "modalities attend to other views apart",
            'tokens, frames = "(b v) (m f p) h d", "(b f) (v m p) h d"',
            """tokens, frames = "(b v) (m f p) h d", "(b f m) (v p) h d"
        turns = (
            einops.rearrange(a, "g (v m p) d -> g m (v p) d", v=v, m=2)
            for a in conditions.inter_rotation
        )
        turns = tuple(einops.rearrange(a, "g m s d -> (g m) s d") for a in turns)
        conditions = conditions._replace(inter_rotation=turns)""",
            f"{NETWORK}[video]",
        ),
        (
            "A13",
            "inter-view attention without rope",
            "dense[:2] = (rope.apply(a, conditions.inter_rotation) for a in dense[:2])",
            "dense[:2] = dense[:2]",
            f"{NETWORK}[video]",
        ),
        (
            "12",
            "the gate of inter-view attention is left out",
            "self.inter_view_attn.join(z), gate)",
            "self.inter_view_attn.join(z), gate * 0 + 1)",
            f"{NETWORK}[video]",
        ),
    ),
    *of(
        "syncmv4d_jax/models/mjd/mjd.py",
        READINGS,
        (
            "A6",
            "scale tokens have rope",
            "extra, pad = (np.zeros((n, 3), grid.dtype) for n in (layout.extra, layout.pad))",
            "extra, pad = (np.arange(3 * n).reshape(n, 3) for n in (layout.extra, layout.pad))",
            f"{NETWORK}[scale]",
        ),
        (
            "A13",
            "the view index is dropped from inter-view rope",
            "rows = jnp.stack([view_index] + 2",
            "rows = jnp.stack([0 * view_index] + 2",
            f"{NETWORK}[video]",
        ),
        (
            "A14",
            "motion tokens are without rope",
            "[extra] + [grid] * layout.modalities + [pad]",
            "[extra] + [grid, 0 * grid] + [pad]",
            f"{NETWORK}[motion]",
        ),
        (
            "A14",
            "motion tokens carry no domain embedding",
            "y = y + self.motion_embedding[...].astype(y.dtype)[None, None]",
            "y = y + 0 * self.motion_embedding[...].astype(y.dtype)[None, None]",
            f"{NETWORK}[motion]",
        ),
        (
            "A8 line-9",
            "the feedback goes through motion's own patch embedding",
            "self.embed_patches(feedback, self.feedback_embedding, placement)",
            "self.embed_patches(feedback, self.motion_patch_embedding, placement)",
            f"{NETWORK}[motion]",
        ),
        (
            "9",
            "the reference frame is at t as well",
            "jnp.stack([jnp.zeros_like(t), t], 1)",
            "jnp.stack([t, t], 1)",
            f"{NETWORK}[video]",
        ),
        (
            "9",
            "motion is modulated as at t = 0",
            "self.motion_time_projection(video_e[:, 1:])",
            "self.motion_time_projection(video_e[:, :1])",
            f"{NETWORK}[motion]",
        ),
        (
            "A12",
            "motion shares the video's time projection",
            "motion_time = self.motion_time_projection(video_e[:, 1:])",
            "motion_time = self.time_projection(video_e[:, 1:])",
            f"{NETWORK}[motion]",
        ),
        (
            "16",
            "motion is read by the video's head",
            "placement.replicate(self.motion_head)(motion, t)",
            "placement.replicate(self.head)(motion, t)",
            f"{NETWORK}[motion]",
        ),
        (
            "16 A5",
            "the scale is read of the last tokens of eight",
            "x[:, : self.config.scale_tokens]",
            "x[:, self.config.register_tokens : self.config.extra_tokens]",
            f"{NETWORK}[scale]",
        ),
    ),
    *of(
        "syncmv4d_jax/models/mjd/tokens.py",
        READINGS,
        (
            "9",
            "every video token is at t",
            "(video[:, :1], first), (video[:, 1:], self.dense - first)",
            "(video[:, 1:], first), (video[:, 1:], self.dense - first)",
            f"{NETWORK}[video]",
        ),
    ),
    *of(
        "syncmv4d_jax/models/mjd/config.py",
        "tests/models/test_mjd.py",
        (
            "11",
            "there are seven register tokens",
            "register_tokens: int = 6",
            "register_tokens: int = 7",
            "test_full_size_parts_and_tokens",
        ),
    ),
    *of(
        "syncmv4d_jax/models/mjd/warm_start.py",
        "tests/models/test_mjd.py",
        (
            "A13",
            "inter-view attention starts at full strength",
            'attn["o"] = jax.tree.map(jnp.zeros_like, attn["o"])',
            "",
            "test_fresh_model_ignores_feedback_and_other_views",
        ),
    ),
    *of(
        "syncmv4d_jax/models/wan/embeddings.py",
        READINGS,
        (
            "10",
            "patches run through columns before rows",
            '"b (f pf) (h ph) (w pw) c -> b (f h w) (pf ph pw c)"',
            '"b (f pf) (h ph) (w pw) c -> b (f w h) (pf ph pw c)"',
            f"{NETWORK}[video]",
        ),
    ),
]

TABLE = [*MJD]

if __name__ == "__main__":
    sys.exit(main(TABLE))
