"""Distillation: a small network learns from a large one."""

from laconic.distill.born_again import BornAgain
from laconic.distill.exits import Exits
from laconic.distill.feature import Feature
from laconic.distill.mutual import Mutual
from laconic.distill.relation import Relation
from laconic.distill.response import Response
from laconic.distill.student import Student

__all__ = ["BornAgain", "Exits", "Feature", "Mutual", "Relation", "Response", "Student"]
