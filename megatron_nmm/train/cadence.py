"""When something that recurs during a run is due."""


def due(every: int, step: int, last: int) -> bool:
    """Whether what is done every ``every`` steps (0 = never in between) and after the ``last`` one is due now."""
    return step == last or (every > 0 and step % every == 0)
