"""A process that writes numbered events and says of each, on its standard output, when the call has returned.

``python -m tests.faults.record_writer URL ROOT FIRST``. Each line is the last number of those that are kept, and how
many duplicates the process has met.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.faults.record import make_layer


async def run(url: str, root: Path, number: int) -> None:
    layer = make_layer(url, root)
    await layer.initialize()
    counts = layer.journal.counts.of("trace_events")
    while True:
        if number % 7:
            await layer.write_trace_event("trace", "numbered", task_id=str(number))
            number += 1
        else:
            events = [{"trace_id": "t", "event_type": "e", "task_id": str(number + more)} for more in range(20)]
            accepted = await layer.write_many("trace_events", events)
            assert all(one.error is None for one in accepted)
            number += 20
        os.write(1, b"%d %d\n" % (number - 1, counts.duplicate))
        if number % 10 == 0:
            await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
