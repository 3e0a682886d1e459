"""Compiles as programs outside of tests are compiled, where a test wants equality to the bit.

conftest.py switches XLA's emitters of fused loops off, for half of the time of
compilation. With the older ones the same sum may be rounded otherwise in two programs.
"""

import functools

import jax

jit = functools.partial(jax.jit, compiler_options={"xla_cpu_use_fusion_emitters": True})
