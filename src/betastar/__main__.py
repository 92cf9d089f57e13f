"""`python -m betastar` is `betastar`."""

from betastar.cli import main

main()
