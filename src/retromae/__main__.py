"""`python -m retromae`, which torchrun needs."""

from retromae.cli import main

if __name__ == "__main__":
    main()
