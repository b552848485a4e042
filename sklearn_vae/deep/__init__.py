"""Estimators with deep networks, trained with skorch."""
