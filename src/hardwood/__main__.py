"""``python -m hardwood`` is the ``hardwood`` command."""

from hardwood.cli import main

if __name__ == "__main__":
    main()
