"""Estimators with deep networks, which hold a skorch net."""
