"""Choosing one backend of a live list, and knowing which ones deserve requests."""
