"""SyncMV4D in JAX: synchronized multi-view joint diffusion of video and 4D motion."""

import sys
from collections.abc import Sequence
from types import ModuleType

__version__ = "0.1.0"

# Modules and folders as docs once named them -> where they are now; said by the error.
MOVED = {
    "bounds": "machines.planning.bounds",
    "cache": "data.cache",
    "cameras": "geometry.cameras",
    "checkpoint": "run.checkpoint",
    "conversion": "weights",
    "conversion.features": "weights.tables.features",
    "conversion.ptv3": "weights.tables.ptv3",
    "conversion.store": "weights.store",
    "conversion.umt5": "weights.tables.umt5",
    "conversion.wan_dit": "weights.tables.wan_dit",
    "conversion.wan_vae": "weights.tables.wan_vae",
    "corruption": "geometry.corruption",
    "cycle": "tasks.syncmv4d.cycle",
    "cycle_plan": "tasks.syncmv4d.cycle_sampling",
    "data.folder": "data.user",
    "data.hot3d": "data.scenes.hot3d",
    "data.image": "data.user",
    "data.layouts": "data.sources.recordings",
    "data.mano": "data.sources.mano",
    "data.synthetic": "data.scenes.scene",
    "data.synthetic_hand": "data.scenes.hand",
    "data.synthetic_motion": "data.scenes.motion",
    "data.synthetic_objects": "data.scenes.objects",
    "data.taco": "data.sources.taco",
    "data.taco_writer": "data.sources.taco_writer",
    "data.windows": "data.clips",
    "demo": "demo/make.py, a script beside the package",
    "embedded": "run.embedded",
    "evaluate": "run.evaluate",
    "evaluate_networks": "metrics.networks.evaluators",
    "feature_weights": "metrics.networks.weights",
    "flop_count": "models.flops",
    "flops": "models.flops",
    "hlo": "machines.planning.hlo",
    "lora": "models.lora",
    "metrics.features": "metrics.networks.features",
    "metrics.perceptual": "metrics.networks.formulas",
    "models.dpa.point_transformer": "models.ptv3.unet",
    "models.mjd_block": "models.mjd.block",
    "models.token_layout": "models.mjd.tokens",
    "models.wan.dit_block": "models.wan.block",
    "motion": "geometry.pseudo_video",
    "motion_match": "geometry.matching",
    "motion_paint": "geometry.painting",
    "nn": "models.nn",
    "nn.ring": "machines.ring",
    "optim": "run.optim",
    "parallel": "machines.mesh",
    "pictures": "run.pictures",
    "plan": "run.plan",
    "plan_inputs": "run.programs",
    "plan_memory": "machines.planning.compiler",
    "plan_report": "machines.planning.report",
    "pods": "machines.planning.pods",
    "points": "models.points",
    "preemption": "machines.preemption",
    "release": "weights.release",
    "sample": "run.sample",
    "sharded": "machines.placement",
    "tasks.syncmv4d_codec": "tasks.syncmv4d",
    "tasks.syncmv4d_cost": "tasks.syncmv4d.cost",
    "tasks.syncmv4d_loop": "tasks.syncmv4d.loop",
    "tasks.syncmv4d_sampling": "tasks.syncmv4d.sampling",
    "tokenizer": "weights.tokenizer",
    "torch_pickle": "weights.torch_pickle",
    "train": "run.train",
    "update": "run.update",
    "viz": "results",
    "viz.notes": "results.web.notes",
    "viz.page": "results.web.page",
    "viz.report": "results.web.report",
    "viz.tracks": "results.web.tracks",
    "watchdog": "machines.watchdog",
    "writers": "run.log",
}


class _Moved:
    """The last of the finders of modules: says where a module went that is no longer there."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Raises ImportError for a name of MOVED, or below one; others are left to be not found."""
        package, _, rest = name.partition(".")
        if package != __name__:
            return
        known, below = rest, ""
        while known and known not in MOVED:
            known, _, last = known.rpartition(".")
            below = f".{last}{below}"
        if known:
            now = MOVED[known]
            told = now if "/" in now else f"{__name__}.{now}{below}"
            # A folder is looked for before what is in it: say where that went as well.
            inside = [f"{k} is now {v}" for k, v in MOVED.items() if k.startswith(f"{known}.")]
            told += f" ({', '.join(inside)})" if inside else ""
            raise ImportError(f"{name} is now {told}", name=name)


sys.meta_path.append(_Moved)
