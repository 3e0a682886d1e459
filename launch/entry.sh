#!/usr/bin/env bash
# One process of a run: `python -m syncmv4d_jax.main`, from the repository, with its environment if
# it has one. All launchers end here.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
exec "$PYTHON" -m syncmv4d_jax.main "$@"
