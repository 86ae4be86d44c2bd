"""How many rows a dispatch can need, known without looking at the choices, so the host never waits for the device."""


def planned_rows(choices: int, num_experts: int, align: int = 1) -> int:
    """The most rows ``choices`` (tokens times top-k) take over ``num_experts`` segments rounded up to ``align`` each.

    At most ``align - 1`` rows of padding follow each expert that has a choice at all, and the sum is a multiple of
    ``align``. Raises ValueError for a negative count or an align below 1.
    """
    if choices < 0 or num_experts < 0 or align < 1:
        raise ValueError(
            f"choices {choices}, num_experts {num_experts}, align {align}: give counts from 0 and an align from 1"
        )
    return (choices + min(choices, num_experts) * (align - 1)) // align * align
