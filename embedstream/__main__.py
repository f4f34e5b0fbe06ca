"""`python -m embedstream` is the same as `embedstream`."""

from __future__ import annotations

from embedstream.cli import main

if __name__ == "__main__":
    main()
