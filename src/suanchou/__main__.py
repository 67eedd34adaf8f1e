"""``python -m suanchou``."""

from suanchou.cli.main import main

main()
