"""MoRe4D: one image to the ways of its points (strag), and these seen by any camera (vism).

    image, depth --strag--> flow map --flow_codec--> points --camera path, splatter--> vism -> video

(arXiv 2512.05044, there 4D-STraG and 4D-ViSM.) Each is a task of its own; run/viewpoints.py joins
them, and SyncMV4D's samples, by protocols of tasks/base.py.
"""
