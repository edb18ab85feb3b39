"""``python -m raykd`` is the ``raykd`` command."""

from raykd.cli import main

if __name__ == "__main__":
    main()
