"""Tables as Markdown, LaTeX, CSV, JSON and text."""
