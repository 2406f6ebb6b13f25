"""``python -m api.cli``: the same as ``data-engine``."""

from api.cli import main

main()
