"""Configuration: YAML with places, the deployments of a config commit, the daemon's settings.

Pure: bytes and mappings in, frozen values or problems out. What may not be in here: reading a file, an
environment or a clock; git; the store.
"""
