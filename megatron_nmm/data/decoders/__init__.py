"""Encoded image bytes to RGB pixels: several decoders behind one protocol, one definition of "RGB" for all."""
