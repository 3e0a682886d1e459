"""The MANO hand model: reading its files without running them, and linear blend skinning.

With R_j = exp(pose_j), j = 0 the wrist, and K the kinematic tree (Romero et al. 2017, Eq. 2-4):

    T(beta, theta) = template + shapedirs beta + posedirs vec(R_1..15 - I)
    J(beta)        = J_regressor (template + shapedirs beta)
    V_i            = sum_j weights_ij G_j(theta, J) (T_i - J)

TACO's convention: pose is 48 absolute axis-angle numbers (3 wrist, 45 joints; the mean pose is not
added), and vertices are re-centred, V_world = V - J_0 + hand_trans, so that hand_trans is the wrist
in world metres. MANO's files need a licence of their own and are not part of this project;
`synthetic_hand` makes a stand-in of the same format.
"""

import io
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from syncmv4d_jax.weights import torch_pickle

FILES = ("MANO_LEFT.pkl", "MANO_RIGHT.pkl")
JOINTS = 16
SHAPES = {
    "v_template": (778, 3), "shapedirs": (778, 3, 10), "posedirs": (778, 3, 135),
    "J_regressor": (16, 778), "weights": (778, 16), "kintree_table": (2, 16), "f": (1538, 3),
    "hands_components": (45, 45), "hands_mean": (45,),
}  # fmt: skip


class Model(NamedTuple):
    """One hand: arrays of SHAPES (float64), parents [16] int (-1 for the wrist), faces [1538 3]."""

    template: np.ndarray
    shapedirs: np.ndarray
    posedirs: np.ndarray
    regressor: np.ndarray
    weights: np.ndarray
    parents: np.ndarray
    faces: np.ndarray
    mean_pose: np.ndarray


class Hands(NamedTuple):
    left: Model
    right: Model


class _Inert:
    """Stands for any class of chumpy or scipy: keeps the attributes it was pickled with."""

    def __init__(self, *_):
        pass

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Sparse(_Inert):
    """Stands for the classes of scipy.sparse that SPARSE names."""


class _Columns(_Sparse):
    """By columns: indptr [w + 1], indices (rows), data."""


class _Rows(_Sparse):
    """By rows: indptr [h + 1], indices (columns), data."""


class _Pairs(_Sparse):
    """By entry: coords (rows, columns), or row and col, and data."""


class _Diagonals(_Sparse):
    """data [d w] at offsets [d]: entry j of a diagonal is in column j."""


# Kinds of sparse matrices; scipy has each as a matrix and as an array.
SPARSE = {
    f"{kind}_{form}": cls
    for kind, cls in (("csc", _Columns), ("csr", _Rows), ("coo", _Pairs), ("dia", _Diagonals))
    for form in ("matrix", "array")
}


class _Unpickler(pickle.Unpickler):
    """Builds plain arrays and inert objects; anything else in the file is refused, not called."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "chumpy":
            return _Inert
        if module.startswith("scipy.sparse"):
            if name not in SPARSE:
                raise pickle.UnpicklingError(f"refused {module}.{name}, wanted {sorted(SPARSE)}")
            return SPARSE[name]
        if name == "matrix" and module in ("numpy", "numpy.matrixlib.defmatrix"):
            return torch_pickle.NumpyArray
        if (module, name) in torch_pickle.ALLOWED and module.split(".")[0] in ("numpy", "_codecs"):
            return torch_pickle.ALLOWED[module, name]
        if name == "_reconstructor" and module in ("copy_reg", "copyreg"):
            return _old_object
        if (module, name) in (("__builtin__", "object"), ("builtins", "object")):
            return _Inert
        raise pickle.UnpicklingError(f"refused {module}.{name}: not an array")


def _old_object(kind: type, *_) -> _Inert:
    """How protocols 0 and 1 make an object."""
    if not (isinstance(kind, type) and issubclass(kind, _Inert)):
        raise pickle.UnpicklingError(f"refused an object of {kind}")
    return kind()


def _value(x: Any) -> np.ndarray:
    """The array behind a chumpy object (plain or a Select of another) or a sparse matrix."""
    if isinstance(x, _Sparse):
        return _dense(x)
    if isinstance(x, _Inert):
        attributes = x.__dict__
        if "idxs" in attributes:
            flat = _value(attributes["a"]).ravel()[_value(attributes["idxs"])]
            shape = attributes.get("preferred_shape")
            return flat.reshape(shape) if shape is not None else flat
        return _value(attributes["x"])
    return np.asarray(torch_pickle.read_all(x))


def _dense(x: _Sparse) -> np.ndarray:
    """The entries of a sparse matrix in their places; those that are there twice are added."""
    state = x.__dict__
    dense = np.zeros(tuple(int(n) for n in state["_shape" if "_shape" in state else "shape"]))
    data = _value(state["data"])
    if isinstance(x, _Diagonals):
        columns, offsets = np.arange(data.shape[1]), _value(state["offsets"])
        rows = columns - offsets[:, None]
        kept = (rows >= 0) & (rows < dense.shape[0]) & (columns < dense.shape[1])
        np.add.at(dense, (rows[kept], np.broadcast_to(columns, rows.shape)[kept]), data[kept])
        return dense
    if isinstance(x, _Pairs):
        pairs = state["coords"] if "coords" in state else (state["row"], state["col"])
        rows, columns = (_value(index) for index in pairs)
    else:
        inner = _value(state["indices"])
        outer = np.repeat(
            np.arange(dense.shape[isinstance(x, _Columns)]), np.diff(_value(state["indptr"]))
        )
        rows, columns = (inner, outer) if isinstance(x, _Columns) else (outer, inner)
    np.add.at(dense, (rows, columns), data)
    return dense


def parse(data: bytes, *, where: str) -> Model:
    """Reads a MANO pickle (python 2 or 3, chumpy or plain).

    Args:
      where: named in errors.

    Raises:
      ValueError: not such a pickle, a key missing or of another shape, or it asks for code.
    """
    try:
        file = io.BytesIO(data)
        torch_pickle.check_memo(file)
        raw = _Unpickler(file, encoding="latin1").load()
        if missing := sorted(SHAPES.keys() - dict(raw).keys()):
            raise ValueError(f"no keys {missing}")
        arrays = {key: _value(raw[key]) for key in SHAPES}
    except Exception as error:  # a broken pickle raises whatever its opcodes run into
        raise ValueError(f"{where}: not a MANO pickle ({type(error).__name__}: {error})") from error
    for key, shape in SHAPES.items():
        if arrays[key].shape != shape:
            raise ValueError(f"{where}: {key} wanted {shape}, got {arrays[key].shape}")
        if arrays[key].dtype.kind not in "fiub" or not np.isfinite(arrays[key]).all():
            raise ValueError(f"{where}: {key} holds values that are not finite numbers")
    parents = arrays["kintree_table"][0].astype(np.int64)
    parents[0] = -1
    if (parents[1:] >= np.arange(1, JOINTS)).any() or (parents[1:] < 0).any():
        raise ValueError(f"{where}: kintree_table: a joint's parent must come before it: {parents}")
    if not 0 <= arrays["f"].min() <= arrays["f"].max() < len(arrays["v_template"]):
        raise ValueError(f"{where}: f names vertices that there are not")
    as_float = {key: np.asarray(value, np.float64) for key, value in arrays.items()}
    return Model(
        as_float["v_template"],
        as_float["shapedirs"],
        as_float["posedirs"],
        as_float["J_regressor"],
        as_float["weights"],
        parents,
        arrays["f"].astype(np.int32),
        as_float["hands_mean"],
    )


def load_hands(folder: str | Path, *, flip_left: bool = False) -> Hands:
    """Reads MANO_LEFT.pkl and MANO_RIGHT.pkl of a folder.

    Args:
      flip_left: negate the left hand's x shape directions where both hands share them (smplx issue
        48): right for HOT3D, wrong for TACO, whose annotation did not do it.

    Raises:
      FileNotFoundError: a file is missing. ValueError: see `parse`.
    """
    models = []
    for name in FILES:
        path = Path(folder) / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: not found; get the MANO models from their authors (own licence), or make "
                "synthetic ones with data_prep/make_scenes.py"
            )
        models.append(parse(path.read_bytes(), where=str(path)))
    left, right = models
    if flip_left and np.abs(left.shapedirs[:, 0] - right.shapedirs[:, 0]).sum() < 1:
        shapedirs = left.shapedirs.copy()
        shapedirs[:, 0] *= -1
        left = left._replace(shapedirs=shapedirs)
    return Hands(left, right)


def rotations(axis_angle: np.ndarray) -> np.ndarray:
    """Rodrigues: [... 3] -> [... 3 3]."""
    angle = np.linalg.norm(axis_angle, axis=-1)[..., None, None]
    safe = np.maximum(angle[..., 0], 1e-12)
    x, y, z = np.moveaxis(axis_angle / safe, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def skin(
    model: Model,
    pose: np.ndarray,
    betas: np.ndarray,
    translation: np.ndarray,
    *,
    flat_mean: bool = True,
    recentre: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Poses a hand.

    Args:
      pose: [n 48] axis-angle. betas: [10]. translation: [n 3] metres.
      flat_mean: False adds the model's mean pose to the 45 joint numbers (not TACO).
      recentre: subtract the wrist joint first, as TACO does; False is smplx's convention.

    Returns:
      vertices [n 778 3] and joints [n 16 3], metres.

    Raises:
      ValueError: wrong shapes.
    """
    pose = np.asarray(pose, np.float64)
    if pose.ndim != 2 or pose.shape[1] != 48 or np.shape(betas) != (10,):
        raise ValueError(
            f"mano.skin: wanted pose [n 48], betas [10], got {pose.shape}, {np.shape(betas)}"
        )
    if not flat_mean:
        pose = pose + np.concatenate([np.zeros(3), model.mean_pose])
    shaped = model.template + model.shapedirs @ np.asarray(betas, np.float64)
    rest = model.regressor @ shaped  # [16 3]
    turns = rotations(pose.reshape(len(pose), JOINTS, 3))
    offsets = (turns[:, 1:] - np.eye(3)).reshape(len(pose), 135)
    posed = shaped + np.einsum("pcq,nq->npc", model.posedirs, offsets)
    world_turns, world_joints = [turns[:, 0]], [np.broadcast_to(rest[0], (len(pose), 3))]
    for j in range(1, JOINTS):
        parent = model.parents[j]
        world_turns.append(world_turns[parent] @ turns[:, j])
        step = np.einsum("nij,j->ni", world_turns[parent], rest[j] - rest[parent])
        world_joints.append(world_joints[parent] + step)
    turn, joint = np.stack(world_turns, 1), np.stack(world_joints, 1)  # [n 16 3 3], [n 16 3]
    shift = joint - np.einsum("njab,jb->nja", turn, rest)
    blend = np.einsum("pj,njab->npab", model.weights, turn)
    vertices = np.einsum("npab,npb->npa", blend, posed)
    vertices += np.einsum("pj,nja->npa", model.weights, shift)
    move = np.asarray(translation, np.float64)[:, None]
    move = move - joint[:, :1] if recentre else move
    return vertices + move, joint + move
