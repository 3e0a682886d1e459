"""Times on paper, of programs as XLA prints them: an instruction, a loop, what runs beside what."""

import pytest

from syncmv4d_jax.machines.planning import pods, schedule
from syncmv4d_jax.machines.planning.schedule import HOP, LAUNCH

CHIP = pods.Chip(hbm=1e9, flops=1e12, bandwidth=1e9, link=1e9, network=1e8, single=0.5)
PRODUCT = 2 * 1000**3 / 1e12  # seconds of x @ w below, more than its bytes take
GATHER = 8e6 * 3 / 4 / 1e9  # seconds that the links are busy with a gather of four


def program(body, *, more=""):
    return f"""HloModule m, is_scheduled=true
{more}
ENTRY %main (x: bf16[1000,1000], p: f32[500,1000]) -> bf16[1000,1000] {{
  %x = bf16[1000,1000]{{1,0}} parameter(0)
  %w = bf16[1000,1000]{{1,0}} parameter(1)
  %p = f32[500,1000]{{1,0}} parameter(2)
{body}
}}
"""


DOT = (
    "  %{} = bf16[1000,1000]{{1,0}} dot(%x, %w), lhs_contracting_dims={{1}}, "
    "rhs_contracting_dims={{0}}"
)
START = (
    "  %g = (f32[500,1000]{1,0}, f32[2000,1000]{1,0}) all-gather-start(%p), "
    "replica_groups=[1,4]<=[4], dimensions={0}"
)
DONE = "  %h = f32[2000,1000]{1,0} all-gather-done(%g)"


def of(*lines, near=0, more=""):
    return schedule.Program(program("\n".join(lines), more=more)).on(CHIP, slice_devices=near)


def near(seconds):
    return pytest.approx(seconds, rel=1e-6)


def test_an_instruction_takes_what_its_flops_or_its_bytes_take():
    found = of(DOT.format("a"))
    assert found.flops == 2e9
    assert found.memory == found.seconds == near(6e6 / 1e9 + LAUNCH) and found.products == 0
    fast = pods.Chip(1e9, 1e12, 1e15, 1e9)
    found = schedule.Program(program(DOT.format("a"))).on(fast)
    assert found.products == found.seconds == near(PRODUCT + LAUNCH) and found.memory == 0
    single = program(DOT.format("a").replace("bf16", "f32")).replace("bf16", "f32")
    slow = schedule.Program(single).on(pods.Chip(1e9, 1e12, 1e15, 1e9, single=0.5))
    assert slow.seconds == near(2 * PRODUCT + LAUNCH)


def test_what_stands_between_start_and_done_runs_beside():
    one = 6e6 / 1e9 + LAUNCH
    beside = of(START, DOT.format("a"), DONE)
    assert beside.link == near(GATHER + HOP) and beside.seconds == near(max(one, GATHER + HOP))
    assert beside.waited == near(max(GATHER + HOP - one, 0.0)) and beside.hidden > 0.9
    behind = of(START, DONE, DOT.format("a"))
    assert behind.seconds == near(one + GATHER + HOP) and behind.hidden == 0
    at_once = START.replace("dimensions={0}", 'dimensions={0}, backend_config={"is_sync":true}')
    assert of(at_once, DOT.format("a"), DONE) == behind
    whole = "  %h = f32[2000,1000]{1,0} all-gather(%p), replica_groups=[1,4]<=[4], dimensions={0}"
    assert of(whole, DOT.format("a")).seconds == near(behind.seconds)
    wrapped = """
%inner (q: f32[500,1000]) -> f32[2000,1000] {
  %q = f32[500,1000]{1,0} parameter(0)
  ROOT %r = f32[2000,1000]{1,0} all-gather(%q), replica_groups=[1,4]<=[4], dimensions={0}
}
"""
    start = "  %g = ((f32[500,1000]), f32[2000,1000]) async-start(%p), calls=%inner"
    done = "  %h = f32[2000,1000]{1,0} async-done(%g), calls=%inner"
    assert of(start, DOT.format("a"), done, more=wrapped) == beside
    assert of(DOT.format("a")).hidden == 1  # nothing is sent


def test_what_crosses_hosts_is_shared_by_the_devices_of_one():
    both, far = of(START, DONE, near=2), of(START, DONE, near=1)
    assert both.link == near(GATHER * 10 / 2 + HOP) and far.link == near(GATHER * 10 + HOP)


WIDE = {
    "all-reduce": ("f32[2000,1000]", 2 * 8e6),
    "reduce-scatter": ("f32[500,1000]", 8e6),
    "all-to-all": ("f32[2000,1000]", 8e6),
}


@pytest.mark.parametrize("kind", WIDE)
def test_more_copies_of_the_model_send_round_a_longer_ring(kind):
    """Two copies of two devices each, summed in groups of four: what eight groups' devices send."""
    shape, whole = WIDE[kind]
    line = f"  %g = {shape}{{1,0}} {kind}(%p), replica_groups=[1,4]<=[4], dimensions={{0}}"
    text = schedule.Program(program(line))

    def link(wanted, slice_devices=0):
        copies = schedule.Copies(devices=2, made=2, wanted=wanted)
        return text.on(CHIP, slice_devices=slice_devices, copies=copies).link

    assert link(2) == near(text.on(CHIP).link) == near(whole * 3 / 4 / 1e9 + HOP)
    assert link(8) == near(whole * 15 / 16 / 1e9 + HOP)
    assert link(1) == near(whole / 2 / 1e9 + HOP)  # the two of a copy are left
    assert link(2, 2) == near(whole * 3 / 4 / 2 / 1e8 + HOP)
    assert link(1, 2) == near(whole / 2 / 1e9 + HOP)  # nothing crosses hosts any more


def test_more_copies_gather_more_and_change_nothing_else():
    def link(line, wanted, devices=2):
        copies = schedule.Copies(devices=devices, made=2, wanted=wanted)
        return schedule.Program(program(line)).on(CHIP, copies=copies).link

    whole = "  %h = f32[2000,1000]{1,0} all-gather(%p), replica_groups=[1,4]<=[4], dimensions={0}"
    assert link(whole, 8) == near(8e6 / 4 * 15 / 1e9 + HOP)  # each of 16 has its own part
    own = whole.replace("[1,4]<=[4]", "[2,2]<=[4]")
    assert link(own, 8) == link(own, 1) == near(4e6 / 1e9 + HOP)  # within a copy
    across = own.replace("[2,2]<=[4]", "[2,2]<=[2,2]T(1,0)")
    assert link(across, 1) == 0  # one copy has nobody to send to
    hand = "  %h = f32[500,1000]{1,0} collective-permute(%p), source_target_pairs={{0,2},{2,0}}"
    assert link(hand, 8) == link(hand, 2)


def test_a_loop_counts_as_often_as_it_runs():
    body = """
%turn (s: (s32[], bf16[1000,1000])) -> (s32[], bf16[1000,1000]) {
  %s = (s32[], bf16[1000,1000]) parameter(0)
  %x = bf16[1000,1000]{1,0} get-tuple-element(%s), index=1
  %w = bf16[1000,1000]{1,0} get-tuple-element(%s), index=1
  %p = f32[500,1000]{1,0} get-tuple-element(%s), index=1
BODY
}
%more (s: (s32[], bf16[1000,1000])) -> pred[] {
  %s = (s32[], bf16[1000,1000]) parameter(0)
}
"""
    loop = (
        "  %l = (s32[], bf16[1000,1000]) while(%t), condition=%more, body=%turn, "
        'backend_config={"known_trip_count":{"n":"7"}}'
    )
    lines = "\n".join((START, DOT.format("a"), DONE))
    found, one = of(loop, more=body.replace("BODY", lines)), of(START, DOT.format("a"), DONE)
    for name in ("seconds", "memory", "link", "flops", "waited"):
        assert getattr(found, name) == near(7 * getattr(one, name))
    # Begun in one turn and waited for in the next, with the product of the turn beside it.
    lines = "\n".join((DONE.replace("%g", "%s"), START, DOT.format("a")))
    pipelined = of(loop, more=body.replace("BODY", lines))
    assert pipelined.link == near(7 * one.link) and pipelined.hidden > 0.9
    assert pipelined.seconds == near(found.seconds)
    lines = "\n".join((START, DONE.replace("%g", "%s"), DOT.format("a")))
    assert of(loop, more=body.replace("BODY", lines)).hidden == 0


@pytest.mark.parametrize(("step", "turns"), [(1, 8), (2, 4), (3, 3)])
def test_a_loop_whose_turns_were_joined_runs_less_often(step, turns):
    """libtpu joins two turns of a windowed product: its counter goes on by two."""
    more = f"""
%turn (s: (s32[], bf16[1000,1000])) -> (s32[], bf16[1000,1000]) {{
  %s = (s32[], bf16[1000,1000]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %by = s32[] constant({step})
  %next = s32[] add(%i, %by)
  %x = bf16[1000,1000]{{1,0}} get-tuple-element(%s), index=1
  %y = bf16[1000,1000]{{1,0}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  ROOT %o = (s32[], bf16[1000,1000]) tuple(%next, %y)
}}
%more (s: (s32[], bf16[1000,1000])) -> pred[] {{
  %s = (s32[], bf16[1000,1000]) parameter(0)
  %all = s32[] constant(8)
  %at = s32[] get-tuple-element(%s), index=0
  ROOT %less = pred[] compare(%at, %all), direction=LT
}}
"""
    loop = "  %l = (s32[], bf16[1000,1000]) while(%t), condition=%more, body=%turn"
    assert of(loop, more=more).flops == turns * 2e9


def test_of_branches_the_longest_counts():
    more = """
%none (x: bf16[1000,1000]) -> bf16[1000,1000] {
  %x = bf16[1000,1000]{1,0} parameter(0)
}
%some (x: bf16[1000,1000]) -> bf16[1000,1000] {
  %x = bf16[1000,1000]{1,0} parameter(0)
  ROOT %y = bf16[1000,1000]{1,0} add(%x, %x)
}
"""
    choice = "  %c = bf16[1000,1000]{1,0} conditional(%i, %x, %x), branch_computations={BRANCHES}"
    longest = of("  %y = bf16[1000,1000]{1,0} add(%x, %x)").seconds
    for names in ("%none, %some", "%some, %none"):
        found = of(choice.replace("BRANCHES", names), more=more)
        assert found.seconds == near(longest)


def test_a_fusion_reads_the_slices_that_it_takes():
    """A block's weights of a stack, and one row of a buffer written in place."""
    more = """
%part (s: f32[50,1000,1000], i: s32[]) -> f32[1000,1000] {
  %s = f32[50,1000,1000]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[50,1000,1000]{2,1,0} bitcast(%s)
  ROOT %d = f32[1,1000,1000]{2,1,0} dynamic-slice(%b, %i), dynamic_slice_sizes={1,1000,1000}
}
%put (s: f32[50,1000,1000], r: f32[1,1000,1000]) -> f32[50,1000,1000] {
  %s = f32[50,1000,1000]{2,1,0} parameter(0)
  %r = f32[1,1000,1000]{2,1,0} parameter(1)
  ROOT %u = f32[50,1000,1000]{2,1,0} dynamic-update-slice(%s, %r), may_alias={}
}
"""
    stack = "  %s = f32[50,1000,1000]{2,1,0} parameter(3)\n  %i = s32[] parameter(4)\n"
    taken = of(stack + "  %d = f32[1,1000,1000]{2,1,0} fusion(%s, %i), calls=%part", more=more)
    assert taken.seconds == near(2 * 4e6 / 1e9 + 4 / 1e9 + LAUNCH)
    row = "  %r = f32[1,1000,1000]{2,1,0} parameter(5)\n"
    put = of(stack + row + "  %u = f32[50,1000,1000]{2,1,0} fusion(%s, %r), calls=%put", more=more)
    assert put.seconds == near(2 * 4e6 / 1e9 + LAUNCH)


KERNELS = {
    "cudnn": (
        '(bf16[2,64,8,32]{3,1,2,0}, f32[2,8,64]) custom-call(%q, %k, %k), custom_call_target="'
        '__cudnn$fmhaSoftmax", backend_config={"intermediate_tensor_shape": {"element_type": '
        '"BF16", "dimensions": ["2", "8", "64", "16"]}}',
        4 * 2 * 8 * 64 * 16 * 32,
    ),
    "cudnn_back": (
        'bf16[2,64,8,32]{3,1,2,0} custom-call(%q, %k, %k), custom_call_target="'
        '__cudnn$fmhaSoftmaxBackward", backend_config={"intermediate_tensor_shape": '
        '{"element_type": "BF16", "dimensions": ["2", "8", "64", "16"]}}',
        10 * 2 * 8 * 64 * 16 * 32,
    ),
    "splash": (
        'bf16[8,64,32]{2,1,0} custom-call(%n, %a, %b, %b), custom_call_target="tpu_custom_call", '
        'metadata={op_name="jit(f)/splash_mha_fwd"}',
        4 * 8 * 64 * 16 * 32,
    ),
    "cublas": (
        'bf16[64,16]{1,0} custom-call(%c, %e), custom_call_target="__cublas$gemm"',
        2 * 64 * 32 * 16,
    ),
    "convolution": (
        'f32[1,6,6,16]{3,2,1,0} custom-call(%im, %ke), custom_call_target="__cudnn$convForward", '
        "dim_labels=b01f_01io->b01f",
        2 * 6 * 6 * 16 * 9 * 4,
    ),
    "unknown": ('f32[4]{0} custom-call(%c), custom_call_target="sort"', 0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_count_by_their_operands(name):
    call, flops = KERNELS[name]
    shapes = {"q": "bf16[2,64,8,32]", "k": "bf16[2,16,8,32]", "n": "s32[3]", "a": "bf16[8,64,32]",
              "b": "bf16[8,16,32]", "c": "bf16[64,32]", "e": "bf16[32,16]", "im": "f32[1,8,8,4]",
              "ke": "f32[3,3,4,16]"}  # fmt: skip
    given = [
        f"  %{key} = {kind} parameter({i + 3})" for i, (key, kind) in enumerate(shapes.items())
    ]
    found = of(*given, f"  %z = {call}")
    assert found.flops == near(flops) if flops else found.flops == 0


def test_figures_that_programs_reach():
    chip = pods.reached(pods.CHIPS["h100"])
    assert chip.flops == pytest.approx(0.65 * 989e12) and chip.hbm == pods.CHIPS["h100"].hbm
    assert chip.float32 == pytest.approx(chip.flops / 2)


def test_splash_is_known_by_its_name_and_counts_behind_its_tables():
    """Its metadata stand on other lines, and tables of tiles come before the queries."""
    given = (
        "  %t = s8[1,107,9]{2,1,0} parameter(3)",
        "  %q = bf16[2,8,64,32]{3,2,1,0} parameter(4)",
        "  %k = bf16[2,8,16,32]{3,2,1,0} parameter(5)",
    )
    for way, each in (("fwd", 4), ("dkv", 10)):
        call = (
            f"  %splash_mha_{way}_segmented.3 = bf16[2,8,64,32]{{3,2,1,0}} custom-call(%t, %t, %q, "
            '%k, %k), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={'
        )
        assert of(*given, call).flops == each * 2 * 8 * 64 * 16 * 32
