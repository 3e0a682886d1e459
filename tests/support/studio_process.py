"""A studio with a fake maker in a process of its own, to be killed: ROOT SECONDS; says its port."""

import functools
import sys
import threading

import fake_maker
import serving

if __name__ == "__main__":
    root, seconds = sys.argv[1], float(sys.argv[2])
    load = functools.partial(fake_maker.load, root, seconds)
    with serving.studio(f"{root}/jobs", load) as (port, _):
        print(port, flush=True)
        threading.Event().wait()
