"""A GitOps poller and reconciler daemon for everything that is not a Kubernetes object."""

__version__ = "0.1.0"
