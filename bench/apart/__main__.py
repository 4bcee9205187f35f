"""`python -m bench.apart`: this alone; `python -m bench` has it as its second table."""

import sys

from bench.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--only", "apart", *sys.argv[1:]]))
