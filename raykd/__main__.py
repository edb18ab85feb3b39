"""``python -m raykd`` is the ``raykd`` command."""

from raykd.surroundings import leave_working_directory, put_library_first

if __name__ == "__main__":
    leave_working_directory()
    put_library_first()
    from raykd.cli import main

    main()
