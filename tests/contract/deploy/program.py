"""What a deployment has to agree with, as the program itself has it."""

from __future__ import annotations

from hx_gateway.accounting import DRAIN_SECONDS
from hx_gateway.cli.server import LAST_SECONDS
from hx_gateway.recording import STOP_SECONDS as RECORD_SECONDS
from hx_gateway.services.embedded.process import STOP_SECONDS
from hx_gateway.settings import OTHER_VARIABLES, Settings, variables_of

VARIABLES = {variable for name in Settings.model_fields for variable in variables_of(name)} | OTHER_VARIABLES
# Requests drain, what is left is told to end, what waits is stored, and an embedded store stops.
LONGEST_STOP_SECONDS = Settings().drain_seconds + LAST_SECONDS + DRAIN_SECONDS + RECORD_SECONDS + STOP_SECONDS
