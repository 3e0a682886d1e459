#!/usr/bin/env bash
# A TPU slice by queued resources: ask for it, start the run on all hosts, look, give it back.
#
#   export TPU_PROJECT=... TPU_ZONE=us-east5-a TPU_NAME=syncmv4d TPU_REPOSITORY=https://...
#   launch/tpu.sh create v5p-32 [--spot]
#   launch/tpu.sh run --config=configs/taco.py --workdir=/mnt/shared/run
#   launch/tpu.sh status | logs | delete
#
# `run` may be called again at any time: it resumes from the latest checkpoint.
set -euo pipefail
: "${TPU_PROJECT:?set TPU_PROJECT}" "${TPU_ZONE:?set TPU_ZONE}" "${TPU_NAME:=syncmv4d}"
where=(--project="$TPU_PROJECT" --zone="$TPU_ZONE")

runtime() {
  case $1 in
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *)
      echo "tpu.sh: wanted a type v5p-N, v5litepod-N or v6e-N, got '$1'" >&2
      exit 2
      ;;
  esac
}

everywhere() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all --command="$1"
}

command=${1:-}
shift || true
case $command in
  create)
    type=${1:?a type, e.g. v5p-32}
    shift
    version=$(runtime "$type")
    gcloud compute tpus queued-resources create "$TPU_NAME" "${where[@]}" --node-id="$TPU_NAME" \
      --accelerator-type="$type" --runtime-version="$version" "$@"
    ;;
  run)
    : "${TPU_REPOSITORY:?set TPU_REPOSITORY to what git clone takes}"
    arguments=$(printf ' %q' "$@")
    everywhere "set -e; test -d syncmv4d || git clone $TPU_REPOSITORY syncmv4d; cd syncmv4d; git pull -q; \
test -x .venv/bin/python || python3 -m venv .venv; .venv/bin/pip install -q -e '.[tpu]'; \
nohup sh -c 'until launch/entry.sh$arguments; do [ \$? -eq 143 ] || exit; done' >run.log 2>&1 &"
    ;;
  status) gcloud compute tpus queued-resources describe "$TPU_NAME" "${where[@]}" ;;
  logs) everywhere "tail -n 40 syncmv4d/run.log" ;;
  delete) gcloud compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force --quiet ;;
  *)
    echo "usage: launch/tpu.sh create TYPE | run ARGUMENTS | status | logs | delete" >&2
    exit 2
    ;;
esac
