"""How long a compiled program takes on paper: what it does, in the order in which it does it.

XLA's text is the schedule. An instruction holds the device for

    max(FLOPs / rate, bytes read and written / bandwidth) + LAUNCH,

a collective the links for max(sent / link, sent across / network) + HOP, one after the other.
What is split into a start and a done runs beside what stands between the two; where the done comes
before the links are through, the device waits. A loop's body counts as often as it runs, its second
turn for all that follow. Of a conditional the longest branch counts.

Left out: what lies in a TPU's vector memory instead of its main memory, the host, clocks that
sink under load, what a kernel reaches of the chip's peak (`pods.REACH`). Kernels that XLA does not
see into count by their operands: attention as its products, others by their bytes.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from syncmv4d_jax.machines.planning import hlo, pods
from syncmv4d_jax.machines.planning.hlo import Instruction

LAUNCH = 2e-6  # seconds between kernels that follow each other: a guess
HOP = 10e-6  # seconds until a collective's first byte: a guess
# Values that are named, or made where they are read.
FREE = hlo.NAMES_ONLY | {"partition-id", "replica-id", "copy-start", "recv"}
ALIKE = {"bitcast", "reshape", "copy", "convert"}  # what a slice may be read through
FLOATS = {"bf16", "f16", "f32"}
SLICES = {"dynamic-slice", "slice", "gather"}
FORWARD, BACKWARD = 4.0, 10.0  # FLOPs of attention for each logit and channel of a head


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Seconds of a program.

    Attributes:
      seconds: all of it.
      products: of instructions that their FLOPs hold; memory: of those that their bytes hold.
      link: that the links are busy; waited: of these, what nothing runs beside.
      flops: of the products, as often as they run.
    """

    seconds: float = 0.0
    products: float = 0.0
    memory: float = 0.0
    link: float = 0.0
    waited: float = 0.0
    flops: float = 0.0

    @property
    def hidden(self) -> float:
        """Share of the links' time that something runs beside; 1 where nothing is sent."""
        return max(1.0 - self.waited / self.link, 0.0) if self.link else 1.0


class Copies(NamedTuple):
    """Of the model, one after the other: `devices` of each; `made`, that a program was compiled
    for; `wanted` instead of these.
    """

    devices: int
    made: int
    wanted: int

    def widened(self, one: hlo.Collective) -> hlo.Collective | None:
        """Returns a collective among as many copies as are wanted, None where it has one device.

        What a device gives to a sum, or has of what is exchanged, stays as it is; of what is
        gathered from other copies each has its own part, so that the whole grows.
        """
        if one.copies == 1 or one.kind == "collective-permute":
            return one
        group = one.group // one.copies * self.wanted * one.copies // self.made
        if group <= 1:
            return None
        ratio = (group - 1) / (one.group - 1)
        if one.kind != "all-gather":
            ratio *= one.group / group
        across = one.across and group > one.local
        return dataclasses.replace(one, group=group, sent=ratio * one.sent, across=across)


class Cost(NamedTuple):
    """half, single: FLOPs of products of 16 bits and of float32; moved: bytes."""

    half: float
    single: float
    moved: float


class Program:
    """A compiled program's text, read once, for any chip."""

    def __init__(self, text: str):
        self.computations, self.entry = hlo.parse(text)
        self.costs: dict[tuple[str, str], Cost] = {}

    def on(
        self, chip: pods.Chip, *, slice_devices: int = 0, copies: Copies | None = None
    ) -> Timeline:
        """Returns the program's timeline.

        Args:
          chip: its rates are taken as they are: peaks, or what is reached of them.
          slice_devices: devices that the fast links join, 0 for all.
          copies: of the model, where they are to be others than the program was compiled for.
        """
        run = _Run(self, chip, slice_devices, copies)
        run.walk(self.entry)
        run.wait(run.free)
        return Timeline(**{name: getattr(run, name) for name in FIELDS})

    def cost(self, where: str, line: Instruction, lines: dict[str, Instruction]) -> Cost:
        """What an instruction of the computation `where` does."""
        if (where, line.name) not in self.costs:
            half = single = 0.0
            for count, of_float32 in _products(line, lines, self.computations):
                half, single = half + count * (not of_float32), single + count * of_float32
            moved = _moved(line, lines, self.computations)
            self.costs[where, line.name] = Cost(half, single, moved)
        return self.costs[where, line.name]


FIELDS = tuple(field.name for field in dataclasses.fields(Timeline))


class _Run:
    """Walks a program; its attributes are those of a `Timeline` so far.

    free: when the links are through with all that they were given; done: {start: when it is}.
    """

    def __init__(self, program: Program, chip: pods.Chip, near: int, copies: Copies | None):
        self.program, self.chip, self.near, self.copies = program, chip, near, copies
        self.computations = program.computations
        self.seconds = self.products = self.memory = self.link = self.waited = self.flops = 0.0
        self.free, self.done = 0.0, dict[str, float]()

    def walk(self, name: str) -> None:
        """Runs a computation's instructions in their order."""
        lines = {line.name: line for line in self.computations[name]}
        for line in lines.values():
            called = [other for other in hlo.called(line) if other in self.computations]
            if line.op == "while":
                self.loop(called, hlo.trips(line, self.computations))
            elif line.op == "conditional":
                self.branch(called)
            elif line.op == "call":
                self.walk(called[0])
            elif line.op.endswith("-done") and line.op != "copy-done":
                self.wait(self.done.get(_operands(line)[0], self.free))
            elif sent := self.sends(line, called):
                self.send(line, sent)
            elif line.op not in FREE and "AllocateBuffer" not in line.rest:
                self.compute(self.program.cost(name, line, lines))
                if line.op == "fusion" and self.holds(called, "AsyncCollectiveDone"):
                    self.wait(self.free)

    def loop(self, called: Sequence[str], times: int) -> None:
        """Two turns; the others take as long as the second."""
        for turn in range(min(times, 2)):
            before = [getattr(self, name) for name in FIELDS]
            for name in called:
                self.walk(name)
            if turn == 1:
                idle = self.free - self.seconds
                for name, x in zip(FIELDS, before, strict=True):
                    now = getattr(self, name)
                    setattr(self, name, now + (times - 2) * (now - x))
                self.free = self.seconds + idle

    def branch(self, called: Sequence[str]) -> None:
        """The branch that takes the longest."""
        names, ends = (*FIELDS, "free"), []
        before = {name: getattr(self, name) for name in names}
        for other in called:
            vars(self).update(before)
            self.walk(other)
            ends.append({name: getattr(self, name) for name in names})
        vars(self).update(max(ends, key=lambda end: end["seconds"], default=before))

    def sends(self, line: Instruction, called: Sequence[str]) -> list[hlo.Collective]:
        """The collectives that an instruction begins; a fusion may only go on with one."""
        if line.op == "fusion" and not self.holds(called, "AsyncCollectiveStart"):
            return []
        if self.copies is None:
            return hlo.begun(line, self.computations, self.near)
        found = hlo.begun(line, self.computations, self.near, self.copies.devices)
        return [one for one in map(self.copies.widened, found) if one is not None]

    def holds(self, called: Sequence[str], target: str) -> bool:
        """Whether a kernel of this name is in what an instruction calls."""
        return any(target in line.rest for name in called for line in self.computations[name])

    def send(self, line: Instruction, sent: Sequence[hlo.Collective]) -> None:
        """Gives the links something to do; waits for it where it is not split."""
        for one in sent:
            across = one.sent / one.local / self.chip.network if one.across else 0.0
            inside = one.sent / self.chip.link if one.local > 1 or not one.across else 0.0
            took = max(inside, across) + HOP
            self.link += took
            self.free = max(self.free, self.seconds) + took
        self.done[line.name] = self.free
        beside = line.op in ("fusion", "send") or line.op.endswith("-start")
        if not beside or '"is_sync":true' in line.rest:
            self.wait(self.free)

    def wait(self, until: float) -> None:
        stood = max(until - self.seconds, 0.0)
        self.waited += stood
        self.seconds += stood

    def compute(self, cost: Cost) -> None:
        """One kernel."""
        products = cost.half / self.chip.flops + cost.single / self.chip.float32
        read = cost.moved / self.chip.bandwidth
        took = max(products, read) + LAUNCH
        self.seconds += took
        self.flops += cost.half + cost.single
        if products > read:
            self.products += took
        else:
            self.memory += took


def _operands(line: Instruction) -> list[str]:
    """Names of what an instruction reads."""
    depth, end = 1, len(line.rest)
    for i, letter in enumerate(line.rest):
        depth += (letter in "([{") - (letter in ")]}")
        if not depth:
            end = i
            break
    return re.findall(r"%([\w.\-]+)", line.rest[:end])


def _products(
    line: Instruction,
    lines: dict[str, Instruction],
    computations: dict[str, list[Instruction]],
) -> Iterator[tuple[float, bool]]:
    """Yields (FLOPs, of float32 operands) of all products in an instruction and what it calls."""
    given = [lines[name] for name in _operands(line) if name in lines]
    if line.op in ("dot", "convolution") and len(given) > 1:
        out = math.prod(line.shapes[0][1])
        single = all(one.shapes[0][0] == "f32" for one in given[:2])
        yield 2.0 * out * _inner(line, given), single
    elif line.op == "custom-call":
        yield _kernel(line, given), False
    for name in hlo.called(line) if line.op in ("fusion", "async-start", "map") else ():
        inside = {one.name: one for one in computations.get(name, [])}
        for one in inside.values():
            yield from _products(one, inside, computations)


def _inner(line: Instruction, given: Sequence[Instruction]) -> float:
    """How many products are summed for one value of the result."""
    left, right = (one.shapes[0][1] for one in given[:2])
    if line.op == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
        dims = [int(x) for x in found.group(1).split(",") if x] if found else []
        return math.prod(left[x] for x in dims)
    labels = re.search(r"dim_labels=\w+_(\w+)->", line.rest)
    features = right[labels.group(1).index("o")] if labels else 1
    return math.prod(right) / features


def _kernel(line: Instruction, given: Sequence[Instruction]) -> float:
    """FLOPs of a kernel that XLA does not see into, 0 of one that is not known."""
    target = re.search(r'custom_call_target="([^"]*)"', line.rest)
    name = target.group(1) if target else ""
    if name.startswith("__cudnn$fmha"):  # logits are told, their channels are the queries' last
        logits = re.search(r'"dimensions": ?\[([^\]]*)\]', line.rest)
        count = math.prod(int(x) for x in re.findall(r"\d+", logits.group(1))) if logits else 0
        each = BACKWARD if "Backward" in name else FORWARD
        return each * count * given[0].shapes[0][1][-1]
    if name.startswith("__cudnn$conv"):
        return 2.0 * math.prod(line.shapes[0][1]) * _inner(line, given)
    if name.startswith("__cublas"):
        left, right, out = (
            math.prod(x) for x in (given[0].shapes[0][1], given[1].shapes[0][1], line.shapes[0][1])
        )
        return 2.0 * math.sqrt(float(left) * right * out)  # (sk)(kd)(sd) = (skd)^2
    called = line.name + line.rest  # its metadata may begin on another line
    if name == "tpu_custom_call" and "splash" in called and len(given) > 1:
        # Tables of which tiles to leave out come first, of integers.
        shapes = [one.shapes[0] for one in given if one.shapes]
        arrays = [dims for kind, dims in shapes if kind in FLOATS and len(dims) > 2]
        queries, keys = arrays[:2]
        each = BACKWARD if "dkv" in called else FORWARD
        return each * math.prod(queries) * keys[-2]
    return 0.0


def _moved(
    line: Instruction,
    lines: dict[str, Instruction],
    computations: dict[str, list[Instruction]],
) -> float:
    """Bytes that an instruction reads and writes; of what it slices, the slices."""
    given = [lines[name] for name in _operands(line) if name in lines]
    whole = [sum(map(hlo.size, one.shapes)) for one in given]
    written = sum(map(hlo.size, line.shapes))
    if line.op in SLICES:
        return 2 * written
    if line.op == "dynamic-update-slice":
        return 2 * whole[1]
    inside = computations.get(next(iter(hlo.called(line)), ""), []) if line.op == "fusion" else []
    if not inside:
        return written + sum(whole)
    names = {one.name: one for one in inside}
    users: dict[str, list[Instruction]] = {}
    for one in inside:
        for name in _operands(one):
            users.setdefault(name, []).append(one)
    read = 0.0
    for one in inside:
        if one.op == "parameter":
            index = int(one.rest.split(")")[0])
            read += min(_read(one, users), whole[index] if index < len(whole) else math.inf)
    spared = sum(
        hlo.size(one.shapes[0]) - hlo.size(names[_operands(one)[1]].shapes[0])
        for one in inside
        if one.op == "dynamic-update-slice" and _operands(one)[1] in names
    )
    return read + max(written - spared, 0.0)


def _read(value: Instruction, users: dict[str, list[Instruction]]) -> float:
    """Bytes of a fusion's operand that it reads: nothing of what is updated in place."""
    total = 0.0
    for user in users.get(value.name, []):
        if user.op in SLICES:
            total += sum(map(hlo.size, user.shapes))
        elif user.op == "dynamic-update-slice" and _operands(user)[0] == value.name:
            continue
        elif user.op in ALIKE:
            total += _read(user, users)
        else:
            return sum(map(hlo.size, value.shapes))
    return total
