"""osbuilder builds what a lightweight VM boots: a guest kernel, and a guest image or initrd with the agent baked in."""

__version__ = "0.1.0"
