"""Figures of a report as SVG: R@1 against hours, training curves, shares of time and of work."""
