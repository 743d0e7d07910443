#!/usr/bin/env bash
# Times every row of Tables 4 to 8 and 11 at the paper's scale on this machine's GPU. Installs nothing: the Python that
# PYTHON names (default: python3) must have torch, timm, transformers, einops, jaxtyping and numpy.
#   tests/benchmarks/gpu.sh [--rows 4 6:8→4] [--repeats 9] [--batch 128]
# Writes step.json to the folder OUT (default: here).
set -euo pipefail
out=$(realpath "${OUT:-.}")
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" -m tests.benchmarks.step --scale paper --device cuda --out "$out/step.json" "$@"
