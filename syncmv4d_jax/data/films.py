"""Short videos as VP9 in memory: what records are sent in (demo/package.py), not exact.

VP9 keeps the three planes of red, green and blue apart where they are wanted so, as those of a
pseudo video are places and a depth. The frames of 13 small pictures take 1.5 to 5 kB, where H.264
has as much again in its headers.
"""

import io

import av
import numpy as np

OPTIONS = {"b": "0", "deadline": "good", "cpu-used": "1"}  # b 0: the quantiser alone decides


def write(video: np.ndarray, *, quantiser: int, planes: bool) -> bytes:
    """Returns a video [n h w 3] uint8 as a film.

    Args:
      quantiser: 0 (best) to 63.
      planes: code red, green and blue apart and whole; else as brightness, and colours at half the
        size.

    Raises:
      ValueError: another dtype or number of axes.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] != 3:
        raise ValueError(f"film: wanted [n h w 3] uint8, got {video.shape} {video.dtype}")
    target = io.BytesIO()
    with av.open(target, "w", format="ivf") as file:
        options = OPTIONS | {"crf": str(quantiser)}
        stream = file.add_stream("libvpx-vp9", rate=8, options=options)
        stream.height, stream.width = video.shape[1:3]
        stream.pix_fmt = "gbrp" if planes else "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in video:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            file.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        file.mux(stream.encode())
    return target.getvalue()


def read(data: bytes) -> np.ndarray:
    """Returns the video [n h w 3] uint8 of a film."""
    with av.open(io.BytesIO(data), "r", format="ivf") as file:
        file.streams.video[0].codec_context.thread_count = 1  # a few ms of work: no threads
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
