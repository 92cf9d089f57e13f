"""betastar: does conservative offline preference training make online reward hacking worse? Measure it."""

__version__ = "0.1.0"
