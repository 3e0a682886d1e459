"""Several cameras of a robot: synchronized videos, without tracks, from LeRobot data.

    python data_prep/import_lerobot.py --lerobot DIR --out RECORDS --views head,left,right \
        --actions action
    python data_prep/cache_latents.py --data RECORDS/480x704 --weights WEIGHTS --out CACHE
    python -m syncmv4d_jax.main --config=configs/robots.py --workdir=out/robots \
        --config.data.records=RECORDS --config.data.cache=CACHE \
        --config.weights.dit=WEIGHTS/dit --config.weights.vae=WEIGHTS/vae

Three named views in step, from Wan's weights; nothing but videos and texts is read. `:cameras` adds
the pose of each view at each latent frame, `:rays` the rays of its tokens (records with
calibration), `:actions` the robot's actions (records with --actions; set
`--config.task.dit.actions` to how many numbers an action has). `:debug` runs `:rays` on embedded
scenes, tiny, in about a minute on a CPU. Not trained at full size so far. `:tune` is the demo's
configuration for another kind of scenes, tracks and pseudo videos included: MJD alone, at the rate
that made its weights (the aligner knows of points only). `:demo` is the same with the four actions
of a Meta-World episode. `make robots` trains both.
"""

import ml_collections

from configs import bases, demo

CONDITIONS = {
    "full": {},
    "cameras": {"camera_embedding": True},
    "rays": {"camera_embedding": True, "camera_form": "rays"},
    "actions": {"actions": 7},
    "debug": {"camera_embedding": True, "camera_form": "rays"},
}


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is a key of CONDITIONS, "tune" or "demo".

    Raises:
      ValueError: an unknown variant.
    """
    if variant in ("tune", "demo"):
        config = bases.override("demo", task={"dit": {"actions": 4}} if variant == "demo" else {})
        with config.unlocked():
            config.optim.learning_rate = 1e-2
            config.train.checkpoint_every = 100
            config.stages = ({"name": "mjd", "task": {"cycle": demo.WITHOUT_LOOP}},)
        return config
    if variant not in CONDITIONS:
        known = (*CONDITIONS, "tune", "demo")
        raise ValueError(f"configs/robots.py: wanted one of {known}, got {variant!r}")
    off = {"joint_motion": False, "dpa": False, "cycle": False}
    config = bases.override(
        "debug" if variant == "debug" else "taco",
        task={"dit": {"joint_motion": False, **CONDITIONS[variant]}, "cycle": off},
    )
    with config.unlocked():
        config.stages = ()
    return config
