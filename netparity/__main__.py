"""``python -m netparity``: `check` compares two networks, `weights` two checkpoints."""

from __future__ import annotations

import sys

from netparity.command import frame, main

if __name__ == "__main__":
    frame.open_closed_streams()
    frame.end_at_signals()
    sys.exit(main.main())
