"""No property has a deadline: on a busy machine an example of a millisecond takes half a second now and then."""

from __future__ import annotations

from hypothesis import settings

if settings().deadline is not None:  # tests.mutation has a profile of its own
    settings.register_profile("no deadline", deadline=None)
    settings.load_profile("no deadline")
