"""Machines by name: which chips, how many, how fast, and the meshes worth trying on them.

A TPU type counts as its cloud name does: v5p-N has N / 2 chips of one device each, v5e-N and v6e-N
have N chips, tpu7x-N has N / 2 chips of two devices each. "2xv5e-64" is two slices joined by the
data-centre network. Of GPUs h100-N is N of them, one host up to 8, hosts of 8 from there. The
figures are the vendors' published peaks, per device.
"""

import dataclasses
import re
from collections.abc import Mapping

from syncmv4d_jax.machines.mesh import AXES

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
      hbm: usable bytes of memory.
      flops: bf16 multiply-add peak, FLOP/s.
      bandwidth: of memory, bytes/s.
      link: of the fast interconnect, all links of a device in one direction, bytes/s.
      network: of the network between slices, a device's share, bytes/s.
      single: of `flops`, what products of float32 get as XLA computes them by default: one pass
        of bfloat16 on TPU, TF32 on GPU.
    """

    hbm: float
    flops: float
    bandwidth: float
    link: float
    network: float = 6.25e9
    single: float = 1.0

    @property
    def float32(self) -> float:
        """Products of float32, FLOP/s."""
        return self.single * self.flops


# Usable memory is what the compiler allows: a little below the nominal size (v4: as v6e's, whose
# nominal size it has). Of a GPU it is what XLA is told to reserve (XLA_PYTHON_CLIENT_MEM_FRACTION,
# 0.75 unless set), here RESERVED of all.
RESERVED = 0.92


def _card(gib: float, flops: float, bandwidth: float, link: float, network: float = 6.25e9) -> Chip:
    """A GPU: float32 in TF32, at half of bfloat16's rate on all of them."""
    return Chip(RESERVED * gib * GIB, flops, bandwidth, link, network, single=0.5)


CHIPS = {
    "v5e": Chip(15.75 * GIB, 197e12, 819e9, 200e9, 3.1e9),
    "v4": Chip(31.25 * GIB, 275e12, 1228e9, 300e9),
    "v5p": Chip(95.74 * GIB, 459e12, 2765e9, 600e9),
    "v6e": Chip(31.25 * GIB, 918e12, 1640e9, 448e9),
    "tpu7x": Chip(94.75 * GIB, 1153e12, 3690e9, 300e9),
    "a100": _card(79.26, 312e12, 2039e9, 300e9, 25e9),
    "h100": _card(79.11, 989e12, 3350e9, 450e9, 50e9),
    "h200": _card(141.0, 989e12, 4800e9, 450e9, 50e9),
    "b200": _card(178.4, 2250e12, 7672e9, 900e9, 50e9),
    "l4": _card(21.96, 121e12, 300e9, 32e9),
    "4090": _card(23.65, 165e12, 1008e9, 32e9),
    "4080": _card(15.61, 97.5e12, 716.8e9, 32e9),
}
# What large programs reach of these: assumed, and what the difference between "paper s" and
# "expected s" in a plan is. Dense language models report 0.6 to 0.65 of TPUs' products (MaxText).
REACH = {"flops": 0.65, "bandwidth": 0.8, "link": 0.75, "network": 0.75}
# What jax calls a device -> which chip it is, or a half of (TPU7x); the longest beginning counts.
KINDS = {
    "TPU v4": "v4", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v5 lite": "v5e", "TPU v5e": "v5e",
    "TPU v6 lite": "v6e", "TPU v6e": "v6e", "TPU7x": "tpu7x", "NVIDIA A100": "a100",
    "NVIDIA A800": "a100", "NVIDIA H100": "h100", "NVIDIA H200": "h200", "NVIDIA B200": "b200",
    "NVIDIA L4": "l4", "NVIDIA GeForce RTX 4090": "4090",
    "NVIDIA GeForce RTX 4080": "4080",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine.

    Attributes:
      shape: the compiler's name of one slice of a TPU; of GPUs "domains x hosts x GPUs of a host".
      devices: of all slices or hosts.
      slices: of a TPU, joined by the network.
      hosts: of GPUs, joined by the network.
    """

    name: str
    chip: str
    shape: str
    devices: int
    slices: int = 1
    hosts: int = 1

    @property
    def near(self) -> int:
        """Devices that fast links join; 0 where they join all."""
        parts = max(self.slices, self.hosts)
        return self.devices // parts if parts > 1 else 0


def _tpu(name: str, shape: str, devices: int, slices: int = 1) -> Topology:
    return Topology(name, shape.split(":")[0], shape, devices * slices, slices)


def _gpus(name: str) -> Topology | None:
    """The GPUs that "h100-64" names, None where it names none."""
    chip, _, count = name.rpartition("-")
    if chip not in CARDS or not count.isdecimal() or int(count) not in HOSTS and int(count) % 8:
        return None
    devices = int(count)
    hosts = max(devices // 8, 1)
    return Topology(name, chip, f"1x{hosts}x{devices // hosts}", devices, hosts=hosts)


CARDS = tuple(name for name, chip in CHIPS.items() if chip.single < 1)
HOSTS = (1, 2, 4, 8)  # GPUs of one host
LARGEST = 1024  # of GPUs, as far as times on paper go

TOPOLOGIES = {
    topology.name: topology
    for topology in (
        _tpu("v5e-4", "v5e:2x2", 4),
        _tpu("v5e-8", "v5e:2x4", 8),
        _tpu("v5e-64", "v5e:8x8", 64),
        _tpu("v5e-256", "v5e:16x16", 256),
        _tpu("2xv5e-64", "v5e:8x8", 64, 2),
        _tpu("v5p-8", "v5p:2x2x1", 4),
        _tpu("v5p-16", "v5p:2x2x2", 8),
        _tpu("v5p-32", "v5p:2x2x4", 16),
        _tpu("v5p-128", "v5p:4x4x4", 64),
        _tpu("v5p-384", "v5p:4x4x12", 192),
        _tpu("v5p-512", "v5p:4x8x8", 256),
        _tpu("v5p-2048", "v5p:8x8x16", 1024),
        _tpu("2xv5p-32", "v5p:2x2x4", 16, 2),
        _tpu("v6e-64", "v6e:8x8", 64),
        _tpu("v6e-256", "v6e:16x16", 256),
        _tpu("tpu7x-16", "tpu7x:2x2x2", 16),
    )
}
LOCAL = "local"  # the accelerators of this machine
NAMES = (
    f"{', '.join(sorted(TOPOLOGIES))}; of GPUs {', '.join(f'{name}-N' for name in CARDS)} with N "
    f"1, 2, 4, 8 or a multiple of 8; {LOCAL!r} for this machine's accelerators"
)


def find(name: str) -> Topology:
    """Returns the topology called `name`.

    Raises:
      ValueError: an unknown name; lists the known ones.
    """
    if found := TOPOLOGIES.get(name) or _gpus(name):
        return found
    raise ValueError(
        f"config.plan.topologies: {name!r} is unknown; the names are {NAMES}. Another GPU is a row "
        "of CHIPS and KINDS in machines/planning/pods.py and one of SPECS in gpus.py beside it"
    )


def chip_of(kind: str) -> Chip:
    """Returns the figures of a device by its `device_kind`, e.g. "NVIDIA H200".

    Raises:
      ValueError: a device without figures.
    """
    if chip := known(kind):
        return chip
    raise ValueError(f"plan: no figures for a {kind!r}; there are some for {', '.join(CHIPS)}")


def known(kind: str) -> Chip | None:
    """Returns the figures of a chip by its name here or its `device_kind`, None without figures."""
    if kind in CHIPS:
        return CHIPS[kind]
    names = [name for name in KINDS if re.match(rf"{name}(?!\w)", kind)]  # an L40S is no L4
    return CHIPS[KINDS[max(names, key=len)]] if names else None


def reached(chip: Chip) -> Chip:
    """Returns a chip's figures as large programs reach them."""
    return dataclasses.replace(chip, **{name: x * getattr(chip, name) for name, x in REACH.items()})


def larger(topology: Topology) -> list[str]:
    """Returns names of machines with more devices of the same chip."""
    if topology.chip in CARDS:
        return [f"{topology.chip}-{n}" for n in (*HOSTS, 64) if n > topology.devices]
    return [
        other.name
        for other in TOPOLOGIES.values()
        if other.chip == topology.chip and other.devices > topology.devices
    ]


def most(chip: str) -> int:
    """Returns the devices of the largest machine of a chip here; of GPUs LARGEST, 0 of others."""
    if chip in CARDS:
        return LARGEST
    known = (x.devices for x in TOPOLOGIES.values() if x.chip == chip and x.slices == 1)
    return max(known, default=0)


def meshes(
    devices: int, *, slices: int = 1, hosts: int = 1, views: int, heads: int, training: bool
) -> list[dict[str, int]]:
    """Returns the meshes worth planning: sequence shards by Ulysses, the rest to the batch.

    Training fills `fsdp`, and `data` across slices; over several hosts also `data` across these,
    so that weights stay within one. Sampling fills `data`, so that each group works on its own
    sample.

    Args:
      devices: of all slices.
      hosts: of GPUs.
      views: of a sample; the view axis is 1 or all of them.
      heads: of attention, which sequence x view must divide.
      training: see above.
    """
    found = []
    inner = devices // slices
    for view in sorted({1, views}):
        for sequence in (1, 2, 4, 8):
            ways = view * sequence
            if inner % ways or heads % ways:
                continue
            rest = inner // ways
            shared = {slices, slices * hosts} if training and rest % hosts == 0 else {slices}
            for data in sorted(shared):
                sizes = (data, devices // ways // data) if training else (slices * rest, 1)
                found.append(dict(zip(AXES, (*sizes, view, sequence), strict=True)))
    return found


def show(mesh: Mapping[str, int]) -> str:
    """Returns "2,8,1,8": data, fsdp, view, sequence."""
    return ",".join(str(mesh.get(axis, 1)) for axis in AXES)
