"""LaTeX made into PDF by the real pdflatex."""

import shutil
import subprocess
from pathlib import Path

import pytest


def compiled(document: str, folder: Path) -> Path:
    """The PDF of a whole LaTeX document; fails with the log's end. Skips the test where there is no pdflatex.

    Args:
        document: from `\\documentclass` to `\\end{document}`; booktabs is there.
        folder: an empty one, to work in.
    """
    for program, arguments in (("pdflatex", ["--version"]), ("kpsewhich", ["booktabs.sty"])):
        if shutil.which(program) is None or subprocess.run([program, *arguments], capture_output=True).returncode:
            pytest.skip("pdflatex with booktabs is not installed: make test-tools")
    (folder / "document.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "document.tex"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert ran.returncode == 0, ran.stdout[-2000:]
    return folder / "document.pdf"
