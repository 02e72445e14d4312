"""``python -m fastvae``: the command line."""

from fastvae.cli import main

if __name__ == "__main__":
    main()
