"""MANO files: the synthetic model has the format, skinning is its definition, nothing is run."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse
import scipy.spatial.transform
import trimesh

from syncmv4d_jax.data.scenes import hand
from syncmv4d_jax.data.sources import mano


@pytest.fixture(scope="module")
def raw():
    return {side: hand.make(side) for side in ("left", "right")}


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mano")
    hand.write(folder)
    return mano.load_hands(folder)


def test_synthetic_model_has_the_format(raw):
    for side, model in raw.items():
        for key, shape in mano.SHAPES.items():
            assert model[key].shape == shape, key
        weights, regressor = model["weights"], model["J_regressor"].toarray()
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-9)
        np.testing.assert_allclose(regressor.sum(1), 1, atol=1e-9)
        assert weights.min() >= 0 and regressor.min() >= 0 and (regressor > 0).mean() < 0.03
        components = model["hands_components"]
        np.testing.assert_allclose(components @ components.T, np.eye(45), atol=1e-9)
        assert np.abs(model["hands_mean"]).max() > 0.1
        assert 0.08 < np.linalg.norm(regressor[0] @ model["v_template"]) < 0.12, side
        assert np.abs(model["posedirs"]).max() < 0.005
    np.testing.assert_array_equal(raw["left"]["shapedirs"], raw["right"]["shapedirs"])


def test_synthetic_mesh_is_a_surface_with_the_wrist_open(raw):
    mesh = trimesh.Trimesh(raw["right"]["v_template"], raw["right"]["f"], process=False)
    assert mesh.is_winding_consistent and mesh.body_count == 1
    _, uses = np.unique(mesh.edges_sorted, axis=0, return_counts=True)
    assert uses.max() == 2 and (uses == 1).sum() == 16
    mirrored = raw["left"]["v_template"] * [-1, 1, 1]
    np.testing.assert_allclose(mirrored, raw["right"]["v_template"])


def test_rotations_agree_with_scipy():
    turns = np.random.default_rng(0).normal(size=(20, 3)) * 2
    expected = scipy.spatial.transform.Rotation.from_rotvec(turns).as_matrix()
    np.testing.assert_allclose(mano.rotations(turns), expected, atol=1e-12)
    np.testing.assert_allclose(mano.rotations(np.zeros((1, 3))), np.eye(3)[None])


def test_skinning_puts_the_wrist_at_the_translation(hands):
    rng = np.random.default_rng(1)
    pose, at = 0.5 * rng.normal(size=(3, 48)), rng.normal(size=(3, 3))
    betas = rng.normal(size=10)
    vertices, joints = mano.skin(hands.right, pose, betas, at)
    assert vertices.shape == (3, 778, 3) and joints.shape == (3, 16, 3)
    np.testing.assert_allclose(joints[:, 0], at, atol=1e-12)
    # A turn of the wrist turns everything about it.
    turned = pose.copy()
    turned[:, :3] = 0
    still, _ = mano.skin(hands.right, turned, betas, at)
    expected = np.einsum("nab,npb->npa", mano.rotations(pose[:, :3]), still - at[:, None])
    np.testing.assert_allclose(vertices - at[:, None], expected, atol=1e-12)


def test_skinning_by_the_definition_one_vertex_at_a_time(hands):
    rng = np.random.default_rng(2)
    pose, betas, model = 0.6 * rng.normal(size=48), rng.normal(size=10), hands.right
    shaped = model.template + sum(betas[i] * model.shapedirs[:, :, i] for i in range(10))
    rest, turns = model.regressor @ shaped, mano.rotations(pose.reshape(16, 3))
    offset = np.concatenate([(r - np.eye(3)).ravel() for r in turns[1:]])
    posed = shaped + sum(offset[i] * model.posedirs[:, :, i] for i in range(135))
    world = []
    for j in range(16):
        local = np.eye(4)
        local[:3, :3] = turns[j]
        local[:3, 3] = rest[j] - (0 if j == 0 else rest[model.parents[j]])
        world.append(local if j == 0 else world[model.parents[j]] @ local)
    for p in (0, 300, 500, 777):
        blend = np.zeros(3)
        for j in range(16):
            rotated = world[j][:3, :3] @ (posed[p] - rest[j]) + world[j][:3, 3]
            blend += model.weights[p, j] * rotated
        got, _ = mano.skin(model, pose[None], betas, np.zeros((1, 3)), recentre=False)
        np.testing.assert_allclose(got[0, p], blend, atol=1e-10)


def test_wrong_conventions_show(hands):
    """What TACO does not do moves the surface by far more than a millimetre."""
    pose, at = np.zeros((1, 48)), np.zeros((1, 3))
    vertices, _ = mano.skin(hands.right, pose, np.zeros(10), at)
    bent, _ = mano.skin(hands.right, pose, np.zeros(10), at, flat_mean=False)
    assert np.linalg.norm(bent - vertices, axis=-1).max() > 0.01
    shifted, _ = mano.skin(hands.right, pose, np.zeros(10), at, recentre=False)
    assert np.linalg.norm(shifted - vertices, axis=-1).min() > 0.08


def test_flip_of_the_left_hand(hands, tmp_path):
    hand.write(tmp_path)
    flipped = mano.load_hands(tmp_path, flip_left=True)
    np.testing.assert_array_equal(flipped.left.shapedirs[:, 0], -hands.left.shapedirs[:, 0])
    np.testing.assert_array_equal(flipped.right.shapedirs, hands.right.shapedirs)
    betas = np.eye(10)[1] * 2
    arguments = np.zeros((1, 48)), betas, np.zeros((1, 3))
    right, left = (mano.skin(h, *arguments)[0] for h in (flipped.right, flipped.left))
    np.testing.assert_allclose(left * [-1, 1, 1], right, atol=1e-12)
    unflipped, _ = mano.skin(hands.left, *arguments)
    assert np.abs(unflipped - left).max() > 0.01


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_reads_every_protocol(raw, protocol):
    model = mano.parse(pickle.dumps(raw["right"], protocol=protocol), where="test")
    np.testing.assert_array_equal(model.template, raw["right"]["v_template"])
    np.testing.assert_array_equal(model.regressor, raw["right"]["J_regressor"].toarray())
    assert model.parents.tolist() == hand.PARENTS


def test_reads_chumpy_without_chumpy(raw, monkeypatch):
    """MANO's own files hold chumpy objects: a plain array, and a selection of another one's."""
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    for name, kind in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select")):
        module = types.ModuleType(name)
        setattr(module, kind, type(kind, (), {"__module__": name}))
        monkeypatch.setitem(sys.modules, name, module)
    plain = sys.modules["chumpy.ch"].Ch()
    plain.x = raw["right"]["shapedirs"][:, :, ::-1]
    select = sys.modules["chumpy.reordering"].Select()
    select.a, select.preferred_shape = plain, (778, 3, 10)
    select.idxs = np.arange(778 * 30).reshape(778, 3, 10)[:, :, ::-1].ravel()
    data = pickle.dumps(raw["right"] | {"shapedirs": select}, protocol=2)
    monkeypatch.delitem(sys.modules, "chumpy.ch")
    monkeypatch.delitem(sys.modules, "chumpy.reordering")
    model = mano.parse(data, where="test")
    np.testing.assert_array_equal(model.shapedirs, raw["right"]["shapedirs"])


class _Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def test_runs_nothing(raw, tmp_path):
    mark = tmp_path / "mark"
    for evil in (
        _Evil(os.mkdir, str(mark)),
        _Evil(eval, f"open({str(mark)!r}, 'w')"),
        _Evil(np.save, str(mark), np.zeros(1)),
        _Evil(getattr, "text", "upper"),
    ):
        data = pickle.dumps(raw["right"] | {"v_template": evil}, protocol=2)
        with pytest.raises(ValueError, match="refused"):
            mano.parse(data, where="evil.pkl")
    assert not list(tmp_path.iterdir())


def test_broken_files(raw, tmp_path):
    whole = pickle.dumps(raw["right"], protocol=2)
    model = raw["right"]
    cases = {
        "not a MANO pickle": whole[:5000],
        r"no keys \['weights'\]": {k: v for k, v in model.items() if k != "weights"},
        r"wanted \(778, 3\), got \(700, 3\)": model | {"v_template": np.zeros((700, 3))},
        "v_template holds values": model | {"v_template": np.full((778, 3), np.nan)},
        "f names vertices": model | {"f": model["f"] + 1},
        "parent must come before": model | {"kintree_table": model["kintree_table"] + 5},
    }
    for message, case in cases.items():
        data = case if isinstance(case, bytes) else pickle.dumps(case, protocol=2)
        with pytest.raises(ValueError, match=message):
            mano.parse(data, where="x.pkl")
    with pytest.raises(FileNotFoundError, match="MANO_LEFT.pkl: not found"):
        mano.load_hands(tmp_path)


SPARSE = [
    f"{kind}_{form}" for kind in ("csc", "csr", "coo", "dia") for form in ("matrix", "array")
]  # fmt: skip


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("kind", ["ndarray", "matrix", "big endian", "transposed", *SPARSE])
def test_a_regressor_of_every_form_is_read_equal(raw, kind, protocol):
    dense = raw["right"]["J_regressor"].toarray()
    if kind in SPARSE:
        given = getattr(scipy.sparse, kind)(dense)
    elif kind == "big endian":
        given = dense.astype(">f8")
    elif kind == "transposed":
        given = scipy.sparse.csc_matrix(np.ascontiguousarray(dense.T)).T  # shares its arrays
    else:
        given = {"ndarray": np.asfortranarray, "matrix": np.matrix}[kind](dense)
    data = pickle.dumps(raw["right"] | {"J_regressor": given}, protocol)
    # Names of protocols below 4 do not count their bytes: those of numpy 1 can take their place.
    names = [b"numpy._core", b"numpy.core"] if protocol < 4 else [b"numpy._core"]
    for name in names:
        model = mano.parse(data.replace(b"numpy._core", name), where=kind)
        np.testing.assert_array_equal(model.regressor, dense)


def test_entries_that_are_there_twice_are_added(raw):
    dense = raw["right"]["J_regressor"].toarray()
    rows, columns = np.nonzero(dense)
    halves = np.concatenate([0.25 * dense[rows, columns], 0.75 * dense[rows, columns]])
    places = np.tile(rows, 2), np.tile(columns, 2)
    given = scipy.sparse.coo_matrix((halves, places), dense.shape)
    model = mano.parse(pickle.dumps(raw["right"] | {"J_regressor": given}, 2), where="x")
    np.testing.assert_allclose(model.regressor, dense, atol=1e-15)


@pytest.mark.parametrize("kind", ["lil_matrix", "dok_matrix", "bsr_matrix"])
def test_other_sparse_forms_are_refused_by_their_name(raw, kind):
    given = getattr(scipy.sparse, kind)(raw["right"]["J_regressor"].toarray())
    with pytest.raises(ValueError, match=f"refused scipy.sparse.*{kind}"):
        mano.parse(pickle.dumps(raw["right"] | {"J_regressor": given}, 2), where="x")


def test_skin_names_wrong_shapes(hands):
    with pytest.raises(ValueError, match=r"wanted pose \[n 48\], betas \[10\], got \(48,\)"):
        mano.skin(hands.right, np.zeros(48), np.zeros(10), np.zeros((1, 3)))
