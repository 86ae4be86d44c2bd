"""What FLOPs cost in GPU hours, days and money."""

from dataclasses import dataclass

HOUR_S = 3600.0
DAY_S = 86_400.0


@dataclass(frozen=True)
class Machine:
    """The GPUs of a job."""

    name: str
    peak: float
    """FLOP/s of one, dense bf16."""
    mfu: float
    """Part of the peak that arrives in the model's FLOPs."""
    gpus: int | None = None
    price: float | None = None
    """Of one GPU for an hour."""

    def flops(self, days: float) -> float:
        """What all of them do in ``days``."""
        return self.peak * self.mfu * (self.gpus or 1) * days * DAY_S

    def hours(self, flops: float) -> float:
        """GPU hours of a run."""
        return flops / (self.peak * self.mfu * HOUR_S)

    def days(self, flops: float) -> float | None:
        """Days of a run on all of them; None where their number is not known."""
        return self.hours(flops) / 24.0 / self.gpus if self.gpus else None

    def cost(self, flops: float) -> float | None:
        """In the unit of ``price``; None where there is none."""
        return self.hours(flops) * self.price if self.price is not None else None
