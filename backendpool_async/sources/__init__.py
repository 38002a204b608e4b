"""The sources of our own, one small file each."""
