"""`python -m xtr.data.cache_writer REQUEST.json RESPONSE.json`: see the package."""

import sys

from xtr.data.cache_writer import main

if __name__ == "__main__":  # its worker processes import this file too
    sys.exit(main(sys.argv[1:]))
