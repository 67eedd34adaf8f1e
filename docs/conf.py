"""Sphinx configuration of the manual."""

from __future__ import annotations

from suanchou import __version__

project = "suanchou 算筹"
author = "suanchou contributors"
copyright = "suanchou contributors"
version = release = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
nitpicky = True
