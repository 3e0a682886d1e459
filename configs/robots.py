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
scenes, tiny, in about a minute on a CPU. Not trained at full size so far. `:demo` is the demo's
configuration with the four actions of a Meta-World episode, tracks and pseudo videos included: what
`make robots` tunes a second time.
"""

import ml_collections

from configs import bases

CONDITIONS = {
    "full": {},
    "cameras": {"camera_embedding": True},
    "rays": {"camera_embedding": True, "camera_form": "rays"},
    "actions": {"actions": 7},
    "debug": {"camera_embedding": True, "camera_form": "rays"},
}


def get_config(variant: str = "full") -> ml_collections.ConfigDict:
    """Returns the configuration; `variant` is a key of CONDITIONS, or "demo".

    Raises:
      ValueError: an unknown variant.
    """
    if variant == "demo":
        return bases.override("demo", task={"dit": {"actions": 4}})
    if variant not in CONDITIONS:
        raise ValueError(
            f"configs/robots.py: wanted one of {(*CONDITIONS, 'demo')}, got {variant!r}"
        )
    off = {"joint_motion": False, "dpa": False, "cycle": False}
    config = bases.override(
        "debug" if variant == "debug" else "taco",
        task={"dit": {"joint_motion": False, **CONDITIONS[variant]}, "cycle": off},
    )
    with config.unlocked():
        config.stages = ()
    return config
