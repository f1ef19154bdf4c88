"""All cases."""

from __future__ import annotations

from operation_cases.composed import CALLS, COMPOSITES
from operation_cases.curved import CURVED
from operation_cases.fixed import FIXED
from operation_cases.linear import LINEAR
from operation_cases.recurrent import RECURRENT

CASES = LINEAR | FIXED | CURVED | RECURRENT | CALLS | COMPOSITES
