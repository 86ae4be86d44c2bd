"""The only place that knows which accelerator, backend or clock a run uses."""
