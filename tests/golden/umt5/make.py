"""Writes encoder.npz with transformers' umT5 (python tests/golden/umt5/make.py)."""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "support"))

import umt5_reference  # noqa: E402

if __name__ == "__main__":
    params = umt5_reference.random_params(umt5_reference.CONFIG)
    model = umt5_reference.transformers_encoder(torch, params)
    ids, mask = umt5_reference.batch(37)
    with torch.no_grad():
        y = model(torch.from_numpy(ids).long(), torch.from_numpy(mask).long()).last_hidden_state
    np.savez(HERE / "encoder.npz", features=np.where(mask[..., None], y.numpy(), 0))
