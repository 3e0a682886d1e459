"""The Python door: weights once, then images, cameras and a prompt -> videos and world tracks.

    from syncmv4d_jax import pipeline

    pipe = pipeline.SyncMV4DPipeline.load(weights="WEIGHTS", config="configs/taco.py")
    result = pipe(images=["left.png", "right.png", "top.png"], cameras="cameras.json",
                  prompt="A person uses a brush to sweep a plate.", seed=1)
    result.videos, result.tracks         # [v n h w 3] uint8; [n k 3] metres, world frame
    result.save("out/samples"), result.export("out/tracks.glb")

A call goes the way of `--config.mode=sample` (run/sample.py): the same inputs, name and seed give
the same sample to the last byte. What is compiled is kept by sizes, steps and guidance; the first
call of these waits for it. The text encoder stays loaded.
"""

from syncmv4d_jax.pipeline.door import Pipeline
from syncmv4d_jax.pipeline.given import read_config
from syncmv4d_jax.pipeline.named import (
    HVG3DPipeline,
    MoRe4DPipeline,
    SyncMV4DPipeline,
    WanTI2VPipeline,
    of,
)
from syncmv4d_jax.pipeline.result import Result

__all__ = [
    "HVG3DPipeline",
    "MoRe4DPipeline",
    "Pipeline",
    "Result",
    "SyncMV4DPipeline",
    "WanTI2VPipeline",
    "of",
    "read_config",
]
