"""Estimators with linear decoders."""
