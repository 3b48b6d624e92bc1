"""Listeners: they hear what happened, as frozen events, and tell it on: logs, metrics.

The only importer of prometheus_client. What may not be in here: decisions, and anything that fails a deploy.
"""
