"""Query pixels by a matcher on the given images: `config.sample.anchors = "matched"`.

Key points of the middle view are looked for in the others: a point is one pixel of it, and where
the matcher finds it elsewhere. Points that no other view shows are left out; there may be fewer
than a sample has, the rest is valid nowhere.
"""

import jax
import numpy as np

from syncmv4d_jax import configuration
from syncmv4d_jax.metrics.networks import evaluators, weights
from syncmv4d_jax.metrics.networks.features import matcher, xfeat
from syncmv4d_jax.run import sections


def load(settings: sections.SampleConfig) -> matcher.Matcher | None:
    """The matcher that `config.sample` names; None where points are not matched.

    Raises:
      ValueError: "xfeat" without its weights; says where they are from.
    """
    if settings.anchors != "matched":
        return None
    if settings.matcher != "xfeat":
        wanted = "config.sample.matcher"
        return configuration.load(settings.matcher, evaluators.MATCHERS, wanted)()
    if not settings.features or not weights.find("xfeat", weights.existing(settings.features)):
        raise ValueError(
            "config.sample.anchors='matched' with XFeat: wanted its weights in "
            f"config.sample.features, got {settings.features!r}; {weights.NETWORKS['xfeat'].source}"
        )
    loaded = weights.load("xfeat", weights.existing(settings.features))
    network = jax.jit(lambda params, x: loaded.bind(params)(xfeat.prepared(x)))
    return xfeat.Sparse(lambda images: network(loaded.params, images), loaded.files)


def anchors(images: np.ndarray, match: matcher.Matcher, *, count: int) -> dict[str, np.ndarray]:
    """anchors [v k 2] px, anchor_valid [v k] of images [v h w 3] uint8, k = count.

    Raises:
      ValueError: one view, or a view in which nothing is found again; says which.
    """
    views, hub = len(images), len(images) // 2
    if views < 2:
        raise ValueError("anchors='matched': wanted at least two views, got one")
    points: dict[tuple[float, float], dict[int, np.ndarray]] = {}
    for view in (v for v in range(views) if v != hub):
        found = match(images[hub], images[view])
        sure = matcher.checked(found, match.name) > match.threshold
        if not sure.any():
            raise ValueError(
                f"anchors='matched': {match.name} finds nothing of view {hub} in view {view}"
            )
        for first, second in zip(found.first[sure], found.second[sure], strict=True):
            points.setdefault(tuple(first), {})[view] = second
    every = sorted(points, key=lambda at: -len(points[at]))[:count]  # seen by most views first
    pixels = np.zeros((views, count, 2), np.float32)
    valid = np.zeros((views, count), bool)
    for k, at in enumerate(every):
        for view, pixel in (points[at] | {hub: np.array(at)}).items():
            pixels[view, k], valid[view, k] = pixel, True
    return {"anchors": pixels, "anchor_valid": valid}
