#!/usr/bin/env bash
# Installs what some tests need and pip cannot give: Chromium, pdftotext, LaTeX with booktabs, axe-core. Run it as `make test-tools`.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v chromium chromium-browser google-chrome >/dev/null || packages+=(chromium)
command -v pdftotext >/dev/null || packages+=(poppler-utils)
command -v npm >/dev/null || packages+=(npm)
command -v pdflatex >/dev/null || packages+=(texlive-latex-base)
kpsewhich booktabs.sty >/dev/null 2>&1 || packages+=(texlive-latex-recommended)

if ((${#packages[@]})); then
  if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "missing: ${packages[*]} (names of Debian's packages); install them, as root with: apt-get install ${packages[*]}" >&2
    exit 2
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${packages[@]}"
fi

if ! cmp -s tests/browser/package-lock.json tests/browser/node_modules/.installed; then
  npm ci --prefix tests/browser --loglevel error
  cp tests/browser/package-lock.json tests/browser/node_modules/.installed
fi
