"""The helper that compiles LaTeX."""

import pytest

from tests.latex import compiled

TABLE = r"""\documentclass{article}\usepackage{booktabs}\begin{document}
\begin{tabular}{lr}\toprule Row & R@1 \\ \midrule 50\% & 39.3 \\ \bottomrule\end{tabular}
\end{document}"""


def test_a_table_becomes_a_pdf(tmp_path):
    assert compiled(TABLE, tmp_path).read_bytes().startswith(b"%PDF-")


def test_what_latex_refuses_fails_with_its_words(tmp_path):
    compiled(TABLE, tmp_path)  # or skips
    with pytest.raises(AssertionError, match="Undefined control sequence"):
        compiled(TABLE.replace(r"\toprule", r"\topprule"), tmp_path)
