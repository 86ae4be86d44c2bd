"""Pictures of a scaling study, one a file; each draws into a matplotlib figure that ``style.save`` writes."""
