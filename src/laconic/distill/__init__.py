"""Distillation: a small network learns from a large one."""

from laconic.distill.response import Response

__all__ = ["Response"]
