"""``python -m raykd`` is the ``raykd`` command."""

from raykd.surroundings import put_library_first

if __name__ == "__main__":
    put_library_first()  # Python has put the working directory there, whose files may be called like the library's
    from raykd.cli import main

    main()
