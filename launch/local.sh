#!/usr/bin/env bash
# N processes on this host, joined by COORD, NPROC, PID.
#
#   launch/local.sh 2 --config=configs/taco.py:debug --workdir=out/debug
#
# On a CPU, DEVICES=4 gives each process four devices. On GPUs each process takes its own: process i
# of n sees the i-th share of GPUS (default: those nvidia-smi lists). TERM is passed on; when one
# process dies the others get GRACE (40) seconds to say which and to stop. Exit status over 128: saved
# on TERM, or a process was killed; run again to go on.
set -euo pipefail
here=$(dirname "$0")
if ! [[ "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh N --config=... --workdir=..., got '${1:-}' for N" >&2
  exit 2
fi
n=$1
shift
port=${PORT:-$((20000 + RANDOM % 20000))}
if [ -n "${DEVICES:-}" ]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi
gpus=()
if [ -z "${DEVICES:-}" ] && [ "$n" -gt 1 ] && command -v nvidia-smi >/dev/null; then
  IFS=, read -ra gpus <<<"${GPUS:-$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -sd,)}"
  if [ $((${#gpus[@]} % n)) -ne 0 ]; then
    echo "local.sh: ${#gpus[@]} GPUs do not divide over $n processes" >&2
    exit 2
  fi
fi

pids=()
for ((i = 0; i < n; i++)); do
  (
    share=$((${#gpus[@]} / n))
    if [ "$share" -gt 0 ]; then
      CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${gpus[*]:i*share:share}")
      export CUDA_VISIBLE_DEVICES
    fi
    if [ "$n" -gt 1 ]; then export COORD=127.0.0.1:$port NPROC=$n PID=$i; fi
    exec "$here/entry.sh" "$@"
  ) &
  pids+=($!)
done
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT

status=0
for _ in "${pids[@]}"; do
  code=0
  wait -n || code=$?
  while [ "$code" -gt 128 ] && [ "$code" -ne 143 ] && kill -0 "${pids[@]}" 2>/dev/null; do
    code=0
    wait -n || code=$? # the trap woke us, no process ended
  done
  if [ "$code" -ne 0 ] && [ "$status" -eq 0 ]; then
    status=$code
    if [ "$code" -ne 143 ]; then
      echo "local.sh: a process ended with status $code, stopping the others" >&2
      end=$((SECONDS + ${GRACE:-40})) # they notice by themselves, and say which process it was
      while kill -0 "${pids[@]}" 2>/dev/null && [ "$SECONDS" -lt "$end" ]; do sleep 0.2; done
      kill -KILL "${pids[@]}" 2>/dev/null || true
    fi
  fi
done
exit "$status"
