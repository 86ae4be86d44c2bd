"""Modality experts: image tokens take weights of their own, chosen by index plans made with the batch."""
