"""LeRobot data sets with a bar code in every frame, written with pyarrow and PyAV alone.

A code is 16 bars, white or black, high bit first: 2 bits of the camera, 10 of the frame, counted
through the data set, and 4 of the sum of the others. What shows another frame, or none, is seen.
"""

import io
import json

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FPS, LENGTHS = 30, (40, 55, 31, 47)
CAMERAS = {"top": (72, 96), "left": (48, 64), "right": (48, 64)}
# Which episodes are in which file, of each camera.
FILES = {"top": ((0, 1), (2, 3)), "left": ((0,), (1, 2, 3)), "right": ((0, 1, 2), (3,))}
BARS = 16
CODECS = {
    "h264": ("libx264", {"crf": "12"}),
    "av1": ("libsvtav1", {"crf": "20", "preset": "12", "svtav1-params": "lp=1"}),
}


def starts():
    return np.cumsum([0, *LENGTHS[:-1]])


def code(camera, frame):
    number = list(CAMERAS).index(camera) << 10 | frame
    return number << 4 | bin(number).count("1") % 16


def picture(camera, frame, size=None):
    height, width = size or CAMERAS[camera]
    bits = [code(camera, frame) >> (BARS - 1 - i) & 1 for i in range(BARS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, width // BARS)
    return np.broadcast_to(row[None, :, None], (height, len(row), 3)).copy()


def read_code(image):
    """(camera, frame) of a picture, None where its sum does not fit."""
    width = image.shape[1] // BARS
    bars = [image[:, i * width + width // 4 : (i + 1) * width - width // 4] for i in range(BARS)]
    number = int("".join(str(int(bar.mean() > 128)) for bar in bars), 2)
    if bin(number >> 4).count("1") % 16 != number & 15 or number >> 14 >= len(CAMERAS):
        return None
    return list(CAMERAS)[number >> 14], number >> 4 & 1023


def clip(camera, episode):
    first = starts()[episode]
    return [picture(camera, first + i) for i in range(LENGTHS[episode])]


def film(path, pictures, codec, fps=FPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    name, options = CODECS[codec]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(name, rate=fps, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", 2
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def deep_film(path, codes):
    """Codes [n h w] of 12 bits, kept exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx265", rate=FPS, options={"x265-params": "lossless=1:log-level=none"}
        )
        stream.height, stream.width = codes.shape[1:]
        stream.pix_fmt = "gray12le"
        for image in codes:
            frame = av.VideoFrame.from_ndarray(image.astype(np.uint16), format="gray12le")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def png(image):
    kept = io.BytesIO()
    Image.fromarray(image).save(kept, "PNG")
    return {"bytes": kept.getvalue(), "path": None}


def features(images=(), depth=False, action=2):
    found = {
        f"observation.images.{name}": {
            "dtype": "image" if name in images else "video",
            "shape": [*size, 3],
            "names": ["height", "width", "channels"],
            "info": {"video.fps": FPS, "video.is_depth_map": False},
        }
        for name, size in CAMERAS.items()
    }
    if depth:
        found["observation.depth.top"] = {
            "dtype": "video", "shape": [*CAMERAS["top"], 1],
            "names": ["height", "width", "channel"],
            "info": {"is_depth_map": True, "depth_unit": "m"},
        }  # fmt: skip
    found["action"] = {
        "dtype": "float32",
        "shape": [action],
        "names": [f"j{i}" for i in range(action)],
    }
    for name, dtype in (("timestamp", "float32"), ("frame_index", "int64")):
        found[name] = {"dtype": dtype, "shape": [1], "names": None}
    return found


def actions(episode):
    """[n 2]: the frame's number through the data set, and in the episode."""
    index = np.arange(LENGTHS[episode])
    return np.stack([starts()[episode] + index, index], 1).astype(np.float32)


def columns(episode, images=()):
    n = LENGTHS[episode]
    found = {
        "timestamp": pa.array((np.arange(n) / FPS).astype(np.float32)),
        "frame_index": pa.array(np.arange(n)),
        "episode_index": pa.array(np.full(n, episode)),
        "index": pa.array(starts()[episode] + np.arange(n)),
        "task_index": pa.array(np.full(n, episode % 2)),
        "action": pa.FixedSizeListArray.from_arrays(pa.array(actions(episode).ravel()), 2),
    }
    for name in images:
        pictures = [png(image) for image in clip(name, episode)]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        found[f"observation.images.{name}"] = pa.array(pictures, kind)
    return found


TASKS = ("push the cube", "lift the lid")


def info(version, made, **more):
    return {
        "codebase_version": version, "robot_type": "test", "fps": FPS, "chunks_size": 1000,
        "total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS), "features": made,
        "splits": {"train": f"0:{len(LENGTHS)}"}, **more,
    }  # fmt: skip


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def stats():
    rows = np.concatenate([actions(e) for e in range(len(LENGTHS))])
    return {"action": {"mean": rows.mean(0).tolist(), "std": rows.std(0).tolist(),
                       "count": [len(rows)]}}  # fmt: skip


def write_2(root, codec="h264"):
    """Version 2.1: a file an episode."""
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
    }
    save(root / "meta/info.json", info("v2.1", features(), **paths))
    lines = [{"task_index": i, "task": text} for i, text in enumerate(TASKS)]
    episodes, each = [], []
    for e, length in enumerate(LENGTHS):
        episodes.append({"episode_index": e, "tasks": [TASKS[e % 2]], "length": length})
        path = root / f"data/chunk-000/episode_{e:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns(e)), path)
        for name in CAMERAS:
            key = f"observation.images.{name}"
            film(root / f"videos/chunk-000/{key}/episode_{e:06d}.mp4", clip(name, e), codec)
        own = actions(e)
        own_stats = {"mean": own.mean(0).tolist(), "std": own.std(0).tolist(), "count": [length]}
        each.append({"episode_index": e, "stats": {"action": own_stats}})
    named = {"tasks": lines, "episodes": episodes, "episodes_stats": each}
    for name, rows in named.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"meta/{name}.jsonl").write_text(text)
    return root


def write_3(root, codec="h264", images=(), depth=None):
    """Version 3.0: videos by FILES; cameras of `images` in the data. depth: codes [n h w]."""
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    made = features(images, depth is not None)
    save(root / "meta/info.json", info("v3.0", made, **paths))
    save(root / "meta/stats.json", stats())
    tasks = pa.table({"task_index": pa.array(range(len(TASKS))), "task": list(TASKS)})
    pq.write_table(tasks, root / "meta/tasks.parquet")
    rows = [
        {"episode_index": e, "tasks": [TASKS[e % 2]], "length": length, "data/chunk_index": 0,
         "data/file_index": e // 2, "stats/action/mean": [0.0, 0.0]}
        for e, length in enumerate(LENGTHS)
    ]  # fmt: skip
    for name, files in FILES.items():
        if name in images:
            continue
        key = f"observation.images.{name}"
        for number, held in enumerate(files):
            pictures = [image for e in held for image in clip(name, e)]
            film(root / f"videos/{key}/chunk-000/file-{number:03d}.mp4", pictures, codec)
            begins = 0
            for e in held:
                ends = begins + LENGTHS[e]
                rows[e] |= {
                    f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": number,
                    f"videos/{key}/from_timestamp": begins / FPS,
                    f"videos/{key}/to_timestamp": ends / FPS,
                }  # fmt: skip
                begins = ends
    if depth is not None:
        key = "observation.depth.top"
        deep_film(root / f"videos/{key}/chunk-000/file-000.mp4", depth)
        for e, row in enumerate(rows):
            row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0,
                    f"videos/{key}/from_timestamp": starts()[e] / FPS,
                    f"videos/{key}/to_timestamp": (starts()[e] + LENGTHS[e]) / FPS}  # fmt: skip
    for number, held in enumerate(((0, 1), (2, 3))):
        path = root / f"data/chunk-000/file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([pa.table(columns(e, images)) for e in held]), path)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return root
