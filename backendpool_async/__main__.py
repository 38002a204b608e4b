"""``python -m backendpool_async``: the command line."""

from backendpool_async.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
