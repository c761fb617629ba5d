"""Agents that are compiled with cargo, or come in an archive; the probe and plain files are rootfs.agent's."""
