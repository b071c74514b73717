"""Weights are quantized once: rounding what is rounded already would lose what the first rounding was chosen for."""

from collections.abc import Iterable

from laconic.errors import NotApplicableError
from laconic.program.forms import quantizer_of
from laconic.program.program import Program
from laconic.program.represent import representations
from laconic.program.select import Weight


def check_unquantized(program: Program, chosen: Iterable[Weight]) -> None:
    """Find weights that have a quantizer.

    Raises:
        NotApplicableError: names them.
    """
    forms = {weight.name: quantizer_of(representations(program, weight.name)) for weight in chosen}
    already = [f"{name} ({form.name})" for name, form in forms.items() if form is not None]
    if already:
        raise NotApplicableError(f"quantized already: {', '.join(already)}; leave these layers out, or start from the float network")
