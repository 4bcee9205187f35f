"""portlayer: the layer under a container engine. See README.md and ARCHITECTURE.md."""

__version__ = "0.1.0"
