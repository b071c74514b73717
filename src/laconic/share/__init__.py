"""Weight sharing: few different values, each held once."""

from laconic.share.kmeans import KMeans

__all__ = ["KMeans"]
