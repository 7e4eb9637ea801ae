"""`python -m multimix` is the `multimix` command."""
from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
