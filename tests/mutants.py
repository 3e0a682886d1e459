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
TERMS = "tests/tasks/syncmv4d/test_loss_terms.py"
NAMED_KERNEL = "test_what_a_named_kernel_cannot_take_says_what_it_takes_and_what_auto_would_choose"

MJD = [
    *of(
        "syncmv4d_jax/models/mjd/block.py",
        READINGS,
        (
            "12",
            "views attend to each other after they have to themselves",
            """        if self.config.multi_view:
            x = self.inter_view(x, inter, conditions, layout, placement)
        x = self.attend(
            x,
            shift=shift,
            scale=scale,
            gate=gate,
            rotation=conditions.intra_rotation,
            lengths=jnp.full(len(x), layout.tokens - layout.pad) if layout.pad else None,
            placement=placement,
        )
""",
            """        x = self.attend(
            x,
            shift=shift,
            scale=scale,
            gate=gate,
            rotation=conditions.intra_rotation,
            lengths=jnp.full(len(x), layout.tokens - layout.pad) if layout.pad else None,
            placement=placement,
        )
        if self.config.multi_view:
            x = self.inter_view(x, inter, conditions, layout, placement)
""",
            f"{NETWORK}[velocity]",
        ),
        (
            "sharding",
            "a view attends to its padding",
            "lengths=jnp.full(len(x), layout.tokens - layout.pad) if layout.pad else None",
            "lengths=None",
            "test_padded_tokens_change_nothing",
        ),
        (
            "12",
            "text is attended before the view itself",
            "        x = self.attend(\n            x,",
            "        x = self.attend(\n            self.cross(x, context, placement=placement),",
            f"{NETWORK}[velocity]",
        ),
        (
            "12",
            "inter-view attention adds to what it has modulated",
            "return self.add(x, self.inter_view_attn.join(z), gate)",
            "return self.add(y, self.inter_view_attn.join(z), gate)",
            f"{NETWORK}[velocity]",
        ),
        (
            "13 A12",
            "inter-view attention has the modulation of self-attention",
            "x = self.inter_view(x, inter, ",
            "x = self.inter_view(x, (shift, scale, gate), ",
            f"{NETWORK}[velocity]",
        ),
        (
            "14",
            "motion modulation is blind to t",
            "motion = self.motion_modulation[...][None] + time",
            "motion = self.motion_modulation[...][None] + 0 * time",
            f"{NETWORK}[motion_velocity]",
        ),
        (
            "A12",
            "scale tokens have motion's modulation table",
            "extra = self.scale_modulation[...][None] + time",
            "extra = self.motion_modulation[...][None] + time",
            f"{NETWORK}[scale]",
        ),
        (
            "15",
            "inter-view attention mixes frames",
            '"(b v) (m f p) h d", "(b f) (v m p) h d"',
            '"(b v) (m p f) h d", "(b f) (v m p) h d"',
            f"{NETWORK}[velocity]",
        ),
        (
            "A6",
            "scale tokens keep to their own view",
            'extra = placement.attend(q, k, values, kind="extra")',
            """extra = placement.attend(
                *(einops.rearrange(a, "b (v e) h d -> (b v) e h d", v=v)
                  for a in (q, k, values))
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
            f"{NETWORK}[velocity]",
        ),
        (
            "A13",
            "inter-view attention without rope",
            "dense[:2] = (rope.apply(a, conditions.inter_rotation) for a in dense[:2])",
            "dense[:2] = dense[:2]",
            f"{NETWORK}[velocity]",
        ),
        (
            "12",
            "the gate of inter-view attention is left out",
            "self.inter_view_attn.join(z), gate)",
            "self.inter_view_attn.join(z), gate * 0 + 1)",
            f"{NETWORK}[velocity]",
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
            "29",
            "a view's camera is told to another",
            '"b v i j -> (b v) 1 (i j)"',
            '"b v i j -> (v b) 1 (i j)"',
            "tests/models/test_mjd.py::test_permuting_views_permutes_the_result",
        ),
        (
            "A13",
            "the view index is dropped from inter-view rope",
            "rows = jnp.stack([view_index] + 2",
            "rows = jnp.stack([0 * view_index] + 2",
            f"{NETWORK}[velocity]",
        ),
        (
            "A14",
            "motion tokens are without rope",
            "[extra] + [grid] * layout.modalities + [pad]",
            "[extra] + [grid, 0 * grid] + [pad]",
            f"{NETWORK}[motion_velocity]",
        ),
        (
            "A14",
            "motion tokens carry no domain embedding",
            "y = y + self.motion_embedding[...].astype(y.dtype)[None, None]",
            "y = y + 0 * self.motion_embedding[...].astype(y.dtype)[None, None]",
            f"{NETWORK}[motion_velocity]",
        ),
        (
            "A8 line-9",
            "the feedback goes through motion's own patch embedding",
            "self.embed_patches(feedback, self.feedback_embedding, placement)",
            "self.embed_patches(feedback, self.motion_patch_embedding, placement)",
            f"{NETWORK}[motion_velocity]",
        ),
        (
            "9",
            "the reference frame is at t as well",
            "jnp.stack([jnp.zeros_like(t), t], 1)",
            "jnp.stack([t, t], 1)",
            f"{NETWORK}[velocity]",
        ),
        (
            "9",
            "motion is modulated as at t = 0",
            "self.motion_time_projection(video_e[:, 1:])",
            "self.motion_time_projection(video_e[:, :1])",
            f"{NETWORK}[motion_velocity]",
        ),
        (
            "A12",
            "motion shares the video's time projection",
            "motion_time = self.motion_time_projection(video_e[:, 1:])",
            "motion_time = self.time_projection(video_e[:, 1:])",
            f"{NETWORK}[motion_velocity]",
        ),
        (
            "16",
            "motion is read by the video's head",
            "placement.replicate(self.motion_head)(motion, t)",
            "placement.replicate(self.head)(motion, t)",
            f"{NETWORK}[motion_velocity]",
        ),
        (
            "16 A5",
            "the scale is read of the last tokens of eight",
            "x[:, : mjd_config.SCALE_TOKENS]",
            "x[:, mjd_config.REGISTER_TOKENS : self.config.extra_tokens]",
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
            f"{NETWORK}[velocity]",
        ),
    ),
    *of(
        "syncmv4d_jax/models/mjd/config.py",
        "tests/models/test_mjd.py",
        (
            "11",
            "there are seven register tokens",
            "REGISTER_TOKENS = 6",
            "REGISTER_TOKENS = 7",
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
            f"{NETWORK}[velocity]",
        ),
    ),
]

FLOW = of(
    "syncmv4d_jax/flow.py",
    "tests/test_flow.py",
    (
        "A10 line-10 flow",
        "the clean estimate is on the far side of the noise",
        "return x_t - _expand(t, x_t) * velocity",
        "return x_t + _expand(t, x_t) * velocity",
        "test_identities",
    ),
    (
        "flow",
        "velocity points from noise to data",
        "return noise - data",
        "return data - noise",
        "test_identities",
    ),
    (
        "line-6 flow",
        "t = 0 is noise",
        "return (1 - t) * data + t * noise",
        "return t * data + (1 - t) * noise",
        "test_identities",
    ),
    (
        "line-5 flow",
        "times are drawn towards data",
        "return shift_time(jax.random.uniform(rng, shape, jnp.float32), shift)",
        "return shift_time(jax.random.uniform(rng, shape, jnp.float32) ** 2, shift)",
        "test_times_are_uniform_before_they_are_shifted",
    ),
    (
        "A22 flow",
        "guidance goes towards the unconditional",
        "guided = guided + scale * (near - far)",
        "guided = guided - scale * (near - far)",
        "test_guidance_goes_away_from_the_unconditional",
    ),
    (
        "9 flow",
        "the reference replaces the last frame",
        "[first.astype(latents.dtype), latents[..., 1:, :, :, :]], axis=-4",
        "[latents[..., 1:, :, :, :], first.astype(latents.dtype)], axis=-4",
        "test_first_frame",
    ),
    (
        "A22 flow",
        "UniPC does not correct",
        'if kind == "unipc" and index > 0:',
        'if kind == "unipc" and index > steps:',
        "test_sampler_equals_official",
    ),
    (
        "A22 flow",
        "the predictor forgets the estimate before",
        "_weighted(row.predict, corrected, data, state.data_1)",
        "_weighted(row.predict, corrected, data, data)",
        "test_sampler_equals_official",
    ),
    (
        "flow",
        "the weights of Wan's training times are not normed",
        "(bell / bell.mean()).astype(np.float32)",
        "bell.astype(np.float32)",
        "test_time_table",
    ),
)

GEOMETRY = [
    *of(
        "syncmv4d_jax/geometry/pseudo_video.py",
        "tests/geometry/test_pseudo_video.py",
        (
            "5",
            "red is the row, green the column",
            "colour = [anchors[..., 0] / size[1], anchors[..., 1] / size[0], code]",
            "colour = [anchors[..., 1] / size[0], anchors[..., 0] / size[1], code]",
            "tests/data/test_prepare.py::test_records_are_decoded_back_to_their_tracks",
        ),
        (
            "7",
            "the scale counts invalid points",
            "low = xp.min(xp.where(valid, depth, xp.inf))",
            "low = xp.min(depth)",
            "test_depth_scale_counts_valid_points_only",
        ),
        (
            "A4",
            "hidden anchors are decoded as any other",
            "found.at[0].set(found[0] | known) & anchor_valid[None, :]",
            "found.at[0].set(found[0] | known)",
            "test_invalid_anchors_and_a_flat_scale",
        ),
        (
            "A23",
            "anchors are searched for in frame 0 too",
            "pixels = pixels.at[0].set(jnp.where(known[:, None], anchors, pixels[0]))",
            "",
            "test_where_anchors_are_in_frame_0_is_given_and_not_searched_for",
        ),
        (
            "19",
            "decoded tracks are in the camera's frame",
            "tracks = cameras.unproject(pixels, depth, intrinsics, extrinsics)",
            "tracks = cameras.unproject(pixels, depth, intrinsics, jnp.eye(4)[:3])",
            "test_a_clean_pseudo_video_gives_the_tracks",
        ),
        (
            "19",
            "depth is not spread over the scale",
            "scale[0] + fill(jnp.clip(code, -0.1, 1.1), mean_code) * extent",
            "scale[0] + fill(jnp.clip(code, -0.1, 1.1), mean_code)",
            "test_depth_is_linear_in_the_scale_and_carries_its_gradient",
        ),
        (
            "19",
            "gaps in a track are held, not interpolated",
            "return first + part * (jnp.take_along_axis",
            "return first + 0 * part * (jnp.take_along_axis",
            "test_points_out_of_sight_are_interpolated",
        ),
    ),
    *of(
        "syncmv4d_jax/geometry/painting.py",
        "tests/geometry/test_pseudo_video.py",
        (
            "A3 line-8",
            "the farthest surface is painted on top",
            "(behind - scale[0] + 0.25 * span) / (1.5 * span), covered",
            "1 - (behind - scale[0] + 0.25 * span) / (1.5 * span), covered",
            "test_the_nearest_surface_is_painted_on_top",
        ),
        (
            "6",
            "what is not painted is grey",
            "image = jnp.where((canvas != EMPTY)[:, None], image, 0.0)",
            "image = jnp.where((canvas != EMPTY)[:, None], image, 0.5)",
            "test_true_tracks_render_close_to_the_true_pseudo_video",
        ),
        (
            "line-8",
            "painted colours say where a point is now",
            "colour = jnp.concatenate([own, code[:, None]], axis=-1)",
            "now = at / jnp.array([[width, height]], jnp.float32)\n"
            "        colour = jnp.concatenate([now, code[:, None]], axis=-1)",
            "test_true_tracks_render_close_to_the_true_pseudo_video",
        ),
        (
            "line-8",
            "painted depth is that of the nearest",
            "code = jnp.clip((depth - scale[0]) / span, 0, 1)",
            "code = jnp.clip((behind[0] * 0 + scale[0]) / span, 0, 1)",
            "test_true_tracks_render_close_to_the_true_pseudo_video",
        ),
        (
            "A4 line-8",
            "hidden anchors move the surface",
            "usable = anchor_valid & known[y, x]",
            "usable = known[y, x]",
            "test_invalid_anchors_and_a_flat_scale",
        ),
    ),
    *of(
        "syncmv4d_jax/geometry/anchors.py",
        "tests/geometry/test_pseudo_video.py",
        (
            "A21",
            "cameras that see no anchor pass",
            "inside = valid & (",
            "inside = valid | (",
            "test_cameras_that_do_not_see_the_anchors_are_named",
        ),
        (
            "A23",
            "a point behind a surface is an anchor",
            "read(mask, y, x) & (own | (gap < 1))",
            "read(mask, y, x)",
            "test_anchors_from_a_decoded_frame_0",
        ),
        (
            "A23",
            "the ray of a derived pixel counts as one that is given",
            "jnp.where(own, 1.0, DERIVED * jnp.exp(-0.5 * gap * gap))",
            "jnp.where(own, 1.0, jnp.exp(-0.5 * gap * gap))",
            "test_each_anchor_is_a_pixel_of_one_view_and_says_which",
        ),
        (
            "A23",
            "a pixel that was asked moves with its point",
            "at = jnp.where(own[..., None], asked[None], at)",
            "at = at + 0.0 * asked[None]",
            "test_each_anchor_is_a_pixel_of_one_view_and_says_which",
        ),
    ),
    *of(
        "syncmv4d_jax/geometry/cameras.py",
        "tests/geometry/test_cameras.py",
        (
            "A16",
            "the scene's centre is the cameras' mean",
            "across = eye - ray[..., :, None] * ray[..., None, :]",
            "across = eye + 0 * ray[..., :, None] * ray[..., None, :]",
            "test_scene_centre_is_where_the_views_look",
        ),
        (
            "A21",
            "a camera's rotation is not undone",
            "return _rotate(_transpose(pose[..., :3]), points - pose[..., 3])",
            "return _rotate(pose[..., :3], points - pose[..., 3])",
            "test_round_trip_within_the_stated_bounds",
        ),
    ),
    *of(
        "syncmv4d_jax/geometry/tracks.py",
        "tests/models/test_dpa.py",
        (
            "A16",
            "normalised units are half a metre",
            "UNIT = 0.25",
            "UNIT = 0.5",
            "test_normalisation_and_rays",
        ),
        (
            "19 A1",
            "views are fused without their confidence",
            "weight = (jnp.asarray(confidence) + 1e-3)[..., None]",
            "weight = (0 * jnp.asarray(confidence) + 1e-3)[..., None]",
            "tests/tasks/syncmv4d/test_syncmv4d.py::test_fuse_weighs_by_confidence",
        ),
    ),
]

DPA = [
    *of(
        "syncmv4d_jax/models/dpa/blocks.py",
        "tests/models/test_dpa_readings.py",
        (
            "17",
            "the coarse motion is not read",
            "self.kv(coarse), geometry, patch=patch)",
            "self.kv(x), geometry, patch=patch)",
            "test_a_super_block_is_its_steps_written_out",
        ),
        (
            "17",
            "unmeasured coarse points are attended",
            "mask = ptv3.patch_mask(measured, geometry, patch=patch)",
            "mask = ptv3.patch_mask(geometry.valid, geometry, patch=patch)",
            "test_a_super_block_is_its_steps_written_out",
        ),
        (
            "17",
            "the coarse motion comes before the other views",
            "x = residual(x, 0, by_frame(view_attend))",
            "x = residual(x, 0, by_frame(coarse_attend))",
            "test_a_super_block_is_its_steps_written_out",
        ),
        (
            "17",
            "there is no sparse convolution before the views attend",
            "x = x + by_frame(lambda y: self.view_cpe(y, geometry))(x)",
            "",
            "test_a_super_block_is_its_steps_written_out",
        ),
        (
            "A18",
            "tracks attend within a view only",
            'tracks = einops.rearrange(self.qkv(x), "b v n k d -> (b k) (v n) d")',
            'tracks = einops.rearrange(self.qkv(x), "b v n k d -> (b k) (n v) d")',
            "test_a_super_block_is_its_steps_written_out",
        ),
        (
            "A18",
            "nothing runs along a track",
            "x = residual(x, 4, lambda y: self.track_attn(y, valid, placement=placement))",
            "",
            "test_a_super_block_is_its_steps_written_out",
        ),
    ),
    *of(
        "syncmv4d_jax/models/dpa/aligner.py",
        "tests/models/test_dpa_readings.py",
        (
            "18",
            "the loss has no Chamfer distance",
            "total = velocity_loss + chamfer_weight * chamfer_loss",
            "total = velocity_loss",
            "test_the_loss_is_the_velocity_error_plus_the_chamfer_distance",
        ),
        (
            "18",
            "Chamfer is taken of the noisy tracks",
            "clean = tracks_t - world_tracks.like(t, tracks_t) * velocity",
            "clean = tracks_t",
            "test_the_loss_is_the_velocity_error_plus_the_chamfer_distance",
        ),
        (
            "18",
            "padded frames are in the aligner's loss",
            "velocity_loss = jnp.sum(jnp.where(valid, square, 0.0)) / count",
            "velocity_loss = jnp.mean(square)",
            "tests/models/test_dpa.py::test_loss_is_zero_at_the_truth_and_masks",
        ),
        (
            "A19",
            "the condition holds no confidence",
            "[confidence, fused.weight, (confidence > 0).astype(one), valid.astype(one)], -1",
            "[fused.weight, fused.weight, valid.astype(one), valid.astype(one)], -1",
            "test_the_condition_is_points_confidence_and_rays_and_not_the_noisy_tracks",
        ),
        (
            "A19",
            "the condition holds no rays",
            "            rays,\n            frames[None, None, :, None],",
            "            0 * rays,\n            frames[None, None, :, None],",
            "test_the_condition_is_points_confidence_and_rays_and_not_the_noisy_tracks",
        ),
        (
            "17",
            "the aligner starts from the coarse tracks alone",
            "base = (tracks_t - (1 - t) * fused) * (t - (1 - t) * s**2) / q - fused",
            "base = (tracks_t - fused) / t",
            "tests/models/test_dpa.py::test_zero_head_gives_zero_or_the_bayes_estimate",
        ),
    ),
    *of(
        "syncmv4d_jax/models/dpa/fusion.py",
        "tests/models/test_dpa_fusion.py",
        (
            "fusion",
            "outliers weigh as much as the rest",
            "lax.stop_gradient(used / (1 + square / OUTLIER**2))",
            "lax.stop_gradient(used + 0 * square)",
            "test_fusion_removes_scales_offsets_noise_and_outliers",
        ),
        (
            "fusion",
            "errors of views' scales stay",
            "return coarse - scale * arm - offset",
            "return coarse - 0 * scale * arm - offset",
            "test_fusion_removes_scales_offsets_noise_and_outliers",
        ),
        (
            "fusion A23",
            "the rays of frame 0 are not used",
            "points, aligned = points + moved, aligned + moved[:, None]",
            "",
            "test_the_rays_of_frame_0_settle_what_the_views_share",
        ),
        (
            "fusion",
            "gaps are at the origin",
            "aligned = jnp.where(measured[..., None], aligned, points[:, None])",
            "aligned = jnp.where(measured[..., None], aligned, 0.0)",
            "test_fusion_fills_gaps_and_marks_them",
        ),
    ),
    *of(
        "syncmv4d_jax/models/dpa/smoothing.py",
        "tests/models/test_dpa_fusion.py",
        (
            "fusion",
            "parts that move differently smooth each other",
            "near = jnp.exp(-0.5 * (far / NEAR**2 + apart / ALIKE**2))",
            "near = jnp.exp(-0.5 * (far / NEAR**2)) + 0 * apart",
            "test_parts_at_one_place_that_move_apart_do_not_mix",
        ),
    ),
    *of(
        "syncmv4d_jax/models/dpa/queries.py",
        "tests/models/test_dpa_fusion.py",
        (
            "fusion A23",
            "a ray that misses the others counts in full",
            "confidence / (1 + off / OUTLIER**2)",
            "confidence + 0 * off",
            "test_a_ray_that_misses_the_others_counts_little",
        ),
    ),
    *of(
        "syncmv4d_jax/models/points/chamfer.py",
        "tests/models/test_dpa.py",
        (
            "A17",
            "Chamfer is one-sided",
            "return jnp.where(both, one + two, 0.0)",
            "return jnp.where(both, 2 * one + 0 * two, 0.0)",
            "test_chamfer_equals_brute_force_and_its_gradient_is_that_of_the_pairs",
        ),
        (
            "A17",
            "Chamfer is not squared",
            "square = jnp.sum(jnp.square(a - b[index]), axis=-1)",
            "square = jnp.sqrt(jnp.sum(jnp.square(a - b[index]), axis=-1) + 1e-12)",
            "test_chamfer_equals_brute_force_and_its_gradient_is_that_of_the_pairs",
        ),
    ),
]

DOORS = of(
    "syncmv4d_jax/pipeline.py",
    "tests/test_pipeline.py",
    (
        "pipeline",
        "settings of one call stay for the next",
        "config, given = self._config.copy_and_resolve_references(), {}",
        "config, given = self._config, {}",
        "test_settings_of_a_call_are_its_own",
    ),
    (
        "pipeline",
        "the name of a sample is not the caller's",
        "                name=name,",
        "                name=own.sample.name,",
        "test_a_call_is_the_command_lines_sample",
    ),
    (
        "pipeline",
        "a name leads out of the folder",
        "if Path(name).name != name or",
        "if Path(name).name == name and",
        "test_what_cannot_be_is_a_sentence",
    ),
)

CALIBRATIONS = of(
    "syncmv4d_jax/data/calibrations.py",
    "tests/data/test_calibrations.py",
    (
        "cameras",
        "COLMAP's pixels are taken for OpenCV's",
        'k = _pinhole(own["fx"], own["fy"], own["cx"] - HALF, own["cy"] - HALF)',
        'k = _pinhole(own["fx"], own["fy"], own["cx"], own["cy"])',
        "test_a_rig_comes_back_from_every_form[colmap txt]",
    ),
    (
        "cameras",
        "OpenGL's axes are taken for OpenCV's",
        "pose[:, 1:3] *= -1",
        "pose[:, 1:3] *= 1",
        "test_a_rig_comes_back_from_every_form[nerfstudio]",
    ),
    (
        "cameras",
        "a lens stays in the picture",
        "if not found.bent:",
        "if found.bent:",
        "test_points_lie_where_the_pinhole_says_after_undistorting[True]",
    ),
    (
        "cameras",
        "units are metres whatever the form",
        "if unit is None or not unit > 0:",
        "unit = 1.0 if unit is None else unit\n    if not unit > 0:",
        "test_a_rig_comes_back_from_every_form[opencv]",
    ),
)

SHARPNESS = of(
    "syncmv4d_jax/metrics/video.py",
    "tests/metrics/test_examples.py",
    (
        "metrics",
        "gradients of the whole picture count",
        "where = inside[:-1, :-1]",
        "where = inside[:-1, :-1] | True",
        "test_the_example_has_the_value_that_the_docs_say",
    ),
)

SILHOUETTE = [
    *of(
        "syncmv4d_jax/models/silhouette.py",
        "tests/models/test_silhouette.py",
        (
            "A22",
            "pixels of a silhouette's cell are transposed",
            'x, "b 1 h w (i j) -> b (h i) (w j)"',
            'x, "b 1 h w (j i) -> b (h i) (w j)"',
            "test_a_cell_of_the_latent_is_its_square_of_pixels",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/silhouette.py",
        "tests/models/test_silhouette.py",
        (
            "A22",
            "the silhouette is learnt from the last frame",
            'batch["motion"][:, :, 0]',
            'batch["motion"][:, :, -1]',
            "test_it_learns_the_painted_pixels_of_frame_0_and_no_other_frame",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/syncmv4d/loop.py",
        "tests/models/test_silhouette.py",
        (
            "A22",
            "the loop paints without the reference image's silhouette",
            'if config and context.get("mask") is None:',
            'if config and context.get("mask") is not None:',
            "test_the_loop_warps_what_the_reference_image_shows",
        ),
    ),
]

CODEC = of(
    "syncmv4d_jax/models/motion_codec.py",
    "tests/models/test_motion_codec.py",
    (
        "codec",
        "the first latent frame stands for the last of its four",
        "return x[:, c.time - 1 :]",
        "return x[:, : 1 - c.time]",
        "test_first_frame_and_later_ones_keep_their_places",
    ),
    (
        "codec",
        "the first frame is repeated at the end",
        "x = jnp.concatenate([first, maps], axis=1)",
        "x = jnp.concatenate([maps, first], axis=1)",
        "test_first_frame_and_later_ones_keep_their_places",
    ),
    (
        "codec",
        "reduced pixels are half a cell off",
        "return (pixels - reduction // 2) / reduction",
        "return pixels / reduction",
        "test_reduced_pixels_and_intrinsics_agree",
    ),
    (
        "codec",
        "reduced colours are places of the video",
        "colours = jnp.clip(small - layers.along_last(shift, small), 0, 1)",
        "colours = jnp.clip(small - 0 * layers.along_last(shift, small), 0, 1)",
        "test_tracks_come_back_from_a_reduced_pseudo_video",
    ),
)

DATA = [
    *of(
        "syncmv4d_jax/data/clips.py",
        "tests/data/test_prepare.py",
        (
            "3",
            "the prompt names the action as the tool",
            "action=triplet[0], tool=triplet[1]",
            "action=triplet[1], tool=triplet[0]",
            "test_every_camera_is_a_view_in_its_cluster",
        ),
        (
            "4 line-2",
            "a pseudo video keeps the depth of frame 0",
            'depth = hits.depth if kind == "point_tracks" else start[:, 2]',
            "depth = start[:, 2]",
            "tests/data/test_tracking_video.py::test_a_tracking_video_keeps_the_depth_of_frame_0",
        ),
        (
            "27",
            "a tracking video has the depth of now",
            'depth = hits.depth if kind == "point_tracks" else start[:, 2]',
            "depth = hits.depth",
            "tests/data/test_tracking_video.py::test_a_tracking_video_keeps_the_depth_of_frame_0",
        ),
        (
            "5",
            "surfaces are coloured by where they are now",
            "origin = start[:, :2] / np.maximum(start[:, 2:], 1e-6)",
            "origin = np.stack([x, y], -1).take(met, axis=0).astype(np.float32)",
            "test_pseudo_videos_say_where_visible_points_came_from_and_how_deep_they_are",
        ),
        (
            "7 line-1",
            "the scale is frame 0's",
            "pseudo_video.depth_scale(d, np.ones_like(d, bool))",
            "pseudo_video.depth_scale(d[:1], np.ones_like(d[:1], bool))",
            "test_pseudo_videos_say_where_visible_points_came_from_and_how_deep_they_are",
        ),
        (
            "A4",
            "hidden points are anchors",
            "anchor_valid=visible[view.serial][0].copy()",
            "anchor_valid=np.ones_like(visible[view.serial][0])",
            "test_visibility_agrees_with_the_surfaces",
        ),
        (
            "A4",
            "what stands behind a surface is visible",
            "return inside & (depth - hits.depth < settings.visible)",
            "return inside",
            "test_visibility_agrees_with_the_surfaces",
        ),
        (
            "23",
            "held-out tools are trained on",
            "tool in self.held_out_tools\n            or action",
            "action",
            "test_split_is_by_sequence_and_depends_on_nothing_else",
        ),
    ),
    *of(
        "syncmv4d_jax/data/cache.py",
        "tests/data/test_cache.py",
        (
            "line-3",
            "the video is cached as the motion too",
            "encode(records.decode(values[c])) for c in CLIPS",
            'encode(records.decode(values["video"])) for c in CLIPS',
            "test_batches_carry_what_was_encoded",
        ),
    ),
    *of(
        "syncmv4d_jax/data/transforms.py",
        "tests/data/test_transforms.py",
        (
            "22",
            "clusters go from the right",
            "order = np.argsort(-cameras.camera_centre",
            "order = np.argsort(cameras.camera_centre",
            "test_clusters_go_from_the_viewers_left",
        ),
        (
            "A2",
            "a point may be drawn twice",
            "chosen = np.sort(rng.choice(first, count, replace=False))",
            "chosen = np.sort(rng.choice(first, count, replace=True))",
            "test_points_are_exactly_k_distinct_vertices_spread_over_space",
        ),
        (
            "2",
            "a clip takes every third frame",
            "np.floor(np.arange(frames) * (source_fps / fps) + 0.5)",
            "np.floor(np.arange(frames) * 3.0 + 0.5)",
            "test_49_frames_at_8_fps_span_181_frames_at_30",
        ),
    ),
    *of(
        "syncmv4d_jax/data/pipeline.py",
        "tests/data/test_pipeline.py",
        (
            "22",
            "an epoch always sees the first cameras",
            "self._cameras(window, None if self.fixed else rng)",
            "self._cameras(window, None)",
            "test_an_epoch_has_every_clip_once_and_draws_new_cameras",
        ),
        (
            "20",
            "a share of the data is all of it",
            "chosen[: max(1, round(share * count))]",
            "chosen",
            "tests/data/test_tracking_video.py::test_a_share_of_the_clips_is_the_same_for_all_readers",
        ),
    ),
    *of(
        "configs/taco.py",
        "tests/test_configs.py",
        (
            "2",
            "800 points are tracked",
            '"points": 1600',
            '"points": 800',
            "test_stages_of_the_paper",
        ),
        (
            "20",
            "warm-ups see all of the data",
            "share: float = 0.1",
            "share: float = 1.0",
            "test_stages_of_the_paper",
        ),
        (
            "20",
            "the sizes come in the other order",
            "size=(256, 384), steps=(5000, 5000, 20_000, 10_000)",
            "size=(256, 384), steps=(5000, 5000, 10_000, 20_000)",
            "test_stages_of_the_paper",
        ),
        (
            "16",
            "the motion's loss weighs a half",
            '"motion_weight": 1.0',
            '"motion_weight": 0.5',
            f"{TERMS}::test_terms_are_mean_squares_over_what_is_valid_and_add_up",
        ),
    ),
]

CONFIGS = [
    *of(
        "configs/ablations/aligner.py",
        "tests/test_configs.py",
        (
            "26",
            "the row without the loop has no aligner either",
            '{"cycle": {"cycle": False}}',
            '{"cycle": {"cycle": False, "dpa": False}}',
            "test_rows_of_table_3_have_the_parts_that_they_name",
        ),
    ),
    *of(
        "configs/ablations/single_view.py",
        "tests/test_configs.py",
        (
            "26 28",
            "the row of single views has no motion instead",
            '{"dit": {"multi_view": False}}',
            '{"cycle": {"cycle": False}}',
            "test_rows_of_table_3_have_the_parts_that_they_name",
        ),
    ),
    *of(
        "configs/readings/noisy_condition.py",
        "tests/test_configs.py",
        (
            "A11",
            "the reading to the letter sees corrupted tracks",
            '{"cond": "noisy"}',
            '{"cond": "sim"}',
            "test_readings_change_what_they_name",
        ),
    ),
    *of(
        "syncmv4d_jax/models/wan/config.py",
        "tests/models/test_mjd.py",
        (
            "A20",
            "the transformer has 32 blocks",
            "layers: int = 30",
            "layers: int = 32",
            "test_parameters_of_the_new_parts_are_those_of_the_golden_file",
        ),
    ),
]

METRICS = [
    *of(
        "syncmv4d_jax/metrics/paper.py",
        "tests/metrics/test_tables.py",
        (
            "24",
            "a published number is another",
            '"DaS (paper)": (0.8828,',
            '"DaS (paper)": (0.8282,',
            "test_every_number_is_the_published_one",
        ),
    ),
    *of(
        "syncmv4d_jax/metrics/multiview.py",
        "tests/metrics/test_motion_metrics.py",
        (
            "25",
            "errors are relative to the prediction",
            "size = motion.length(true - _centres(extrinsics))",
            "size = motion.length(per_view - _centres(extrinsics))",
            "test_alignment_and_errors_of_point_maps",
        ),
    ),
    *of(
        "syncmv4d_jax/metrics/multiview.py",
        "tests/metrics/test_multiview_metrics.py",
        (
            "25",
            "a pair of views counts what one of them sees",
            "seen = visible[i] & visible[j]",
            "seen = visible[i] | visible[j]",
            "test_single_view_world_and_cross_forms",
        ),
    ),
]

MACHINES = [
    *of(
        "syncmv4d_jax/machines/placement.py",
        "tests/machines/test_mesh.py",
        (
            "sharding",
            "nothing is pinned",
            "return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, P(*spec)))",
            "return x",
            "test_a_constraint_cuts_the_axes_it_names",
        ),
        (
            "sharding",
            "tokens are pinned along view",
            '"s": ("sequence",), "n"',
            '"s": ("view",), "n"',
            "test_a_constraint_cuts_the_axes_it_names",
        ),
        (
            "sharding",
            "padded keys are attended",
            "if pad_k and mask is None and lengths is None:",
            "if pad_k < 0:",
            "test_sharded_equals_unsharded[ring]",
        ),
        (
            "sharding",
            "each device of a sample maps the same views",
            "index = np.minimum(np.arange(v + pad), v - 1)",
            "index = np.maximum(np.arange(v + pad) - pad, 0)",
            "test_each_view_on_its_own_device",
        ),
    ),
    *of(
        "syncmv4d_jax/machines/mesh.py",
        "tests/machines/test_mesh.py",
        (
            "21 sharding",
            "the layer axis of a stack is cut",
            "first = 1 if stacked and len(shape) > 1 else 0",
            "first = 0",
            "test_rules_cover_moments_and_stacks",
        ),
    ),
]

RUN = [
    *of(
        "syncmv4d_jax/models/dpa/aligner.py",
        "tests/models/test_dpa.py",
        (
            "17",
            "the network answers the noise of M_t",
            "return fused + rest * (tracks_t - rest * fused)",
            "return tracks_t",
            "test_the_network_does_not_answer_the_noise_where_tracks_are_noise",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/syncmv4d/task.py",
        "tests/tasks/syncmv4d/test_syncmv4d.py",
        (
            "18",
            "points that no view measured are in the loss",
            "valid=valid & aligner.known(scenes(out.confidence)),",
            "valid=valid,",
            "test_points_that_no_view_measures_are_not_in_the_aligners_loss",
        ),
    ),
    *of(
        "syncmv4d_jax/metrics/scene.py",
        "tests/metrics/test_degenerate.py",
        (
            "A4",
            "points that no view sees count",
            "return known & seen, known & ~seen",
            "return known, known & ~seen",
            "test_hidden_points_moving_points_and_inliers_are_counted_apart",
        ),
    ),
    *of(
        "syncmv4d_jax/metrics/summary.py",
        "tests/run/test_evaluate.py",
        (
            "evidence",
            "scenes of one triplet are independent cases",
            "grouped.setdefault((clusters or {}).get(name, name), [])",
            "grouped.setdefault(name, [])",
            "test_few_triplets_are_few_cases_whatever_the_number_of_scenes",
        ),
    ),
    *of(
        "syncmv4d_jax/run/inputs.py",
        "tests/run/test_inputs.py",
        (
            "evidence",
            "a sample is given how long the recording is",
            'arrays["frame_valid"] = np.ones(len(example["frame_valid"]), bool)',
            'arrays["frame_valid"] = np.asarray(example["frame_valid"])',
            "test_a_sample_is_given_the_same_bits_whatever_happens_later",
        ),
        (
            "evidence",
            "true correspondences are given unasked",
            'if anchors == "given":',
            'if anchors != "matched":',
            "test_a_sample_is_given_the_same_bits_whatever_happens_later",
        ),
    ),
    *of(
        "syncmv4d_jax/run/truth.py",
        "tests/run/test_truth.py",
        (
            "evidence",
            "what only hides points has tracks too",
            "tracks[:, here[tracked]] = met[:, tracked]",
            "tracks[:, here] = met",
            "test_any_pixels_truth_moves_with_the_surface_that_it_shows",
        ),
    ),
    *of(
        "syncmv4d_jax/run/checkpoint.py",
        "tests/run/test_checkpoint.py",
        (
            "checkpoint",
            "restored values are not compared",
            "return [name for name in sorted(wanted) if wanted[name] != got[name]]",
            "return []",
            "test_silent_change_is_seen_by_the_fingerprint_alone",
        ),
        (
            "checkpoint",
            "a fingerprint is blind to places",
            "jnp.sum(_bits(x) * weight, dtype=jnp.uint32)",
            "jnp.sum(_bits(x) + 0 * weight, dtype=jnp.uint32)",
            "test_fingerprint_sees_value_place_and_not_the_mesh",
        ),
        (
            "checkpoint",
            "the oldest checkpoint is restored",
            "for step in reversed(steps):",
            "for step in steps:",
            "test_restores_onto_another_mesh",
        ),
        (
            "checkpoint",
            "another architecture is taken for damage",
            "            raise\n        except Exception as error:  # noqa: BLE001",
            "            return None\n        except Exception as error:  # noqa: BLE001",
            "test_another_architecture_lists_both_differences",
        ),
        (
            "checkpoint",
            "weights alone are read unverified",
            "if wrong := _differences(wanted, fingerprints(found)):",
            "if wrong := _differences({}, fingerprints(found)):",
            "test_weights_alone_are_compared_with_their_fingerprints",
        ),
    ),
    *of(
        "syncmv4d_jax/run/initial.py",
        "tests/run/test_initial.py",
        (
            "initial",
            "config.weights goes before what a stage has trained",
            "given = {name: source for source in found for name in source.shapes}",
            "given = {name: source for source in found[::-1] for name in source.shapes}",
            "test_a_leaf_has_the_first_value_there_is",
        ),
        (
            "initial",
            "nothing is grown",
            "        if self._given:\n            flat = self._grown(flat)",
            "        if not self._given:\n            flat = self._grown(flat)",
            "test_a_leaf_has_the_first_value_there_is",
        ),
        (
            "initial",
            "frozen leaves keep float32",
            "if floating and name not in trainable else shape.dtype",
            "if floating and name in trainable else shape.dtype",
            "test_the_frozen_half_has_its_dtype_and_all_have_their_shards",
        ),
    ),
    *of(
        "syncmv4d_jax/weights/slices.py",
        "tests/weights/test_slices.py",
        (
            "slices",
            "a shard is read whole",
            "for piece in pieces(out.shape, leaf.dtype.itemsize):",
            "for piece in [tuple(slice(0, n) for n in out.shape)]:",
            "test_no_read_is_larger_than_a_piece_of_a_shard",
        ),
        (
            "slices",
            "a shard begins at the leaf's first element",
            "slice(a + s.start, a + s.stop) for (a, _), s",
            "slice(s.start, s.stop) for (a, _), s",
            "test_values_dtypes_and_shardings",
        ),
    ),
    *of(
        "syncmv4d_jax/configuration.py",
        "tests/run/test_assembly.py",
        (
            "sections",
            "unknown keys are let through",
            "if wrong := sorted(set(keys) - set(known)):",
            "if wrong := sorted(set(keys) - set(keys)):",
            "test_a_typo_in_a_stage_is_named",
        ),
    ),
    *of(
        "syncmv4d_jax/run/optim.py",
        "tests/run/test_optim.py",
        (
            "guard",
            "a loss that is not finite passes",
            "good = finite & ~spike",
            "good = ~spike",
            "test_nonfinite_gradients_leave_everything_as_it_was[adamw-float32]",
        ),
        (
            "guard",
            "spikes pass",
            '(norm > config.spike_factor * guard["norm"])',
            "(norm > config.spike_factor * norm)",
            "test_spikes_are_skipped_after_the_warm_up",
        ),
        (
            "guard",
            "spikes are judged from the first step",
            'settled = guard["accepted"] >= config.guard_warmup',
            'settled = guard["accepted"] >= 0',
            "test_spikes_are_skipped_after_the_warm_up",
        ),
        (
            "guard",
            "a skipped step moves the average",
            'kept = old["params"], old["opt"]["inner"], old["ema"]',
            'kept = old["params"], old["opt"]["inner"], ema',
            "test_nonfinite_gradients_leave_everything_as_it_was[adamw-float32]",
        ),
        (
            "guard",
            "training goes on when every step is skipped",
            'if int(scalars["skipped_in_a_row"]) >= config.abort_after:',
            'if int(scalars["skipped_in_a_row"]) > 10 * config.abort_after:',
            "test_abort_after_a_row_of_skipped_steps",
        ),
        (
            "21",
            "every part has the same rate",
            "return next(matches, 1.0)",
            "return 1.0",
            "test_decay_and_multipliers_follow_paths[adamw]",
        ),
    ),
    *of(
        "syncmv4d_jax/run/update.py",
        "tests/run/test_update.py",
        (
            "line-12",
            "every step has the same noise",
            'rng = jax.random.fold_in(key, state["step"])',
            "rng = key",
            "test_a_step_is_drawn_anew_and_the_same_step_again",
        ),
        (
            "line-12",
            "micro-batches are summed, not averaged",
            "jax.tree.map(lambda t, x: t + x / config.accumulate, total, here)",
            "jax.tree.map(lambda t, x: t + x, total, here)",
            "test_micro_batches_have_draws_of_their_own_and_are_averaged",
        ),
    ),
]

STEP = "test_a_step_is_algorithm_1_under_each_reading_of_its_condition"
LOOP = "test_sampling_closes_the_loop_line_by_line"

CYCLE = [
    *of(
        "syncmv4d_jax/tasks/syncmv4d/cycle.py",
        "tests/tasks/syncmv4d/test_cycle_readings.py",
        (
            "line-5 line-6",
            "video, motion and tracks have one noise",
            "{name: jax.random.normal(keys[name], x.shape, jnp.float32)",
            '{name: jax.random.normal(keys["video"], x.shape, jnp.float32)',
            "test_lines_5_and_6_diffuse_with_one_time_and_noises_of_their_own",
        ),
        (
            "line-7",
            "feedback of an earlier time is of the time of now",
            "x, motion, tracks = diffuse(past).values()",
            "x, motion, tracks = diffuse(t).values()",
            "test_feedback_of_an_earlier_time_is_that_of_the_same_noises_there",
        ),
        (
            "9 line-6",
            "the reference frame is noised",
            'flow.hold_first(noisy["video"], targets.latents[:, :, :1])',
            'flow.hold_first(noisy["video"], noisy["video"][:, :, :1])',
            "test_lines_5_and_6_diffuse_with_one_time_and_noises_of_their_own",
        ),
        (
            "line-7 A11 cycle",
            "the noisy latent is decoded where its clean estimate should be",
            "estimate, scale = flow.to_data(motion_t, first.motion_velocity, t), first.scale",
            "estimate, scale = motion_t, first.scale",
            f"{STEP}[x0_selfcond]",
        ),
        (
            "line-7 A11 cycle",
            "the reading to the letter decodes a clean estimate",
            'if cond == "noisy":',
            'if cond == "literal":',
            f"{STEP}[noisy]",
        ),
        (
            "line-7 A11 cycle",
            "the simulated condition is the decoded one",
            'if cond == "sim":',
            'if cond == "simulated":',
            f"{STEP}[sim]",
        ),
        (
            "line-7 cycle",
            "line 7 has no aligner: coarse tracks are painted",
            "metres = functions.denormalise(flow.to_data(tracks_t, velocity, t), context)",
            "metres = coarse.tracks",
            f"{STEP}[x0_selfcond]",
        ),
        (
            "line-8 cycle",
            "the feedback is painted with the true scale",
            "return functions.encode(metres, scale, functions.warp(pseudo",
            "return functions.encode(metres, targets.scale, functions.warp(pseudo",
            f"{STEP}[x0_selfcond]",
        ),
        (
            "line-8 cycle",
            "the feedback is painted by the last frame's surface",
            "functions.warp(pseudo[:, :, 0], scale, context), context)",
            "functions.warp(pseudo[:, :, -1], scale, context), context)",
            f"{STEP}[x0_selfcond]",
        ),
        (
            "line-7 A9 cycle",
            "the feedback pass is not detached",
            "            detached, targets, x, motion, tracks,",
            "            functions, targets, x, motion, tracks,",
            "test_no_gradient_comes_from_the_feedback",
        ),
        (
            "line-9 cycle",
            "MJD never gets the feedback",
            'out = functions.mjd(noisy["video"], noisy.get("motion"), feedback, t, context)',
            'out = functions.mjd(noisy["video"], noisy.get("motion"), 0 * feedback, t, context)',
            f"{STEP}[x0_selfcond]",
        ),
        (
            "line-9 cycle",
            "the share of steps with feedback is inverted",
            "jax.lax.cond(coin < settings.probability, closed,",
            "jax.lax.cond(coin >= settings.probability, closed,",
            "test_shares_are_those_of_the_settings_and_fall_on_the_same_steps",
        ),
        (
            "line-10 A10 line-11 cycle",
            "the aligner sees the noisy latent decoded",
            "estimate = flow.to_data(motion.noisy, jax.lax.stop_gradient(out.motion_velocity), t)",
            "estimate = motion.noisy",
            f"{STEP}[x0_selfcond]",
        ),
        (
            "line-11 cycle",
            "the share of decoded steps is inverted",
            "jax.lax.cond(coin < settings.decoded, decode, corrupt)",
            "jax.lax.cond(coin >= settings.decoded, decode, corrupt)",
            "test_steps_that_are_not_decoded_align_corrupted_tracks",
        ),
        (
            "A9",
            "the aligner's loss moves the motion latents",
            "flow.to_data(motion.noisy, jax.lax.stop_gradient(out.motion_velocity), t)",
            "flow.to_data(motion.noisy, out.motion_velocity, t)",
            "test_the_aligners_loss_moves_mjd_by_the_scale_alone_or_not_at_all[scale]",
        ),
        (
            "A9",
            "the aligner's loss never moves the scale",
            'scale = out.scale if settings.grad == "scale" else jax.lax.stop_gradient(out.scale)',
            "scale = jax.lax.stop_gradient(out.scale)",
            "test_the_aligners_loss_moves_mjd_by_the_scale_alone_or_not_at_all[scale]",
        ),
        (
            "28",
            "the aligner runs although it is switched off",
            "    if settings.dpa:\n        with jax.named_scope",
            "    if settings.joint_motion:\n        with jax.named_scope",
            "tests/tasks/syncmv4d/test_cycle.py::test_switches_leave_out_what_they_name",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/syncmv4d/cycle_sampling.py",
        "tests/tasks/syncmv4d/test_cycle_readings.py",
        (
            "A22 cycle",
            "sampling never feeds back",
            "feedback = functions.encode(metres, scale, warp, context)",
            "feedback = 0 * functions.encode(metres, scale, warp, context)",
            f"{LOOP}[0.0]",
        ),
        (
            "A22 cycle",
            "sampling paints the coarse tracks",
            "feedback = functions.encode(metres, scale, warp, context)",
            "feedback = functions.encode(coarse.tracks, scale, warp, context)",
            f"{LOOP}[0.0]",
        ),
        (
            "A10 A22 cycle",
            "sampling decodes the noisy latent",
            'estimate = flow.to_data(motion_t, velocities["motion"], t)',
            "estimate = motion_t",
            f"{LOOP}[0.0]",
        ),
        (
            "A22 cycle",
            "tracks move by one step only",
            "tracks_t=state.tracks_t + (next_sigma - row.sigma) * velocity",
            "tracks_t=state.tracks_t + (row.sigma_next - row.sigma) * velocity",
            f"{LOOP}[0.0]",
        ),
        (
            "A22",
            "the warp is kept from the first feedback on",
            "fresh.append(refine and not settled)",
            "fresh.append(refine and not any(fresh))",
            "tests/tasks/syncmv4d/test_cycle.py"
            "::test_the_warp_is_taken_anew_until_the_anchors_time",
        ),
        (
            "A22",
            "a kept warp is computed again",
            "warp = jax.lax.cond(fresh, make, lambda: state.warp)",
            "warp = make()",
            f"{LOOP}[0.9]",
        ),
        (
            "A22",
            "the last steps do not refine",
            "or i >= steps - settings.refine_last",
            "or i > steps",
            "tests/tasks/syncmv4d/test_cycle.py::test_runs_cover_every_step_once",
        ),
        (
            "A23",
            "query pixels are found anew to the end",
            "query = jax.lax.cond(fresh, find, lambda: state.query)",
            "query = find()",
            "tests/tasks/syncmv4d/test_cycle.py"
            "::test_query_pixels_that_are_not_given_move_with_the_tracks_until_they_settle[False]",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/video.py",
        "tests/tasks/syncmv4d/test_cycle_readings.py",
        (
            "9 A22",
            "the reference frame drifts in sampling",
            "latents[name] = flow.hold_first(x, first[name]) if name in first else x",
            "latents[name] = x",
            f"{LOOP}[0.0]",
        ),
        (
            "A22",
            "two latents share one solver's memory",
            "x, solver[name] = flow.step(x, velocities[name], state.solver[name], row)",
            "x, solver[name] = flow.step(x, velocities[name], [*state.solver.values()][0], row)",
            "tests/tasks/test_base.py::test_each_latent_has_a_solver_of_its_own",
        ),
    ),
]

TASKS = [
    *of(
        "syncmv4d_jax/tasks/syncmv4d/task.py",
        TERMS,
        (
            "8",
            "the autoencoder is trained",
            'parts = ["dit", *["dpa"] * self.settings.dpa]',
            'parts = ["dit", "vae", *["dpa"] * self.settings.dpa]',
            "test_the_autoencoder_is_not_trained",
        ),
        (
            "A15",
            "frame 0 of the video is in the loss",
            "targets.latents, weight * not_first)",
            "targets.latents, weight)",
            "test_terms_are_mean_squares_over_what_is_valid_and_add_up",
        ),
        (
            "A15",
            "frame 0 of the motion is not in the loss",
            'terms["motion"] = term(out.motion, targets.motion_latents, weight)',
            'terms["motion"] = term(out.motion, targets.motion_latents, weight * not_first)',
            "test_terms_are_mean_squares_over_what_is_valid_and_add_up",
        ),
        (
            "A5 16",
            "the scale's loss is in metres",
            "jnp.mean(jnp.square((out.scale - targets.scale) / std))",
            "jnp.mean(jnp.square(out.scale - targets.scale) + 0 * std)",
            "test_terms_are_mean_squares_over_what_is_valid_and_add_up",
        ),
        (
            "16",
            "padded latent frames are in the loss",
            'weight = batch["latent_valid"].astype(jnp.float32)[:, None, :, None, None, None]',
            'weight = batch["latent_valid"].astype(jnp.float32)[:, None, :, None, None, None] ** 0',
            "test_terms_are_mean_squares_over_what_is_valid_and_add_up",
        ),
        (
            "line-12 line-13",
            "the aligner's loss is not in the sum",
            "total = sum(weights[name] * value for name, value in terms.items())",
            "total = sum(weights[n] * x for n, x in terms.items() if n in weights and n != 'dpa')",
            "test_terms_are_mean_squares_over_what_is_valid_and_add_up",
        ),
        (
            "16",
            "the aligner's loss has the motion's weight",
            '"dpa": self.options.dpa_weight',
            '"dpa": self.options.motion_weight',
            "test_each_term_has_a_weight_of_its_own",
        ),
        (
            "line-7",
            "the feedback's networks carry gradients",
            "stopped, first = jax.lax.stop_gradient(trainable), targets.latents[:, :, :1]",
            "stopped, first = trainable, targets.latents[:, :, :1]",
            "test_the_feedback_has_parameters_without_gradient",
        ),
        (
            "18",
            "padded frames of tracks are in the loss",
            "valid = scenes(self.loop.valid_points(context, tracks_t))",
            "valid = scenes(self.loop.valid_points(context, tracks_t) | True)",
            "test_padded_frames_of_tracks_are_out",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/syncmv4d/sampling.py",
        "tests/tasks/syncmv4d/test_syncmv4d.py",
        (
            "1",
            "a sample has no scale",
            'given |= {"motion_latents": latents["motion"], "scale": carried.scale}',
            'given |= {"motion_latents": latents["motion"]}',
            "test_sampling_gives_every_output",
        ),
    ),
]

RUNS = [
    *of(
        "syncmv4d_jax/run/optim.py",
        "tests/run/test_optim.py",
        (
            "average",
            "the average follows half as fast",
            "e + (1 - decay) * (p - e)",
            "e + (1 - decay) * (p - e) / 2",
            "test_average_follows",
        ),
    ),
    *of(
        "syncmv4d_jax/run/checkpoint.py",
        "tests/run/test_checkpoint.py",
        (
            "checkpoint",
            "no step is kept for good",
            "keep_period=keep_every or None",
            "keep_period=None",
            "test_keeps_the_latest_and_every_nth",
        ),
    ),
    *of(
        "syncmv4d_jax/run/log.py",
        "tests/run/test_train_outputs.py",
        (
            "log",
            "a run that starts again is another one for wandb",
            'id=identity.read_text().strip(), resume="allow"',
            'resume="allow"',
            "test_wandb_sees_the_rows_and_goes_on_as_one_run",
        ),
    ),
    *of(
        "syncmv4d_jax/run/sample.py",
        "tests/run/test_sample_choices.py",
        (
            "sample",
            "the draw whose views agree least is kept",
            "score <= min(scores)",
            "score >= max(scores)",
            "test_the_draw_whose_views_agree_best_is_kept",
        ),
    ),
    *of(
        "syncmv4d_jax/metrics/scene.py",
        "tests/run/test_evaluate.py",
        (
            "evidence",
            "padded frames are scored",
            "n = int(valid.sum())",
            "n = len(valid)",
            "test_padded_frames_are_left_out",
        ),
    ),
    *of(
        "syncmv4d_jax/data/user.py",
        "tests/run/test_sample_choices.py",
        (
            "A21",
            "a user's intrinsics do not follow the cut",
            "camera.intrinsics.astype(np.float32), box, size)",
            "camera.intrinsics.astype(np.float32), (0, 0, *camera.size[::-1]), size)",
            "test_views_of_different_sizes_are_brought_to_one",
        ),
    ),
    *of(
        "syncmv4d_jax/data/transforms.py",
        "tests/data/test_pipeline.py",
        (
            "colours",
            "a colour that jitter makes too bright is dark",
            "np.clip(np.rint((colour - grey) * saturation + grey), 0, 255)",
            "np.rint((colour - grey) * saturation + grey) % 256",
            "test_jitter_of_one_colour_keeps_black_and_bounds",
        ),
        (
            "crop",
            "a box that may be smaller leaves the image",
            "if least is not None and (box > limit).any():",
            "if least is None:",
            "tests/data/test_crops.py::test_boxes_are_clamped_to_the_image_but_hold_the_surfaces",
        ),
    ),
    *of(
        "syncmv4d_jax/data/clips.py",
        "tests/data/test_prepare.py",
        (
            "records",
            "variants start at the first frame too",
            "return int(rng.integers(0, spare + 1))",
            "return int(rng.integers(0, 1))",
            "test_variants_start_elsewhere_with_other_crops",
        ),
    ),
    *of(
        "syncmv4d_jax/data/records.py",
        "tests/data/test_records.py",
        (
            "records",
            "a damaged byte passes",
            "if len(body) != length + size or zlib.crc32(body) != mark:",
            "if len(body) != length + size:",
            "test_any_damaged_byte_is_found[-1]",
        ),
    ),
    *of(
        "syncmv4d_jax/data/cache.py",
        "tests/data/test_cache.py",
        (
            "records",
            "a cache of other weights is taken",
            "if mark and now and mark != now:",
            "if mark and now and not part:",
            "test_the_weights_of_a_run_must_be_those_of_the_cache",
        ),
    ),
    *of(
        "syncmv4d_jax/results/web/report.py",
        "tests/results/web/test_report.py",
        (
            "page",
            "the page has the views in another order",
            "_clip(view, fps, tallest, quality) for view in sample[key]]",
            "_clip(view, fps, tallest, quality) for view in sample[key][::-1]]",
            "test_videos_are_whole_and_right",
        ),
        (
            "page",
            "the page's videos run backwards",
            "fitted = _fit(np.asarray(frames), tallest)",
            "fitted = _fit(np.asarray(frames)[::-1], tallest)",
            "test_videos_are_whole_and_right",
        ),
    ),
    *of(
        "syncmv4d_jax/results/usd.py",
        "tests/results/test_export.py",
        (
            "export",
            "a camera of a USD file looks backwards",
            "np.diag([1.0, -1.0, -1.0])",
            "np.diag([1.0, 1.0, 1.0])",
            "test_usd_cameras_see_what_ours_see",
        ),
    ),
]

RESULTS = [
    *of(
        "syncmv4d_jax/disk.py",
        "tests/test_disk.py",
        (
            "whole",
            "a failed write leaves its half",
            "    finally:\n        _remove(partial)",
            "    finally:\n        path.exists()",
            "test_after_an_error_all_is_as_it_was",
        ),
        (
            "whole",
            "a process removes what a running one writes",
            "not runs(int(process))",
            "True",
            "test_what_a_killed_process_left_goes_with_the_next_write",
        ),
    ),
    *of(
        "syncmv4d_jax/results/samples.py",
        "tests/results/test_samples.py",
        (
            "sample",
            "a lost file is not missed",
            "if not (path / name).is_file()]",
            "if not path.is_dir()]",
            "test_a_lost_file_is_named",
        ),
        (
            "sample",
            "the scale is not written",
            'arrays["scale"] = result["scale"]',
            "arrays = dict(arrays)",
            "test_samples_of_the_first_version_are_read",
        ),
        (
            "sample",
            "a sample without tracks.npz is refused",
            'if (path / "tracks.npz").is_file():',
            "if True:",
            "test_a_sample_replaces_the_former_one",
        ),
        (
            "sample",
            "half a sample is found",
            ' if not path.name.startswith(".")',
            "",
            "test_an_unfinished_sample_is_not_found",
        ),
    ),
    *of(
        "syncmv4d_jax/results/web/pages.py",
        "tests/results/web/test_pages.py",
        (
            "page",
            "a module stands before what it imports",
            'return "".join(done.values())',
            'return "".join(reversed(done.values()))',
            "test_what_is_imported_stands_before",
        ),
    ),
    *of(
        "setup.py",
        "tests/results/web/test_pages.py",
        ("page", "the wheel has no scripts", ', "page/*.js"', "", "test_a_wheel_has_the_page"),
    ),
]

RECORDS = [
    *of(
        "syncmv4d_jax/data/clips.py",
        "tests/data/test_surfaces.py",
        (
            "7",
            "crops are fitted to the future",
            'fitted = range(1 if settings.crop == "first" else len(clip.index))',
            "fitted = range(len(clip.index))",
            "test_the_future_does_not_move_the_crop",
        ),
        (
            "6",
            "occluders are painted",
            "met = np.flatnonzero(hits.mask & (hits.mesh < count))",
            "met = np.flatnonzero(hits.mask)",
            "test_occluders_hide_points_and_are_not_painted_sampled_or_framed",
        ),
        (
            "A4",
            "occluders hide nothing",
            "scene = None if i in done else raycast.Scene(clip.meshes[i])",
            "scene = None if i in done else raycast.Scene(clip.meshes[i][:count])",
            "test_occluders_hide_points_and_are_not_painted_sampled_or_framed",
        ),
    ),
    *of(
        "syncmv4d_jax/data/surfaces.py",
        "tests/data/test_surfaces.py",
        (
            "A4",
            "the truth of a pixel stands still",
            "vertices = found[index].at(frame)[corners]",
            "vertices = found[index].at(0)[corners]",
            "test_any_pixel_of_frame_0_has_its_true_track",
        ),
    ),
    *of(
        "syncmv4d_jax/geometry/cameras.py",
        "tests/data/test_pipeline.py",
        (
            "2",
            "cameras that move are taken for still ones",
            "if extrinsics.ndim < 3 or extrinsics.shape[-3] != 1:",
            "if extrinsics.ndim < 3:",
            "test_a_camera_that_moves_gives_every_view_a_pose_a_frame",
        ),
    ),
    *of(
        "syncmv4d_jax/data/scenes/motion.py",
        "tests/data/scenes/test_scene.py",
        (
            "",
            "the layout does not tell how far things go",
            "return layout.length * rule.tool * first, layout.length * rule.target * second",
            "return 0.1 * rule.tool * first, 0.1 * rule.target * second",
            "test_the_way_is_the_layouts",
        ),
    ),
]

SHARED = [
    *of(
        "syncmv4d_jax/tasks/video.py",
        "tests/tasks/test_base.py",
        (
            "",
            "a frame 0 that is given is generated",
            "latents[name] = flow.hold_first(x, first[name]) if name in first else x",
            "latents[name] = x",
            "test_the_guided_scan_joins_branches_and_carries",
        ),
        (
            "",
            "steps get what was given for the first one",
            "return step(denoise, state, row, first=first, given=own)[0], None",
            "return step(denoise, state, row, first=first, given=given[0])[0], None",
            "test_the_guided_scan_joins_branches_and_carries",
        ),
        (
            "",
            "a weighted mean is over its weights though it is told what counts",
            "counted = weight if counted is None else counted",
            "counted = weight",
            "test_a_mean_is_weighted_by_a_field",
        ),
        (
            "",
            "the error is weighted twice",
            "jnp.sum(weight * jnp.square(error), axis=axes)",
            "jnp.sum(jnp.square(weight * error), axis=axes)",
            "test_a_mean_is_weighted_by_a_field",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/video.py",
        "tests/tasks/syncmv4d/test_syncmv4d_scale.py",
        (
            "",
            "text is dropped, its length stays",
            "return text, jnp.where(drop, null_lengths, lengths)",
            "return text, lengths",
            "test_text_is_dropped_for_whole_samples",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/base.py",
        "tests/tasks/test_base.py",
        (
            "",
            "axes of a door need not agree with each other",
            "known.setdefault(axis, size)",
            "known[axis] = size",
            "test_shapes_at_a_door_agree_with_each_other_and_with_the_task",
        ),
        (
            "",
            "a mode goes on with a task that does not serve it",
            "if isinstance(task, wanted):",
            "if task:",
            "test_a_mode_that_a_task_does_not_serve_is_one_sentence",
        ),
    ),
]

ATTENTION = [
    *of(
        "syncmv4d_jax/models/nn/attention.py",
        "tests/models/nn/test_attention.py",
        (
            "gpu",
            "gradients of keys stay in the order that cuDNN saw",
            "lambda saved, g: (_reorder(g, saved[1], saved[0]), None, None),",
            "lambda saved, g: (_reorder(g, saved[0], saved[1]), None, None),",
            "test_cudnn_is_called_with_even_tokens_and_counts_of_keys[keys]",
        ),
        (
            "gpu",
            "a mask hides lengths from cuDNN",
            "seen = seen if lengths is None else seen & _counted(lengths, keys)",
            "seen = seen",
            "test_cudnn_is_called_with_even_tokens_and_counts_of_keys[both]",
        ),
        (
            "gpu",
            "a padded key counts",
            "if keys % 2 and lengths is None:",
            "if keys % 2 and lengths is not None:",
            "test_cudnn_is_called_with_even_tokens_and_counts_of_keys[none]",
        ),
        (
            "gpu",
            "masks of all chunks are kept for all queries",
            "return (mask, x) if mask is None else jax.lax.optimization_barrier((mask, x))",
            "return mask, x",
            "test_masks_of_chunks_are_not_kept_for_all_queries",
        ),
        (
            "gpu",
            "a named kernel gets a mask that it does not take",
            'if kernel in ("splash", "cudnn") and mask is not None and not _over_keys(mask):',
            'if kernel == "splash" and mask is not None and not _over_keys(mask):',
            NAMED_KERNEL,
        ),
        (
            "gpu",
            "cuDNN gets float32",
            'if kernel == "cudnn" and q.dtype not in (jnp.bfloat16, jnp.float16):',
            'if kernel == "splash" and q.dtype not in (jnp.bfloat16, jnp.float16):',
            NAMED_KERNEL,
        ),
        (
            "gpu",
            "lengths that are no counts are taken",
            "lengths.shape != (b,) or not jnp.issubdtype(lengths.dtype, jnp.integer)",
            "lengths.shape != (b,)",
            "test_wrong_calls_raise",
        ),
    ),
    *of(
        "syncmv4d_jax/models/nn/cpu.py",
        "tests/models/nn/test_layers.py",
        (
            "speed",
            "bfloat16 is multiplied in float32 on a CPU",
            "jax.lax.dot(a, b, preferred_element_type=jnp.float32)",
            "jax.lax.dot(a, b)",
            "test_bfloat16_is_summed_in_float32_on_one_cpu_only",
        ),
        (
            "speed",
            "a cut array is taken for one on a single CPU",
            "return mesh.size == 1 and mesh.abstract_device.platform",
            "return mesh.abstract_device.platform",
            "test_bfloat16_is_summed_in_float32_on_one_cpu_only",
        ),
    ),
    *of(
        "syncmv4d_jax/machines/planning/hlo.py",
        "tests/run/test_plan.py",
        (
            "gpu",
            "operands of a joined collective count",
            "return parts[1] if len(parts) > 1 else kind",
            "return kind",
            "test_reader_of_a_gpus_joined_collectives",
        ),
    ),
]

FILES = [
    *of(
        "syncmv4d_jax/data/frames.py",
        "tests/data/test_video_reader.py",
        (
            "files",
            "a video is shown as it is stored",
            "        rows = rows[:: turn[1], :: turn[2]]",
            "        rows = rows[::1, ::1]",
            "test_the_display_matrix_is_done",
        ),
        (
            "files",
            "every video has the colours of BT.601",
            "    kr, kb = MATRICES[matrix]",
            "    kr, kb = MATRICES[2]",
            "test_colours_follow_matrix_and_range",
        ),
        (
            "files",
            "the range of a video's colours is not asked",
            "    low, height, width = (0, 255, 255) if full else (16, 219, 224)",
            "    low, height, width = (16, 219, 224)",
            "test_greys_follow_the_range",
        ),
        (
            "files",
            "frames go by their number where the rate varies",
            "        if regular:\n            return np.asarray(index)",
            "        if regular or have:\n            return np.asarray(index)",
            "test_frames_go_by_their_time_where_the_rate_varies",
        ),
        (
            "files",
            "the rate of a video is not that of its poses",
            "abs((have - 1) / last / fps - 1) > SAME_RATE",
            "abs((have - 1) / last / fps - 1) > 99",
            "test_poses_have_the_rate_and_number_of_the_frames",
        ),
        (
            "files",
            "frames before an edit are counted",
            "if packet.pts is not None and not packet.is_discard:",
            "if packet.pts is not None:",
            "test_frames_before_the_edit_are_not_counted",
        ),
    ),
    *of(
        "syncmv4d_jax/data/pictures.py",
        "tests/data/test_pictures.py",
        (
            "files",
            "a picture is read as it is stored",
            "upright = ImageOps.exif_transpose(image)",
            "upright = image",
            "test_orientation_is_applied",
        ),
        (
            "files",
            "sixteen bits are cut off at white",
            "np.asarray(image) >> 8",
            "np.asarray(image)",
            "test_sixteen_bits_are_scaled_to_eight",
        ),
        (
            "files",
            "the first of several pictures is taken",
            'if count > 1 and image.format != "MPO":',
            "if count < 1:",
            "test_one_picture_is_wanted",
        ),
    ),
    *of(
        "syncmv4d_jax/data/rigs.py",
        "tests/data/test_rigs.py",
        (
            "files",
            "a camera may mirror",
            "    if np.linalg.det(turn) < 0:",
            "    if np.linalg.det(turn) < -9:",
            "test_a_rig_that_cannot_be_is_refused_at_every_door",
        ),
        (
            "files",
            "centimetres pass as metres",
            "BASELINE = 20.0",
            "BASELINE = 2e9",
            "test_a_rig_that_cannot_be_is_refused_at_every_door",
        ),
        (
            "files",
            "distortion is forgotten",
            "    if not undistorted:\n",
            "    if undistorted is None:\n",
            "test_distortion_is_refused_where_nobody_takes_it_out",
        ),
        (
            "files",
            "a mirrored pose is rigid",
            "wrong = (off > 1e-2) | (np.linalg.det(turns) < 0)",
            "wrong = off > 1e-2",
            "test_a_surface_that_cannot_be_is_refused",
        ),
    ),
    *of(
        "syncmv4d_jax/weights/lora.py",
        "tests/weights/test_forms.py",
        (
            "files",
            "the alpha of an adapter's configuration is not read",
            "        found = own[0] if own else base",
            "        found = None",
            "test_alpha_that_is_said_beside_the_adapters_counts",
        ),
        (
            "files",
            "magnitudes of DoRA are left out",
            'r"\\.(lora_magnitude_vector|dora_scale)\\b"',
            'r"\\.(never)\\b"',
            "test_changes_of_other_kinds_are_named",
        ),
    ),
    *of(
        "syncmv4d_jax/weights/folders.py",
        "tests/weights/test_forms.py",
        (
            "files",
            "scales of float8 are left out",
            "    if scales or whole:",
            "    if whole:",
            "test_quantised_weights_are_refused",
        ),
    ),
]

AGAIN = [
    *of(
        "syncmv4d_jax/recipe.py",
        "tests/test_recipe.py",
        (
            "again",
            "keys that only one recipe has are no difference",
            "        if key not in before or key not in after or before[key] != after[key]",
            "        if key in before and key in after and before[key] != after[key]",
            "test_every_difference_is_named",
        ),
        (
            "again",
            "a folder of another recipe is filled",
            "    elif differ := differences(read(path) or {}, recipe):",
            "    elif (differ := differences(read(path) or {}, recipe)) and not path.parent:",
            "test_a_folder_is_claimed_once",
        ),
        (
            "again",
            "a second writer is let in",
            "            if self._lives(there):",
            "            if self._lives(there) and not there:",
            "test_a_second_writer_is_refused_by_name_until_the_first_is_done",
        ),
        (
            "again",
            "a process of another start counts as the writer",
            """            return there.get("started") == _started(there.get("process", 0)) != ""
""",
            """            return _started(there.get("process", 0)) != ""
""",
            "test_a_number_that_another_process_has_now_is_not_the_writer",
        ),
        (
            "again",
            "a beat of another machine is not seen",
            "                return self._beaten() != 0",
            "                return self._beaten() == 0",
            "test_another_machine_is_watched_for_a_beat",
        ),
    ),
    *of(
        "syncmv4d_jax/disk.py",
        "tests/test_recipe.py",
        (
            "again",
            "an address becomes a folder",
            """    if found:
        tools =""",
            """    if found and not path:
        tools =""",
            "test_addresses_are_no_paths",
        ),
    ),
    *of(
        "syncmv4d_jax/main.py",
        "tests/test_main.py",
        (
            "again",
            "two runs of a mode share a workdir",
            "recipe.Lock(workdir, mode) if processes.first() else",
            "recipe.Lock(workdir, mode) if not processes.first() else",
            "test_one_run_of_a_mode_in_a_workdir",
        ),
    ),
    *of(
        "syncmv4d_jax/data/prepare.py",
        "tests/data/test_prepare_again.py",
        (
            "again",
            "what was left out stays in the index",
            "    content = records.gather_index(root, skipped, only=listed)",
            "    content = records.gather_index(root, skipped, only=None)",
            "test_what_is_left_out_later_is_not_in_the_index",
        ),
        (
            "again",
            "a recording that was mended counts as done",
            """    if "source" in part and part["source"] != source.mark():""",
            """    if "source" in part and part["source"] != part["source"]:""",
            "test_a_recording_that_was_mended_is_prepared_again",
        ),
        (
            "again",
            "records that are cut short count as done",
            """part.get("bytes", file.stat().st_size) != file.stat().st_size""",
            """part.get("bytes", 0) < 0""",
            "test_records_that_were_lost_are_made_again[cut]",
        ),
        (
            "again",
            "mirrored hands are mixed with others",
            "flip_left=any(hands.values()))",
            "flip_left=bool(hands))",
            "test_other_hands_are_refused",
        ),
    ),
    *of(
        "syncmv4d_jax/run/sample.py",
        "tests/run/test_sample_again.py",
        (
            "again",
            "a sample of other weights is taken",
            "        weights={part: checkpoint.mark(leaves) for part, leaves in params.items()},",
            "        weights={part: part for part, leaves in params.items()},",
            "test_whatever_changed_a_new_sample_is_made_and_the_old_one_kept[weights]",
        ),
        (
            "again",
            "a sample of another prompt is taken",
            """        "prompt": str(arrays.get("prompt", "")),
        "seed": seed,""",
            """        "seed": seed,""",
            "test_whatever_changed_a_new_sample_is_made_and_the_old_one_kept[prompt]",
        ),
        (
            "again",
            "a sample of other images is taken",
            """        "inputs": run_inputs.made_from(own, arrays),
""",
            "",
            "test_whatever_changed_a_new_sample_is_made_and_the_old_one_kept[image]",
        ),
    ),
    *of(
        "syncmv4d_jax/results/samples.py",
        "tests/run/test_sample_again.py",
        (
            "again",
            "the former sample is lost",
            "    path.rename(aside)\n",
            "    shutil.rmtree(path)\n",
            "test_whatever_changed_a_new_sample_is_made_and_the_old_one_kept[seed]",
        ),
        (
            "again",
            "a sample without one of its files counts as done",
            """not all((path / name).is_file() for name in meta.get("files", ()))""",
            "meta.get('files') == 0",
            "test_a_sample_that_lost_a_file_is_made_again",
        ),
    ),
    *of(
        "syncmv4d_jax/run/resume.py",
        "tests/run/test_train_again.py",
        (
            "again",
            "another order of examples is taken",
            "    if differ := recipe.differences(before, after):",
            "    if (differ := recipe.differences(before, after)) and not before:",
            "test_another_order_of_examples_is_refused",
        ),
        (
            "again",
            "records of another content are taken",
            """    return recipe.content(root / "index.json")""",
            """    return str(root.name and "index.json")""",
            "test_records_count_by_content_not_by_place",
        ),
        (
            "again",
            "batches are counted, not examples",
            """    return int(meta.get("examples", step * meta["batch_size"]))""",
            """    return int(step * meta["batch_size"])""",
            "test_batches_of_any_size_see_every_example_once",
        ),
    ),
    *of(
        "syncmv4d_jax/run/train.py",
        "tests/run/test_train_again.py",
        (
            "again",
            "the last checkpoint is not asked for",
            "    store.promise(step)",
            "    store.close()",
            "test_the_last_checkpoint_is_promised",
        ),
        (
            "again",
            "a finished run says nothing of other settings",
            "                resume.finished(last, resume.recipe_of(stage))",
            "                resume.recipe_of(stage)",
            "test_a_finished_run_is_left_alone_or_refuses",
        ),
    ),
    *of(
        "syncmv4d_jax/run/evaluate.py",
        "tests/run/test_evaluate.py",
        (
            "again",
            "samples of two ways have one mean",
            "    if differ := recipe.differences(first, second):",
            "    if (differ := recipe.differences(first, second)) and not first:",
            "test_samples_of_two_ways_have_no_mean",
        ),
        (
            "again",
            "the page tells the evaluation's command",
            """    return "\\n".join(lines) or assembly.command()""",
            "    return assembly.command()",
            "test_samples_of_two_ways_have_no_mean",
        ),
    ),
    *of(
        "syncmv4d_jax/results/web/report.py",
        "tests/run/test_evaluate.py",
        (
            "again",
            "a page without a truth says nothing of the samples",
            """    own = [] if "true_video" in sample else notes.without_truth(sample)""",
            "    own = notes.of(None) or []",
            "test_a_page_without_a_truth_says_what_the_samples_say_of_themselves",
        ),
    ),
    *of(
        "syncmv4d_jax/results/web/notes.py",
        "tests/results/web/test_notes.py",
        (
            "again",
            "points outside of the depth range are not counted",
            "np.mean(~((depth >= near) & (depth <= far)))",
            "np.mean(~((depth >= 0) | (depth <= far)))",
            "test_without_a_truth_a_sample_s_own_numbers_speak",
        ),
    ),
    *of(
        "syncmv4d_jax/run/plan.py",
        "tests/run/test_plan.py",
        (
            "again",
            "programs of another configuration are taken",
            """mesh, row["batch"], row.get("recipe")""",
            """mesh, row["batch"]""",
            "test_what_was_compiled_for_another_configuration_is_not_taken",
        ),
    ),
    *of(
        "syncmv4d_jax/results/curves.py",
        "tests/results/test_curves.py",
        (
            "again",
            "what a full disk refused is forgotten at the end",
            """        if reason := self._flush():
            rows =""",
            """        if reason := str(""):
            rows =""",
            "test_what_a_full_disk_refused_is_written_at_the_end",
        ),
    ),
    *of(
        "data_prep/make_vae.py",
        "tests/data/test_make_vae.py",
        (
            "again",
            "an autoencoder goes on with other records",
            """    recipe.claim(args.out / "recipe.json", begun, way="use another --out")
""",
            "",
            "test_other_records_or_clips_are_refused",
        ),
    ),
    *of(
        "syncmv4d_jax/view.py",
        "tests/test_view.py",
        (
            "again",
            "an export goes to a folder called s3:",
            """"--out", type=disk.local, help""",
            """"--out", help""",
            "test_addresses_are_refused",
        ),
    ),
    *of(
        "syncmv4d_jax/run/embedded.py",
        "tests/run/test_assembly.py",
        (
            "again",
            "embedded data of another task are taken",
            """    recipe.claim(root / "recipe.json", made, way="use another --workdir")
""",
            "",
            "test_embedded_data_of_another_task_is_refused",
        ),
    ),
    *of(
        "syncmv4d_jax/run/assembly.py",
        "tests/run/test_assembly.py",
        (
            "again",
            "records in a bucket are a folder",
            """            disk.local(getattr(made[name], key), where=f"config.{name}.{key}")""",
            """            disk.local("", where=f"config.{name}.{key}")""",
            "test_addresses_are_refused_by_name[data.records]",
        ),
    ),
    *of(
        "syncmv4d_jax/data/tfds_builder.py",
        "tests/data/test_tfds_builder.py",
        (
            "again",
            "a dataset of other records is taken",
            """name=recipe.content(self._reader.root / "index.json")""",
            """name=recipe.mark("index")""",
            "test_records_that_changed_make_another_dataset",
        ),
    ),
    *of(
        "syncmv4d_jax/results/export.py",
        "tests/results/test_export.py",
        (
            "again",
            "another's files are removed by an export",
            "    if others := [",
            "    if others := not folder.name and [",
            "test_ply_sequence",
        ),
    ),
]

ROBOTS = [
    *of(
        "syncmv4d_jax/data/sources/lerobot.py",
        "tests/data/sources/test_lerobot.py",
        (
            "robots",
            "an episode of a file with many begins with the file",
            "seconds = clip.begins + self.stamps(episode)[np.asarray(index)]",
            "seconds = self.stamps(episode)[np.asarray(index)]",
            "test_no_frame_of_any_camera_is_wrong[3-h264]",
        ),
        (
            "robots",
            "a camera with another clock gives whatever frame is nearest",
            "if (late > LATE / self.fps).any():",
            "if False:",
            "test_another_clock_is_refused[15]",
        ),
        (
            "robots",
            "depth is linear in its codes",
            'if info["use_log"]:',
            "if False:",
            "test_image_and_depth_cameras",
        ),
        (
            "robots",
            "numbers of another shape than info.json says are taken",
            "if values.shape not in (",
            "if () and values.shape not in (",
            "test_what_does_not_fit_is_refused_by_name",
        ),
    ),
    *of(
        "syncmv4d_jax/data/sources/lerobot_layout.py",
        "tests/data/sources/test_lerobot.py",
        (
            "robots",
            "all cameras are cut into files as the data is",
            'at = {x: row.get(f"videos/{key}/{x}") for x in ("chunk_index", "file_index")}',
            'at = {x: row.get(f"data/{x}") for x in ("chunk_index", "file_index")}',
            "test_no_frame_of_any_camera_is_wrong[3-h264]",
        ),
    ),
    *of(
        "syncmv4d_jax/data/sources/lerobot_writer.py",
        "tests/data/sources/test_lerobot.py",
        (
            "robots",
            "all episodes of a file are said to begin with it",
            "        begins = film.frames\n",
            "        begins = 0\n",
            "test_what_is_written_is_read_again[h264]",
        ),
    ),
    *of(
        "syncmv4d_jax/data/episodes.py",
        "tests/data/test_episodes.py",
        (
            "robots",
            "windows that are cut short by the episode's end are kept",
            "begins + seconds <= stamps[-1] + 1e-6",
            "begins <= stamps[-1] + 1e-6",
            "test_windows_of_all_episodes_show_their_frames",
        ),
        (
            "robots",
            "a view is numbered by its place among those that are there",
            '"cluster": settings.views.index(name)',
            '"cluster": i',
            "test_batches_have_videos_actions_and_views_by_name",
        ),
        (
            "robots",
            "time stamps count for nothing",
            "rate, length = lerobot.regular(stamps), len(stamps)",
            "rate, length = fps, len(stamps)",
            "test_windows_of_time_stamps",
        ),
    ),
    *of(
        "syncmv4d_jax/data/pipeline.py",
        "tests/data/test_episodes.py",
        (
            "robots",
            "clips with too few views are read as if they had all",
            "kept = [window for window in reader.windows if len(window.views) >= views]",
            "kept = list(reader.windows)",
            "test_clips_with_too_few_views_are_left_out",
        ),
    ),
]

FUZZ = [
    *of(
        "syncmv4d_jax/data/reading.py",
        "tests/data/test_rigs.py",
        (
            "fuzz",
            "JSON that is too deep ends in a traceback",
            "    except (ValueError, RecursionError) as error:",
            "    except ValueError as error:",
            "test_json_that_is_too_deep_is_named",
        ),
        (
            "fuzz",
            "the imaginary part of an array is dropped",
            '"fiubUS"',
            '"cfiubUS"',
            "test_arrays_that_cannot_be_read_are_named",
        ),
    ),
    *of(
        "syncmv4d_jax/data/scenes/hot3d.py",
        "tests/data/scenes/test_hot3d.py",
        (
            "fuzz",
            "a damaged scan ends in its parser's traceback",
            "    except Exception as error:  # a damaged header",
            "    except OSError as error:  # a damaged header",
            "test_a_scan_that_cannot_be_read_is_named",
        ),
    ),
    *of(
        "syncmv4d_jax/data/pictures.py",
        "tests/data/test_pictures.py",
        (
            "fuzz",
            "a damaged picture ends in its parser's traceback",
            "    except Exception as error:",
            "    except OSError as error:",
            "test_damage_of_any_kind_is_named",
        ),
    ),
    *of(
        "syncmv4d_jax/results/samples.py",
        "tests/results/test_samples.py",
        (
            "fuzz",
            "damaged tracks of a sample end in a traceback",
            'reading.arrays(path / "tracks.npz")',
            'np.load(path / "tracks.npz")',
            "test_files_of_a_sample_that_cannot_be_read_are_named",
        ),
    ),
    *of(
        "syncmv4d_jax/weights/files.py",
        "tests/weights/test_forms.py",
        (
            "fuzz",
            "a shape below zero is one",
            "type(n) is int and n >= 0",
            "type(n) is int",
            "test_a_header_that_cannot_be_is_named",
        ),
        (
            "fuzz",
            "shards may lie anywhere",
            "if Path(name).name != name]",
            "if not name]",
            "test_an_index_of_shards_that_cannot_be_is_named",
        ),
    ),
    *of(
        "syncmv4d_jax/weights/torch_pickle.py",
        "tests/weights/test_torch_pickle.py",
        (
            "fuzz",
            "a pickle has an unpickler make gigabytes of room",
            "and int(value or 0) > size",
            "and int(value or 0) > 2**40",
            "test_a_value_numbered_beyond_the_file_is_refused",
        ),
    ),
    *of(
        "tests/fuzz/fuzz_worker.py",
        "tests/fuzz/test_fuzz.py",
        (
            "fuzz",
            "any error counts as a refusal",
            "        if not is_named(error, file):",
            "        if not str(error):",
            "test_outcomes_are_told_apart",
        ),
        (
            "fuzz",
            "what is left of a refused input is not looked at",
            '        if outcome == "refused" and there and not kept:',
            '        if outcome == "refused" and not there and not kept:',
            "test_outcomes_are_told_apart",
        ),
    ),
]

CONTROL = [
    *of(
        "syncmv4d_jax/models/control.py",
        "tests/models/test_control.py",
        (
            "H2",
            "what is added is not added to the stream",
            "x = (x.astype(jnp.float32) + added)",
            "x = (x.astype(jnp.float32) + 0 * added)",
            "test_an_untrained_branch_or_scale_0_changes_nothing[1]",
        ),
        (
            "H2",
            "copies are of the first blocks, not of every stride-th",
            "theirs[name][:: config.stride]",
            "theirs[name][: config.blocks]",
            "test_copies_are_the_backbones_blocks",
        ),
        (
            "H2",
            "a copy runs beside every block of a group",
            "            if i:\n                continue\n",
            "",
            "test_groups_are_a_plain_loop",
        ),
        (
            "H3",
            "conditions come before the noisy latents",
            "rows = jnp.pad(rows, ((0, 0), (0, (PARTS - 1) * own.in_channels), (0, 0)))",
            "rows = jnp.pad(rows, ((0, 0), ((PARTS - 1) * own.in_channels, 0), (0, 0)))",
            "test_copies_are_the_backbones_blocks",
        ),
    ),
    *of(
        "syncmv4d_jax/models/point_condition.py",
        "tests/models/test_point_condition.py",
        (
            "H4",
            "cells are half a cell off",
            "at = (pixels + 0.5) / stride - 0.5",
            "at = pixels / stride",
            "test_a_point_lands_in_its_cells_with_the_known_weights",
        ),
        (
            "H4",
            "hidden points count like those in front",
            "front = q * jnp.exp(-jnp.maximum(z - z0, 0.0) / tau)",
            "front = q",
            "test_the_nearer_point_wins_the_front",
        ),
        (
            "H4",
            "points behind the camera are seen",
            "valid = valid & inside & (depth > NEAR * unit)",
            "valid = valid & inside",
            "test_points_out_of_sight_do_not_count",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/hvg3d/task.py",
        "tests/tasks/hvg3d/test_hvg3d.py",
        (
            "H6",
            "the mask's weight is always the square's",
            "(1 + o.mask_gain * mask) ** o.mask_power",
            "(1 + o.mask_gain * mask) ** 2",
            "test_the_loss_by_its_definition",
        ),
        (
            "H6",
            "the weights are averaged out",
            "each = video.mean_square(error, counted * more, counted=counted, axes=range(1, 6))",
            "each = video.mean_square(error, counted * more, axes=range(1, 6))",
            "test_the_loss_by_its_definition",
        ),
    ),
    *of(
        "syncmv4d_jax/tasks/hvg3d/conditions.py",
        "tests/tasks/hvg3d/test_hvg3d.py",
        (
            "H7",
            "tracking that is dropped is zero, not black",
            "return jnp.where(drop.tracking[:, None, None, None, None, None], black, latents)",
            "return jnp.where(drop.tracking[:, None, None, None, None, None], 0.0, latents)",
            "test_what_is_dropped_is_as_if_it_were_not_there",
        ),
    ),
    *of(
        "syncmv4d_jax/data/controls.py",
        "tests/data/test_controls.py",
        (
            "H7",
            "clouds stay where they were in a turned world",
            'found["points"] = turn(found["points"], centre)',
            'found["points"] = found["points"]',
            "test_a_turned_world_has_turned_clouds",
        ),
    ),
    *of(
        "syncmv4d_jax/metrics/hoi.py",
        "tests/metrics/test_hoi.py",
        (
            "H9",
            "the whole frame is scored as hands and objects",
            "error = pred[v, n][here].astype(np.float64) - true[v, n][here]",
            "error = pred[v, n].astype(np.float64) - true[v, n]",
            "test_the_truth_is_perfect_and_an_error_inside_counts",
        ),
        (
            "H9",
            "the margin is the correlation itself",
            "margins.append(right - wrong)",
            "margins.append(right)",
            "test_following_one_course_is_not_following_the_other",
        ),
    ),
]

LAUNCH = [
    *of(
        "launch/slurm.sbatch",
        "tests/launch/test_launchers.py",
        (
            "launch",
            "all tasks of an array go back to the queue",
            "job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID #",
            "job=${SLURM_ARRAY_JOB_ID} #",
            "test_who_goes_back_to_slurms_queue",
        ),
        (
            "launch",
            "tasks of an array share their arguments",
            """  set -- "${@//%a/$SLURM_ARRAY_TASK_ID}"
""",
            "",
            "test_a_task_of_an_array_has_its_number_in_its_arguments",
        ),
    ),
    *of(
        "launch/gke_jobset.py",
        "tests/launch/test_launchers.py",
        (
            "launch",
            "an error is restarted a hundred times",
            "ERRORS = (1, 2)",
            "ERRORS = (2,)",
            "test_an_error_ends_a_job_set_and_a_pod_that_is_taken_away_does_not",
        ),
    ),
    *of(
        "launch/sweeps.py",
        "tests/launch/test_launchers.py",
        (
            "launch",
            "keys that end alike have one name",
            "w if last.count(w) == 1 else k for",
            "w for",
            "test_points_and_names_of_a_sweep",
        ),
        (
            "launch",
            "two points of a sweep share a folder",
            "        if name in names:",
            "        if name in names and not name:",
            "test_sweeps_that_cannot_be",
        ),
    ),
]

TABLE = [
    *MJD,
    *FLOW,
    *GEOMETRY,
    *DPA,
    *CODEC,
    *CALIBRATIONS,
    *SHARPNESS,
    *DOORS,
    *SILHOUETTE,
    *DATA,
    *RECORDS,
    *FILES,
    *FUZZ,
    *LAUNCH,
    *CONFIGS,
    *METRICS,
    *MACHINES,
    *RUN,
    *RUNS,
    *RESULTS,
    *CYCLE,
    *TASKS,
    *SHARED,
    *ATTENTION,
    *AGAIN,
    *ROBOTS,
    *CONTROL,
]

if __name__ == "__main__":
    sys.exit(main(TABLE))
