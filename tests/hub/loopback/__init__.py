"""A Hugging Face Hub on 127.0.0.1 that the unmodified client uploads to and downloads from, over LFS and over Xet."""

from .client import point_client_at
from .server import LoopbackHub

__all__ = ["LoopbackHub", "point_client_at"]
